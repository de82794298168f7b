import { mkdirSync } from 'node:fs'
import type { Page } from 'playwright-core'
import type { Test } from 'tap'
import { runScript, type Child } from '../../support/child.js'

export interface Examples {
  readonly server: Child
  /** `http://127.0.0.1:<port>`, without a trailing slash. */
  readonly url: string
  readonly port: number
}

/** Starts the examples as `npm start` does. Default: on a free port. */
export async function startExamples (t: Test, port = 0): Promise<Examples> {
  const server = runScript(t, 'example/server.js', { PORT: String(port) })
  const [, url = ''] = await server.printed(/Examples: (\S+)\n/, 60_000)
  return { server, url, port: Number(new URL(url).port) }
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
