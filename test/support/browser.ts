import { accessSync, constants } from 'node:fs'
import { chromium, type Browser } from 'playwright-core'
import type { Test } from 'tap'

const CANDIDATES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** Where Chromium is; `undefined` where it is not installed. */
export const chromiumPath: string | undefined = CANDIDATES.find(path => {
  try {
    accessSync(path ?? '', constants.X_OK)
    return path !== undefined
  } catch {
    return false
  }
})

/** Options of a test that needs Chromium: skips it, in one line that says so, where there is none; in CI it fails then. */
export const needsChromium: { skip?: string } = chromiumPath === undefined && process.env.CI !== 'true'
  ? { skip: 'Chromium is not installed; set CHROMIUM to its path' }
  : {}

/** Starts Chromium, as root too; it is closed when the test ends. */
export async function launchChromium (t: Test): Promise<Browser> {
  if (chromiumPath === undefined) throw new Error('Chromium is not installed; in CI that is a failure')
  const browser = await chromium.launch({
    executablePath: chromiumPath,
    // As for users, pages that are left are kept for their return.
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
  })
  t.teardown(() => browser.close())
  return browser
}
