import { accessSync, constants } from 'node:fs'
import type { Browser, BrowserContext, BrowserContextOptions } from 'playwright-core'
import root, { type Test } from 'tap'

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

// Chromium renders the list of suggestions of its address bar in a page of its own, which takes more CPU time than the page of a test.
// Only the last of these options applies, so it repeats the features that Playwright disables.
const DISABLED_FEATURES = [
  'WebUIOmniboxPopup', 'WebUIOmniboxAimPopup', 'WebUIOmniboxFullPopup',
  'AvoidUnnecessaryBeforeUnloadCheckSync', 'DestroyProfileOnBrowserClose', 'HttpsUpgrades', 'HttpsFirstBalancedModeAutoEnable', 'LensOverlay', 'MediaRouter',
  'PaintHolding', 'ThirdPartyStoragePartitioning', 'AvoidCorsURLLoaderRestartOnRedirect', 'TcpPortRandomizationWin', 'OptimizationHints',
  'NetworkTimeServiceQuerying', 'AimEnabled', 'PreconnectToSearch'
]

// One browser for all tests of a file, because its start takes seconds of CPU time.
let browser: Promise<Browser> | undefined

/** Starts Chromium, also as root. */
async function launch (): Promise<Browser> {
  if (chromiumPath === undefined) throw new Error('Chromium is not installed, which is an error in CI; set CHROMIUM to its path')
  // Loaded only here, because it takes a second of CPU time, and many files that import this one use no browser.
  const { chromium } = await import('playwright-core')
  const browser = await chromium.launch({
    executablePath: chromiumPath,
    // Users have the back/forward cache, so the tests keep it.
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', `--disable-features=${DISABLED_FEATURES.join()}`]
  })
  root.teardown(() => browser.close())
  return browser
}

/** Opens a context of Chromium, which shares no cookies, cache or connections with others. It is closed when the test ends. */
export async function openContext (t: Test, options: BrowserContextOptions = {}): Promise<BrowserContext> {
  browser ??= launch()
  const context = await (await browser).newContext(options)
  t.teardown(() => context.close())
  return context
}
