import { mkdirSync } from 'node:fs'
import type { Page } from 'playwright-core'
import type { Test } from 'tap'
import { runScript, type TrackedProcess } from '../../support/child-process.js'

export interface Examples {
  readonly server: TrackedProcess
  /** `http://127.0.0.1:<port>`, without a trailing slash. */
  readonly url: string
  readonly port: number
}

/** Starts the examples as `npm start` does. Default: on a free port. */
export async function startExamples (t: Test, port = 0): Promise<Examples> {
  const server = runScript(t, 'example/server.js', { PORT: String(port) })
  const [, url = ''] = await server.waitForOutput(/Examples: (\S+)\n/, 60_000)
  return { server, url, port: Number(new URL(url).port) }
}

/** Returns the links of a page that do not respond with 200. */
export async function findBrokenLinks (page: Page): Promise<string[]> {
  const urls = await page.evaluate('Array.from(document.querySelectorAll("a[href]"), ({ href }) => href)') as string[]
  const statuses = await Promise.all(urls.map(async url => (await fetch(url, { redirect: 'manual' })).status))
  return urls.filter((_url, index) => statuses[index] !== 200)
}

/** In CI, saves two screenshots of a page: one as it is, one with a phone's viewport and the dark color scheme. */
export async function saveScreenshots (page: Page, name: string): Promise<void> {
  if (process.env.CI !== 'true') return
  mkdirSync('.ci-output', { recursive: true })
  await page.screenshot({ path: `.ci-output/${name}.png` })
  const size = page.viewportSize()
  await page.emulateMedia({ colorScheme: 'dark' })
  await page.setViewportSize({ width: 390, height: 720 })
  await page.screenshot({ path: `.ci-output/${name}-dark-phone.png` })
  await page.emulateMedia({ colorScheme: null })
  if (size !== null) await page.setViewportSize(size)
}
