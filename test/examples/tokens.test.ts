import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { answer } from '../../example/tokens/answer.js'
import { needsChromium, openContext } from '../support/browser.js'
import { saveScreenshots, startExamples } from './support/examples.js'
import { startFaultProxy } from '../support/fault-proxy.js'

// The answer repeats its question. A long question makes it last long enough to be interrupted on a slow machine.
const QUESTION = Array<string>(100).fill('Who?').join(' ')

async function openPage (t: Test, url: string): Promise<Page> {
  const page = await (await openContext(t)).newPage()
  page.on('pageerror', error => { t.fail(String(error)) })
  await page.goto(`${url}/tokens`)
  return page
}

async function ask (page: Page, question: string): Promise<void> {
  await page.locator('#ask:enabled').waitFor()
  await page.getByPlaceholder('Ask a question').fill(question)
  await page.keyboard.press('Enter')
}

/** Waits until the last answer has at least so many characters, and returns its text. */
async function waitForAnswer (page: Page, characters: number): Promise<string> {
  await page.waitForFunction(`document.querySelector('.answer:last-child')?.textContent.length >= ${characters}`)
  return await page.locator('.answer').last().textContent() ?? ''
}

/** Generates a complete answer, at the same speed as the server. */
async function generateAnswer (question: string): Promise<string> {
  let text = ''
  for await (const token of answer(question, new AbortController().signal)) text += token
  return text
}

t.test('an answer continues after a reload and after a network failure', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await startFaultProxy(t, port)
  const page = await openPage(t, network.url)
  await ask(page, QUESTION)
  const complete = generateAnswer(QUESTION)
  const early = await waitForAnswer(page, 40)
  await page.reload()
  const later = await waitForAnswer(page, early.length)
  t.ok(later.startsWith(early))
  t.equal(await page.locator('.streaming').count(), 1, 'the answer has not ended')
  await saveScreenshots(page, 'tokens')
  network.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  const last = await waitForAnswer(page, later.length)
  // By then the server has generated the complete answer, if nothing has stopped it.
  const text = await complete
  t.ok(text.startsWith(last) && last.length < text.length)
  network.setDown(false)
  await page.locator('.finished').waitFor()
  t.equal(await page.locator('.answer').textContent(), text, 'no token is missing or repeated')
  await page.reload()
  await page.locator('.finished').waitFor()
  t.equal(await page.locator('.answer').textContent(), text)
})

t.test('the stop button ends the answer, even if it is pressed while the network is down', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await startFaultProxy(t, port)
  const page = await openPage(t, network.url)
  await page.getByRole('button', { name: 'How do I stop the answer?' }).click()
  await waitForAnswer(page, 40)
  await page.getByRole('button', { name: 'Stop' }).click()
  await page.locator('.stopped').waitFor()
  const first = await waitForAnswer(page, 40)

  await ask(page, QUESTION)
  await page.locator('.streaming').waitFor()
  network.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  await page.getByRole('button', { name: 'Stop' }).click()
  network.setDown(false)
  await page.locator('.stopped').nth(1).waitFor()
  await page.reload()
  await page.locator('.stopped').nth(1).waitFor()
  t.strictSame(await page.locator('.up').allTextContents(), ['How do I stop the answer?', QUESTION])
  t.equal(await page.locator('.answer').first().textContent(), first, 'the stopped answer got no more tokens')
  t.equal(await page.locator('.streaming').count(), 0)
})

t.test('a page starts a new conversation if the server no longer has its conversation', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const page = await openPage(t, url)
  await ask(page, 'before')
  await waitForAnswer(page, 10)
  await server.kill()
  await page.locator('#state').getByText('disconnected').waitFor()
  const early = await waitForAnswer(page, 10)
  const second = await startExamples(t, port)
  const note = page.getByText('The server no longer has the conversation of this tab.')
  await note.waitFor()
  t.equal(await page.locator('.interrupted').textContent(), early, 'the page still shows the answer')
  await saveScreenshots(page, 'tokens-restarted')
  await ask(page, 'after')
  await waitForAnswer(page, 10)
  t.strictSame(await page.locator('.up').allTextContents(), ['before', 'after'])
  // The page is not open while the server restarts, so it cannot reconnect before it is loaded again.
  await page.goto('about:blank')
  await second.server.kill()
  await startExamples(t, port)
  await page.goto(`${url}/tokens`)
  await note.waitFor()
  t.equal(await page.locator('.up').count(), 0)
  await page.getByRole('button', { name: 'What is this?' }).click()
  await waitForAnswer(page, 10)
})

t.test('a page shows its conversation once if the server has closed its session but still has the conversation', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await startFaultProxy(t, port)
  const page = await openPage(t, network.url)
  // The page gets a new session, as after the resume timeout.
  await page.route('**/tokens/downward', route => {
    const { 'last-event-id': _id, ...headers } = route.request().headers()
    return route.continue({ headers })
  })
  await ask(page, 'once')
  await page.locator('.finished').waitFor()
  network.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  network.setDown(false)
  await page.locator('#ask:enabled').waitFor()
  await page.locator('#state').getByText('open').waitFor()
  await page.locator('.finished').waitFor()
  t.strictSame(await page.locator('.up').allTextContents(), ['once'])
  t.equal(await page.locator('.answer').count(), 1)
  t.equal(await page.locator('.note').count(), 0)
})
