import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { answer } from '../../example/tokens/answer.js'
import { launchChromium, needsChromium } from '../support/browser.js'
import { keepPictures, startExamples } from './support/examples.js'
import { faultProxy } from '../support/proxy.js'

// Long, since an answer repeats its question: it grows for as long as it takes a slow machine to break it off.
const QUESTION = Array<string>(100).fill('Who?').join(' ')

async function openPage (t: Test, url: string): Promise<Page> {
  const page = await (await launchChromium(t)).newPage()
  page.on('pageerror', problem => { t.fail(String(problem)) })
  await page.goto(`${url}/tokens`)
  return page
}

async function ask (page: Page, question: string): Promise<void> {
  await page.locator('#ask:enabled').waitFor()
  await page.getByPlaceholder('Ask something').fill(question)
  await page.keyboard.press('Enter')
}

/** The last answer's text, when it has so many characters. */
async function grown (page: Page, characters: number): Promise<string> {
  await page.waitForFunction(`document.querySelector('.answer:last-child')?.textContent.length >= ${characters}`)
  return await page.locator('.answer').last().textContent() ?? ''
}

/** A whole answer, which takes as long as the one on the server. */
async function wholeAnswer (question: string): Promise<string> {
  let text = ''
  for await (const token of answer(question, new AbortController().signal)) text += token
  return text
}

t.test('an answer goes on where it was, over a reload and while the network is away', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await faultProxy(t, port)
  const page = await openPage(t, network.url)
  await ask(page, QUESTION)
  const whole = wholeAnswer(QUESTION)
  const early = await grown(page, 40)
  await page.reload()
  const later = await grown(page, early.length)
  t.ok(later.startsWith(early))
  t.equal(await page.locator('.growing').count(), 1, 'it is still growing')
  await keepPictures(page, 'tokens')
  network.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  const last = await grown(page, later.length)
  // By then it has grown to its end, if nothing has stopped it.
  const text = await whole
  t.ok(text.startsWith(last) && last.length < text.length)
  network.setDown(false)
  await page.locator('.finished').waitFor()
  t.equal(await page.locator('.answer').textContent(), text, 'nothing is lost, and nothing came twice')
  await page.reload()
  await page.locator('.finished').waitFor()
  t.equal(await page.locator('.answer').textContent(), text)
})

t.test('the stop button ends the answer, also when it is pressed while the network is away', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await faultProxy(t, port)
  const page = await openPage(t, network.url)
  await page.getByRole('button', { name: 'How do I stop you?' }).click()
  await grown(page, 40)
  await page.getByRole('button', { name: 'Stop' }).click()
  await page.locator('.stopped').waitFor()
  const first = await grown(page, 40)

  await ask(page, QUESTION)
  await page.locator('.growing').waitFor()
  network.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  await page.getByRole('button', { name: 'Stop' }).click()
  network.setDown(false)
  await page.locator('.stopped').nth(1).waitFor()
  await page.reload()
  await page.locator('.stopped').nth(1).waitFor()
  t.strictSame(await page.locator('.up').allTextContents(), ['How do I stop you?', QUESTION])
  t.equal(await page.locator('.answer').first().textContent(), first, 'it did not grow on')
  t.equal(await page.locator('.growing').count(), 0)
})

t.test('a page whose conversation the server has forgotten begins another', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const page = await openPage(t, url)
  await ask(page, 'before')
  await grown(page, 10)
  await server.kill()
  await startExamples(t, port)
  await page.locator('#parts:empty').waitFor({ state: 'attached' })
  await ask(page, 'after')
  await grown(page, 10)
  t.strictSame(await page.locator('.up').allTextContents(), ['after'])
})
