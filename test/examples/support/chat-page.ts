import type { BrowserContext, Page } from 'playwright-core'
import type { Test } from 'tap'

/** Opens the chat in a new tab and joins it under a name. */
export async function joinChat (t: Test, context: BrowserContext, url: string, name: string): Promise<Page> {
  const page = await context.newPage()
  page.on('pageerror', error => { t.fail(String(error)) })
  await page.goto(`${url}/chat`)
  await page.getByPlaceholder('Your name').fill(name)
  await page.getByRole('button', { name: 'Join' }).click()
  await page.getByText(`${name} (you)`).waitFor()
  return page
}

export async function sendMessage (page: Page, text: string): Promise<void> {
  await page.getByPlaceholder('Write a message').fill(text)
  await page.keyboard.press('Enter')
}

/** Sends a message and waits until the page shows it as sent. */
export async function sendAndWait (page: Page, text: string): Promise<void> {
  await sendMessage(page, text)
  // The page receives the message event before or after the response of the server.
  await page.locator('.up:not(.pending)').filter({ hasText: text }).waitFor()
  await page.locator('.pending').waitFor({ state: 'detached' })
}

/** Returns the texts of the messages that a page shows, in order, without names and times. */
export function shownMessages (page: Page): Promise<string[]> {
  return page.evaluate('Array.from(document.querySelectorAll("#messages li"), item => Array.from(item.childNodes).find(({ nodeType }) => nodeType === 3).data)')
}
