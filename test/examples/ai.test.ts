import t, { type Test } from 'tap'
import type { BrowserContext, Page } from 'playwright-core'
import { createTokens } from '../../example/ai/model.js'
import { needsChromium, openContext } from '../support/browser.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { saveScreenshots, startExamples } from './support/examples.js'

// The answer repeats its question. A long question makes it last long enough to be interrupted on a slow machine.
const QUESTION = Array<string>(100).fill('Who?').join(' ')
const ANSWER = createTokens(QUESTION).join('')

async function openPage (t: Test, context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage()
  page.on('pageerror', error => { t.fail(String(error)) })
  await page.goto(url)
  return page
}

async function ask (page: Page, question: string): Promise<void> {
  await page.locator('#ask').waitFor()
  await page.getByPlaceholder('Ask a question').fill(question)
  await page.keyboard.press('Enter')
}

/** Waits until the last answer has at least so many characters, and returns its text. */
async function waitForAnswer (page: Page, characters: number): Promise<string> {
  await page.waitForFunction(`Array.from(document.querySelectorAll('.answer')).at(-1)?.textContent.length >= ${characters}`)
  return await page.locator('.answer').last().textContent() ?? ''
}

async function waitForState (page: Page, state: string): Promise<void> {
  await page.locator('#state').getByText(state, { exact: true }).waitFor()
}

t.test('with useChat, an answer continues after a reload and a network failure, and a second tab shows the same answer', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await startFaultProxy(t, port)
  const context = await openContext(t)
  const page = await openPage(t, context, `${network.url}/ai`)
  await ask(page, QUESTION)
  const early = await waitForAnswer(page, 20)
  await page.reload()
  const later = await waitForAnswer(page, early.length)
  t.ok(later.startsWith(early))
  t.equal(await page.locator('.streaming').count(), 1, 'the answer has not ended')
  await saveScreenshots(page, 'ai')
  const tab = await openPage(t, context, page.url())
  await waitForAnswer(tab, 20)
  network.setDown(true)
  network.setDown(false)
  for (const page of context.pages()) {
    await waitForAnswer(page, ANSWER.length)
    await waitForState(page, 'ready')
    t.equal(await page.locator('.answer').textContent(), ANSWER, 'no token is missing or repeated')
    t.strictSame(await page.locator('.up').allTextContents(), [QUESTION])
  }
  await page.reload()
  t.equal(await waitForAnswer(page, ANSWER.length), ANSWER, 'the server has stored the answer')
})

t.test('with useChat, an answer is stopped from another tab, and the next question continues the chat', needsChromium, async t => {
  const { url } = await startExamples(t)
  const context = await openContext(t)
  const page = await openPage(t, context, `${url}/ai`)
  await ask(page, QUESTION)
  await waitForAnswer(page, 20)
  const tab = await openPage(t, context, page.url())
  await waitForAnswer(tab, 20)
  await tab.getByRole('button', { name: 'Stop' }).click()
  for (const page of context.pages()) await waitForState(page, 'ready')
  const stopped = await waitForAnswer(page, 20)
  t.not(stopped, ANSWER)
  t.equal(await waitForAnswer(tab, 20), stopped)
  await page.reload()
  t.equal(await waitForAnswer(page, 20), stopped, 'the server has stored what was generated')
  await ask(page, 'Again?')
  await page.locator('.answer').nth(1).waitFor()
  await page.getByRole('button', { name: 'Stop' }).click()
  await waitForState(page, 'ready')
  t.strictSame(await page.locator('.up').allTextContents(), [QUESTION, 'Again?'])
  t.equal(await page.locator('.answer').first().textContent(), stopped)
})

t.test('with useChat, an answer of a server that has restarted ends with an error, and the chat can be continued', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const page = await openPage(t, await openContext(t), `${url}/ai`)
  await ask(page, QUESTION)
  const early = await waitForAnswer(page, 20)
  await server.kill()
  await startExamples(t, port)
  await waitForState(page, 'error')
  await page.getByRole('alert').waitFor()
  t.ok((await waitForAnswer(page, early.length)).startsWith(early), 'the page still shows the answer')
  await ask(page, 'Again?')
  await page.locator('.answer').nth(1).waitFor()
  t.equal(await page.getByRole('alert').count(), 0)
  t.strictSame(await page.locator('.up').allTextContents(), [QUESTION, 'Again?'])
})
