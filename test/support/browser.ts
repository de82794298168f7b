import { accessSync, constants } from 'node:fs'
import { chromium, type Browser } from 'playwright-core'
import type { Test } from 'tap'

const CANDIDATES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** The path of Chromium; `undefined` if it is not installed. */
export const chromiumPath: string | undefined = CANDIDATES.find(path => {
  try {
    accessSync(path ?? '', constants.X_OK)
    return path !== undefined
  } catch {
    return false
  }
})

/** Options of a test that needs Chromium. Without Chromium the test is skipped, or fails in CI. */
export const needsChromium: { skip?: string } = chromiumPath === undefined && process.env.CI !== 'true'
  ? { skip: 'Chromium is not installed; set CHROMIUM to its path' }
  : {}

/** Starts Chromium, also as root. It is closed when the test ends. */
export async function launchChromium (t: Test): Promise<Browser> {
  if (chromiumPath === undefined) throw new Error('Chromium is not installed, which is an error in CI; set CHROMIUM to its path')
  const browser = await chromium.launch({
    executablePath: chromiumPath,
    // Users have the back/forward cache, so the tests keep it.
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
  })
  t.teardown(() => browser.close())
  return browser
}
