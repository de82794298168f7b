import t from 'tap'
import type { Page } from 'playwright-core'
import { needsChromium } from '../support/browser.js'
import { enter, openContext, said, say, tell } from './support/chat-page.js'
import { keepPictures, startExamples } from './support/examples.js'
import { faultProxy } from '../support/proxy.js'

t.test('a second tab joins: each sees who is here, who is typing and what is said; rooms are apart, and a closed tab leaves', needsChromium, async t => {
  const { url } = await startExamples(t)
  const context = await openContext(t)
  const ann = await enter(t, context, url, 'Ann')
  await tell(ann, 'Is <anybody> here?')
  const bob = await enter(t, context, url, 'Bob')
  t.strictSame(await bob.locator('#people li').allTextContents(), ['Ann', 'Bob (you)'])
  await ann.locator('#people').getByText('Bob').waitFor()
  t.strictSame(await said(bob), ['Is <anybody> here?'], 'a newcomer sees what was said')

  // It is shown for three seconds.
  const typing = ann.getByText('Bob is typing …').waitFor()
  await bob.getByPlaceholder('Write a message').pressSequentially('I')
  await typing
  await say(bob, 'I am.')
  await ann.getByText('I am.').waitFor()
  t.equal(await ann.locator('#typing').textContent(), '')
  await keepPictures(ann, 'chat')

  await bob.getByRole('link', { name: 'Kitchen' }).click()
  await bob.getByRole('heading', { name: 'Kitchen' }).waitFor()
  await ann.getByRole('link', { name: 'Kitchen 1' }).waitFor()
  t.strictSame(await ann.locator('#people li').allTextContents(), ['Ann (you)'])
  await tell(ann, 'In the Lobby.')
  await tell(bob, 'In the Kitchen.')
  t.strictSame(await said(bob), ['In the Kitchen.'])
  t.strictSame(await said(ann), ['Is <anybody> here?', 'I am.', 'In the Lobby.'])

  await bob.close()
  await ann.getByRole('link', { name: 'Kitchen 1' }).waitFor({ state: 'detached' })
})

t.test('what is said while the network comes and goes arrives once and in order on both sides', needsChromium, async t => {
  const { url, port } = await startExamples(t)
  let isDeaf = false
  const network = await faultProxy(t, port, () => isDeaf ? { fault: 'reset', afterBytes: 0 } : undefined)
  const context = await openContext(t)
  const bob = await enter(t, context, url, 'Bob')
  const ann = await enter(t, context, network.url, 'Ann')
  const away = bob.locator('#people .away').getByText('Ann')
  const wanted: Record<string, string[]> = { Ann: [], Bob: [] }
  const speak = async (page: Page, name: string): Promise<void> => {
    const text = `${name} ${wanted[name]?.length}`
    wanted[name]?.push(text)
    await say(page, text)
  }
  for (let round = 0; round < 2; round++) {
    await speak(ann, 'Ann')
    network.setDown(true)
    await speak(ann, 'Ann')
    await speak(bob, 'Bob')
    await ann.locator('#state').getByText('disconnected').waitFor()
    await away.waitFor()
    await speak(bob, 'Bob')
    await speak(ann, 'Ann')
    t.equal(await ann.locator('.pending').last().textContent(), wanted.Ann?.at(-1))
    if (round === 0) await keepPictures(ann, 'chat-disconnected')
    // Requests get through, answers do not: what Ann has said is heard, and she sends it again.
    isDeaf = true
    network.setDown(false)
    await bob.getByText(wanted.Ann?.at(-1) ?? '').waitFor()
    isDeaf = false
    await ann.locator('#state').getByText('open').waitFor()
    await away.waitFor({ state: 'detached' })
  }
  for (const page of [ann, bob]) {
    await page.waitForFunction('document.querySelectorAll("#messages li:not(.pending)").length >= 10 && document.querySelector(".pending") === null')
  }
  const messages = await said(ann)
  for (const [name, texts] of Object.entries(wanted)) {
    t.strictSame(messages.filter(text => text.startsWith(name)), texts, `all of ${name}, once and in order`)
  }
  t.strictSame(await said(bob), messages)
  await ann.reload()
  await ann.getByText('Ann (you)').waitFor()
  t.strictSame(await said(ann), messages, 'the server has them once, too')
})

t.test('a page enters its room again when the server has started anew', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const ann = await enter(t, await openContext(t), url, 'Ann')
  await tell(ann, 'to be forgotten')
  await server.kill()
  await ann.locator('#state').getByText('disconnected').waitFor()
  await startExamples(t, port)
  await ann.locator('#messages:empty').waitFor({ state: 'attached' })
  await tell(ann, 'anew')
  t.strictSame(await ann.locator('#people li').allTextContents(), ['Ann (you)'])
})
