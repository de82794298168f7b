import type { BrowserContext, Page } from 'playwright-core'
import type { Test } from 'tap'
import { answer } from '../../../example/tokens/answer.js'

/** The answer repeats its question. A long question makes it last long enough to be interrupted on a slow machine. */
export const QUESTION = Array<string>(100).fill('Who?').join(' ')

/** Opens the page in a new tab. */
export async function openTokens (t: Test, context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage()
  page.on('pageerror', error => { t.fail(String(error)) })
  await page.goto(`${url}/tokens`)
  return page
}

export async function ask (page: Page, question: string): Promise<void> {
  await page.locator('#ask:enabled').waitFor()
  await page.getByPlaceholder('Ask a question').fill(question)
  await page.keyboard.press('Enter')
}

/** Waits until the last answer has at least so many characters, and returns its text. */
export async function waitForAnswer (page: Page, characters: number): Promise<string> {
  await page.waitForFunction(`document.querySelector('.answer:last-child')?.textContent.length >= ${characters}`)
  return await page.locator('.answer').last().textContent() ?? ''
}

/** Generates a complete answer, at the same speed as the server. */
export async function generateAnswer (question: string): Promise<string> {
  let text = ''
  for await (const token of answer(question, new AbortController().signal)) text += token
  return text
}
