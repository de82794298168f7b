import t from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { saveScreenshots, startExamples } from './support/examples.js'
import { startFaultProxy } from '../support/fault-proxy.js'

t.test('the clock shows its ticks across a network failure, then that it has finished, and can restart', needsChromium, async t => {
  const { port } = await startExamples(t)
  const proxy = await startFaultProxy(t, port)
  const page = await (await openContext(t)).newPage()
  const pageErrors: unknown[] = []
  page.on('pageerror', error => { pageErrors.push(error) })
  // Records every text that the page shows.
  await page.addInitScript(`
    window.shownTexts = []
    new MutationObserver(() => {
      const text = document.querySelector('main')?.innerText.replaceAll(/\\s+/g, ' ')
      if (text !== undefined && text !== shownTexts.at(-1)) shownTexts.push(text)
    }).observe(document, { subtree: true, childList: true, characterData: true })
  `)
  await page.goto(`${proxy.url}/clock`)
  await page.waitForFunction('shownTexts.some(text => /Tick [3-9]/.test(text))')
  t.equal(await page.getByRole('button').isDisabled(), true)
  const sessionId = await page.locator('code').textContent()
  proxy.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  proxy.setDown(false)
  await page.getByText('closed the session').waitFor()
  t.equal(await page.locator('#state').textContent(), 'closed')
  t.equal(await page.locator('code').textContent(), sessionId)
  const shownTexts = (await page.evaluate('shownTexts') as string[]).join('\n')
  const shownTicks = [...shownTexts.matchAll(/(\d+:\d\d:\d\d).* Tick (\d+)/g)]
  const ticks = shownTicks.map(([, , tick]) => Number(tick))
  // Ticks that arrive together after the reconnect are rendered once, so some numbers may be missing.
  t.strictSame(ticks, ticks.toSorted((a, b) => a - b), 'no tick is shown twice')
  t.ok(new Set(ticks).size >= 5, `the ticks ${ticks.join()}`)
  t.ok(new Set(shownTicks.map(([, time]) => time)).size >= new Set(ticks).size - 1, 'the ticks have different times, one second apart')
  await saveScreenshots(page, 'clock-finished')

  await page.getByRole('button', { name: 'Start again' }).click()
  await page.locator('#state').getByText('open').waitFor()
  t.not(await page.locator('code').textContent(), sessionId)
  await page.getByText(/Tick [1-9] of 10/).waitFor()
  await saveScreenshots(page, 'clock')
  t.strictSame(pageErrors, [])
})
