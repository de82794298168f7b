import t from 'tap'
import { launchChromium, needsChromium } from '../support/browser.js'
import { keepPictures, startExamples } from './support/examples.js'
import { faultProxy } from '../support/proxy.js'

t.test('the clock shows its ticks, over a lost network too, then that it has finished, and starts again', needsChromium, async t => {
  const { port } = await startExamples(t)
  const proxy = await faultProxy(t, port)
  const page = await (await launchChromium(t)).newPage()
  const problems: unknown[] = []
  page.on('pageerror', problem => { problems.push(problem) })
  // Every state of the page, as it changes.
  await page.addInitScript(`
    window.seen = []
    new MutationObserver(() => {
      const text = document.querySelector('main')?.innerText.replaceAll(/\\s+/g, ' ')
      if (text !== undefined && text !== seen.at(-1)) seen.push(text)
    }).observe(document, { subtree: true, childList: true, characterData: true })
  `)
  await page.goto(`${proxy.url}/clock`)
  await page.waitForFunction('seen.some(text => /Tick [3-9]/.test(text))')
  t.equal(await page.getByRole('button').isDisabled(), true)
  const sessionId = await page.locator('code').textContent()
  proxy.setDown(true)
  await page.locator('#state').getByText('disconnected').waitFor()
  proxy.setDown(false)
  await page.getByText('the server has closed the session').waitFor()
  t.equal(await page.locator('#state').textContent(), 'closed')
  t.equal(await page.locator('code').textContent(), sessionId)
  const seen = (await page.evaluate('seen') as string[]).join('\n')
  const shown = [...seen.matchAll(/(\d+:\d\d:\d\d).* Tick (\d+)/g)]
  const ticks = shown.map(([, , tick]) => Number(tick))
  // Those that came together when the network was back are shown as one.
  t.strictSame(ticks, ticks.toSorted((a, b) => a - b), 'none comes again')
  t.ok(new Set(ticks).size >= 5, `the ticks ${ticks.join()}`)
  t.ok(new Set(shown.map(([, time]) => time)).size >= new Set(ticks).size - 1, 'about a second lies between them')
  await keepPictures(page, 'clock-finished')

  await page.getByRole('button', { name: 'Start again' }).click()
  await page.locator('#state').getByText('open').waitFor()
  t.not(await page.locator('code').textContent(), sessionId)
  await page.getByText(/Tick [1-9] of 10/).waitFor()
  await keepPictures(page, 'clock')
  t.strictSame(problems, [])
})
