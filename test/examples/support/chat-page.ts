import type { BrowserContext, Page } from 'playwright-core'
import type { Test } from 'tap'
import { launchChromium } from '../../support/browser.js'

/** Of a browser of its own. */
export async function openContext (t: Test): Promise<BrowserContext> {
  return await (await launchChromium(t)).newContext()
}

/** Opens the chat in a tab of its own and enters under a name. */
export async function enter (t: Test, context: BrowserContext, url: string, name: string): Promise<Page> {
  const page = await context.newPage()
  page.on('pageerror', problem => { t.fail(String(problem)) })
  await page.goto(`${url}/chat`)
  await page.getByPlaceholder('Your name').fill(name)
  await page.getByRole('button', { name: 'Join' }).click()
  await page.getByText(`${name} (you)`).waitFor()
  return page
}

export async function say (page: Page, text: string): Promise<void> {
  await page.getByPlaceholder('Write a message').fill(text)
  await page.keyboard.press('Enter')
}

/** Says something, and waits until the page shows it as said. */
export async function tell (page: Page, text: string): Promise<void> {
  await say(page, text)
  // It may come down before the server's answer, or after it.
  await page.locator('.up:not(.pending)').filter({ hasText: text }).waitFor()
  await page.locator('.pending').waitFor({ state: 'detached' })
}

/** What a page shows of what was said, in order, without names and times. */
export function said (page: Page): Promise<string[]> {
  return page.evaluate('Array.from(document.querySelectorAll("#messages li"), item => Array.from(item.childNodes).find(({ nodeType }) => nodeType === 3).data)')
}
