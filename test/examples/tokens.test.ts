import t from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { saveScreenshots, startExamples } from './support/examples.js'
import { ask, generateAnswer, openTokens, QUESTION, waitForAnswer } from './support/tokens-page.js'

t.test('an answer continues after a reload, in a second tab and after a network failure', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await startFaultProxy(t, port)
  const context = await openContext(t)
  const page = await openTokens(t, context, network.url)
  await ask(page, QUESTION)
  const complete = generateAnswer(QUESTION)
  const early = await waitForAnswer(page, 40)
  await page.reload()
  const later = await waitForAnswer(page, early.length)
  t.ok(later.startsWith(early))
  t.equal(await page.locator('.streaming').count(), 1, 'the answer has not ended')
  await saveScreenshots(page, 'tokens')
  const secondTab = await openTokens(t, context, network.url)
  await waitForAnswer(secondTab, later.length)
  network.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  const last = await waitForAnswer(page, later.length)
  // By then the server has generated the complete answer, if nothing has stopped it.
  const text = await complete
  t.ok(text.startsWith(last) && last.length < text.length)
  network.setDown(false)
  for (const tab of [page, secondTab]) {
    await tab.locator('.finished').waitFor()
    t.equal(await tab.locator('.answer').textContent(), text, 'no token is missing or repeated')
    t.equal(await tab.locator('#state').textContent(), 'open')
  }
  await page.reload()
  await page.locator('.finished').waitFor()
  t.equal(await page.locator('.answer').textContent(), text)
})

t.test('the stop button of any tab ends the answer, even if it is pressed while the network is down', needsChromium, async t => {
  const { port } = await startExamples(t)
  const network = await startFaultProxy(t, port)
  const context = await openContext(t)
  const [page, secondTab] = [await openTokens(t, context, network.url), await openTokens(t, context, network.url)]
  await page.getByRole('button', { name: 'How do I stop the answer?' }).click()
  await waitForAnswer(secondTab, 40)
  await secondTab.getByRole('button', { name: 'Stop' }).click()
  for (const tab of [page, secondTab]) await tab.locator('.stopped').waitFor()
  const first = await waitForAnswer(page, 40)

  await ask(page, QUESTION)
  await page.locator('.up').nth(1).waitFor()
  await waitForAnswer(page, 10)
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

t.test('a page shows which answers the server no longer has, and a question that was not sent', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const page = await openTokens(t, await openContext(t), url)
  await ask(page, 'before')
  await waitForAnswer(page, 10)
  await server.kill()
  await page.locator('#state').getByText('disconnected').waitFor()
  const early = await waitForAnswer(page, 10)
  const second = await startExamples(t, port)
  await page.locator('.lost').waitFor()
  t.equal(await page.locator('.lost').textContent(), early, 'the page still shows the answer')
  await saveScreenshots(page, 'tokens-restarted')
  await page.reload()
  await page.getByRole('button', { name: 'What is this?' }).click()
  await waitForAnswer(page, 10)
  // The page is not open while the server restarts, so it learns of it when it is loaded.
  await page.goto('about:blank')
  await second.server.kill()
  const third = await startExamples(t, port)
  await page.goto(`${url}/tokens`)
  await page.locator('.lost:empty').waitFor()
  t.strictSame(await page.locator('.up').allTextContents(), ['What is this?'])
  await third.server.kill()
  await ask(page, 'after')
  await page.getByText('The question was not sent').waitFor()
  t.equal(await page.getByPlaceholder('Ask a question').inputValue(), 'after')
})
