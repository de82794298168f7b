import t from 'tap'
import type { Page } from 'playwright-core'
import type { Person } from '../../example/chat/contract.js'
import { needsChromium, openContext } from '../support/browser.js'
import { joinChat, sendAndWait, sendMessage, shownMessages } from './support/chat-page.js'
import { saveScreenshots, startExamples } from './support/examples.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'

t.test('two tabs see people, typing and messages of their own room only; a closed tab leaves the room', needsChromium, async t => {
  const { url } = await startExamples(t)
  const context = await openContext(t)
  const ann = await joinChat(t, context, url, 'Ann')
  await sendAndWait(ann, 'Is <anybody> here?')
  const bob = await joinChat(t, context, url, 'Bob')
  t.strictSame(await bob.locator('#people li').allTextContents(), ['Ann', 'Bob (you)'])
  await ann.locator('#people').getByText('Bob').waitFor()
  t.strictSame(await shownMessages(bob), ['Is <anybody> here?'], 'a new person sees the earlier messages')

  // The page shows it for three seconds only, so the wait starts before the key press.
  const typing = ann.getByText('Bob is typing …').waitFor()
  await bob.getByPlaceholder('Write a message').pressSequentially('I')
  await typing
  await sendMessage(bob, 'I am.')
  await ann.getByText('I am.').waitFor()
  t.equal(await ann.locator('#typing').textContent(), '')
  await saveScreenshots(ann, 'chat')

  await bob.locator('#people').getByText('Ann').click()
  await ann.getByText('Bob has nudged you.').waitFor()
  await bob.getByText(/Ann has (seen|got) your nudge/).waitFor()

  await bob.getByRole('link', { name: 'Kitchen' }).click()
  await bob.getByRole('heading', { name: 'Kitchen' }).waitFor()
  await ann.getByRole('link', { name: 'Kitchen 1' }).waitFor()
  t.strictSame(await ann.locator('#people li').allTextContents(), ['Ann (you)'])
  await sendAndWait(ann, 'In the Lobby.')
  await sendAndWait(bob, 'In the Kitchen.')
  t.strictSame(await shownMessages(bob), ['In the Kitchen.'])
  t.strictSame(await shownMessages(ann), ['Is <anybody> here?', 'I am.', 'Bob has nudged you.', 'In the Lobby.'])

  await bob.close()
  await ann.getByRole('link', { name: 'Kitchen 1' }).waitFor({ state: 'detached' })
})

t.test('a client that was disconnected receives only the latest change of each person', async t => {
  const { url: examples } = await startExamples(t)
  const url = `${examples}/chat`
  const enter = async ({ sessionId }: ClientStream, name: string, room: string): Promise<void> => {
    t.equal((await postMessage(url, sessionId, { name, room }, { event: 'enter' })).status, 202)
  }
  const [ann, bob] = [await openStream(t, url), await openStream(t, url)]
  await enter(ann, 'Ann', 'Lobby')
  await enter(bob, 'Bob', 'Lobby')
  const { data: entered } = await bob.waitFor(({ event }) => event === 'room')
  const { you } = entered as { you: number }
  const { id = '' } = await ann.waitFor(({ event, data }) => event === 'person' && (data as Person).id === you)
  ann.destroy()
  await bob.waitFor(({ event, data }) => event === 'person' && (data as Person).name === 'Ann' && (data as Person).away)
  for (const room of ['Kitchen', 'Garden', 'Kitchen']) await enter(bob, 'Bob', room)
  const resumed = await openStream(t, url, { headers: { 'Last-Event-ID': id } })
  await resumed.waitFor(({ event, data }) => event === 'person' && (data as Person).name === 'Ann' && !(data as Person).away)
  const changes = resumed.events.filter(({ data }) => (data as Partial<Person>).id === you)
  t.strictSame(changes.map(({ event, data }) => [event, (data as Person).room]), [['person', 'Kitchen']])
})

t.test('messages arrive once and in order on both pages while the network of one fails and recovers', needsChromium, async t => {
  const { url, port } = await startExamples(t)
  // The number of the next connection whose response is lost.
  let lostConnection = 0
  const network = await startFaultProxy(t, port, () => --lostConnection === 0 ? { fault: 'reset', afterBytes: 0 } : undefined)
  const context = await openContext(t)
  const bob = await joinChat(t, context, url, 'Bob')
  const ann = await joinChat(t, context, network.url, 'Ann')
  const away = bob.locator('#people .away').getByText('Ann')
  const sent: Record<string, string[]> = { Ann: [], Bob: [] }
  const sendNext = async (page: Page, name: string): Promise<void> => {
    const text = `${name} ${sent[name]?.length}`
    sent[name]?.push(text)
    await sendMessage(page, text)
  }
  for (let round = 0; round < 2; round++) {
    await sendNext(ann, 'Ann')
    network.setDown(true)
    await sendNext(ann, 'Ann')
    await sendNext(bob, 'Bob')
    await ann.locator('#state').getByText('disconnected').waitFor()
    await away.waitFor()
    await sendNext(bob, 'Bob')
    await sendNext(ann, 'Ann')
    t.equal(await ann.locator('.pending').last().textContent(), sent.Ann?.at(-1))
    if (round === 0) await saveScreenshots(ann, 'chat-disconnected')
    // Ann's client opens a stream, and then posts her messages. The server handles them, but the proxy loses the response, so
    // her client sends them again.
    lostConnection = 2
    network.setDown(false)
    await bob.getByText(sent.Ann?.at(-1) ?? '').waitFor()
    await ann.locator('#state').getByText('open').waitFor()
    await away.waitFor({ state: 'detached' })
  }
  for (const page of [ann, bob]) {
    await page.waitForFunction('document.querySelectorAll("#messages li:not(.pending)").length >= 10 && document.querySelector(".pending") === null')
  }
  const messages = await shownMessages(ann)
  for (const [name, texts] of Object.entries(sent)) {
    t.strictSame(messages.filter(text => text.startsWith(name)), texts, `each message of ${name}, once and in order`)
  }
  t.strictSame(await shownMessages(bob), messages)
  await ann.reload()
  await ann.getByText('Ann (you)').waitFor()
  t.strictSame(await shownMessages(ann), messages, 'the server stored each message once')
})

t.test('after a restart of the server, a page enters its room again and sends what was written meanwhile', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const ann = await joinChat(t, await openContext(t), url, 'Ann')
  await sendAndWait(ann, 'before the restart')
  await server.kill()
  await ann.locator('#state').getByText('disconnected').waitFor()
  for (const text of ['written while', 'the server is down']) await sendMessage(ann, text)
  await startExamples(t, port)
  await ann.locator('#messages .up:not(.pending)').nth(1).waitFor()
  t.strictSame(await shownMessages(ann), ['written while', 'the server is down'])
  await sendAndWait(ann, 'after the restart')
  t.strictSame(await ann.locator('#people li').allTextContents(), ['Ann (you)'])
})
