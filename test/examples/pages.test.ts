import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { connect } from '../../lib/client/node.js'
import { needsChromium, openContext } from '../support/browser.js'
import { range } from '../support/clients.js'
import { joinChat, sendAndWait } from './support/chat-page.js'
import { findBrokenLinks, saveScreenshots, startExamples } from './support/examples.js'

const PAGES = ['/', '/chat', '/clock', '/tokens', '/ai']
const VIEWPORTS = [[320, 568], [390, 844], [568, 320], [844, 390], [1280, 800]] as const
// The longest name that a person can have.
const LONG_NAME = 'W'.repeat(24)

/** Checks in several sizes that all of a page is within the width of the window, and runs further checks in each size. */
async function checkLayout (t: Test, page: Page, name: string, check?: (size: string) => Promise<void>): Promise<void> {
  for (const [width, height] of VIEWPORTS) {
    await page.setViewportSize({ width, height })
    const outside = await page.evaluate(`[
      document.documentElement.scrollWidth > innerWidth ? 'the page' : [],
      ...Array.from(document.querySelectorAll('body *')).filter(element => element.checkVisibility() && element.getBoundingClientRect().right > innerWidth).map(({ tagName, className }) => tagName + ' ' + className)
    ].flat()`)
    t.strictSame(outside, [], `${name} at ${width}×${height} fits`)
    await check?.(`${name} at ${width}×${height}`)
  }
}

/** Returns the share of an element's height that its `main` element shows, after the page has scrolled to it. */
async function shownHeight (page: Page, selector: string): Promise<number> {
  await page.locator(selector).scrollIntoViewIfNeeded()
  return await page.evaluate(`(() => {
    const [own, main] = [document.querySelector('${selector}'), document.querySelector('main')].map(element => element.getBoundingClientRect())
    return (Math.min(own.bottom, main.bottom, innerHeight) - Math.max(own.top, main.top, 0)) / own.height
  })()`)
}

t.test('each page fits into phones and desktops, says what to try, and its links work', needsChromium, async t => {
  const { url, server } = await startExamples(t)
  const page = await (await openContext(t)).newPage()
  page.on('pageerror', error => { t.fail(String(error)) })
  for (const path of PAGES) {
    await page.goto(url + path)
    await page.locator('#state[data-state=open]').waitFor()
    await checkLayout(t, page, path)
    const advice = await page.locator('footer').innerText()
    for (const topic of ['second tab', 'offline', 'server']) t.ok(advice.includes(topic), `${path} says what to try: ${topic}`)
    t.strictSame(await findBrokenLinks(page), [])
    const links = await page.evaluate('Array.from(document.querySelectorAll("a"), link => link.getAttribute("href"))') as string[]
    t.strictSame(links.filter(link => PAGES.includes(link)), PAGES, `${path} links to the other pages`)
    t.ok(links.some(link => link.startsWith('/source/')), `${path} links to its source`)
    t.equal(await page.locator('nav [aria-current=page]').getAttribute('href'), path)
  }
  const source = await fetch(`${url}/source/chat/index.js`)
  t.equal(source.headers.get('content-type'), 'text/plain; charset=utf-8')
  t.match(await source.text(), /^\/\/ A chat with rooms\./)
  t.equal((await fetch(`${url}/source/..%2f..%2fpackage.json`)).status, 404)
  t.match(server.output(), /^Examples: \S+\n$/, 'the server prints its address only')
})

t.test('the chat fits into a phone with eight people who have long names', needsChromium, async t => {
  const { url } = await startExamples(t)
  await Promise.all(range(7).map(async () => {
    const session = connect(`${url}/chat`)
    t.teardown(() => session.close())
    await session.emit('enter', { room: 'Lobby', name: LONG_NAME })
  }))
  const page = await joinChat(t, await openContext(t), url, 'Ann')
  await page.locator('#people li').nth(7).waitFor()
  for (const text of ['short', 'x'.repeat(300), 'many words '.repeat(40)]) await sendAndWait(page, text)
  await page.setViewportSize({ width: 390, height: 844 })
  await saveScreenshots(page, 'chat-eight-people')
  await checkLayout(t, page, 'the chat', async size => {
    for (const selector of ['#room', '#state', '#text']) t.equal(await shownHeight(page, selector), 1, `${size} shows ${selector}`)
    const { messages, name } = await page.evaluate('({ messages: document.querySelector("#messages").clientHeight, name: document.querySelector("#people li").clientHeight })') as { messages: number, name: number }
    t.ok(messages >= 80, `${size} leaves ${messages} px for messages`)
    t.ok(name < 150, `${size} shows a name in ${name} px`)
  })
})

t.test('a room that does not exist is named, and another one can be chosen', needsChromium, async t => {
  const { url } = await startExamples(t)
  const page = await joinChat(t, await openContext(t), url, 'Ann')
  for (const [hash, name] of [['Attic', 'Attic'], ['Caf%C3%A9', 'Café'], ['100%', '100%'], ['<b>', '<b>']] as const) {
    await page.evaluate(`location.hash = ${JSON.stringify(hash)}`)
    await page.getByRole('alert').getByText(`There is no room “${name}”.`).waitFor()
    t.equal(await page.getByPlaceholder('Write a message').isVisible(), false)
    t.equal(await page.locator('#people li').count(), 0)
  }
  await page.reload()
  await page.getByRole('alert').getByText('There is no room “<b>”.').waitFor()
  await page.getByRole('link', { name: 'Garden' }).click()
  await page.getByRole('heading', { name: 'Garden' }).waitFor()
  t.equal(await page.getByRole('alert').isVisible(), false)
  await sendAndWait(page, 'In the Garden.')
})

t.test('the clock shows its button in landscape', needsChromium, async t => {
  const { url } = await startExamples(t)
  const page = await (await openContext(t)).newPage()
  await page.goto(`${url}/clock`)
  await page.getByText(/Tick [1-9] of 10/).waitFor()
  await checkLayout(t, page, 'the clock', async size => {
    for (const selector of ['#time', 'progress', 'button']) t.equal(await shownHeight(page, selector), 1, `${size} shows ${selector}`)
  })
})
