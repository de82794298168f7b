import { once } from 'node:events'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { Session, Sessions, SseSessionsOptions } from '../../lib/index.js'
import { eventSources } from '../support/eventsources.js'
import { faultProxy } from '../support/proxy.js'
import { random, seedOf } from '../support/random.js'
import { serve } from '../support/server.js'
import { openStream, type Stream } from '../support/stream.js'
import { wire } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

const numbers = ({ events }: Stream): unknown[] => events.filter(({ event }) => event === 'message').map(({ data }) => data)

t.test('a second stream takes the session over at once, and the first ends without a close event', async t => {
  const { sessions, url } = await serve(t)
  const told: string[] = []
  sessions.addHook('onDisconnect', () => { told.push('disconnect') })
    .addHook('onResume', () => { told.push('resume') })
    .addHook('onClose', () => { told.push('close') })
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  await session?.send(1)
  await first.waitFor(({ data }) => data === 1)
  const second = await openStream(t, url, { headers: { 'last-event-id': first.events.at(-1)?.id ?? '' } })
  await within(first.ended, 'the first to end')
  t.match(second.events[0], { event: 'welcome', data: { resumed: true, sessionId: first.sessionId } })
  await session?.send(2)
  await second.waitFor(({ data }) => data === 2)
  t.strictSame([numbers(first), numbers(second)], [[1], [2]])
  t.strictSame(first.events.map(({ event }) => event), ['welcome', 'message', 'replaced'])
  t.match(first.raw(), /\nevent: replaced\nid: closed\ndata: \{\}\n\n$/)
  t.strictSame(told, ['resume'], 'the session was connected all the time')
  t.strictSame(sessions.stats(), { sessions: 1, streams: 1, channels: 0 })
  t.equal(session?.connected, true)
})

t.test('the end of the stream that was replaced does not disconnect the session, the end of its successor does', async t => {
  const { sessions, url } = await serve(t)
  let disconnects = 0
  sessions.addHook('onDisconnect', () => { disconnects++ })
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  const streams = [first]
  for (let i = 0; i < 5; i++) streams.push(await openStream(t, url, { headers: { 'x-session-id': first.sessionId } }))
  for (const { ended } of streams.slice(0, -1)) await within(ended, 'the end of a replaced stream')
  await until(() => sessions.stats().streams === 1, 'one stream')
  t.strictSame([session?.connected, disconnects], [true, 0])
  streams.at(-1)?.destroy()
  await until(() => session?.connected === false, 'the disconnect')
  t.equal(disconnects, 1)
})

t.test('a request that came earlier, and was slower on its way through the hooks, does not replace the stream of a later one', async t => {
  const { sessions, url, port } = await serve(t)
  const [held, gate] = [signal(), signal()]
  const told: string[] = []
  sessions.addHook('onDisconnect', () => { told.push('disconnect') }).addHook('onResume', async (_session, { headers }) => {
    if (headers['x-slow'] === undefined) return
    held.resolve()
    await gate.promise
  })
  const { sessionId } = await openStream(t, url)
  const slow = wire(t, port, { headers: { 'x-session-id': sessionId, 'x-slow': '1' } })
  await within(held.promise, 'the first request')
  const later = await openStream(t, url, { headers: { 'x-session-id': sessionId } })
  gate.resolve()
  await within(slow.closed, 'the end of the first')
  t.match(slow.text(), /\r\n\r\nevent: replaced\nid: closed\n/)
  const session = await sessions.find(sessionId)
  await session?.send('still here')
  await later.waitFor(({ data }) => data === 'still here')
  t.strictSame(told, [])
  later.destroy()
  await until(() => told.length > 0, 'the disconnect')
  t.strictSame([told, session?.connected, sessions.stats().streams], [['disconnect'], false, 0])
})

t.test('a client on a half-open connection is replaced by itself, and sees nothing twice', async t => {
  const { sessions, url, port } = await serve(t)
  const proxy = await faultProxy(t, port)
  const before = await openStream(t, proxy.url)
  const session = await sessions.find(before.sessionId)
  await session?.join('room')
  for (let n = 0; n < 50; n++) await (n % 2 === 0 ? session?.send(n) : sessions.channel('room').send(n))
  await before.waitFor(({ data }) => data === 49)
  proxy.strike('half-open')
  await within(before.ended, 'the client to notice')
  t.equal(session?.connected, true, 'the server has not noticed')
  for (let n = 50; n < 100; n++) await (n % 2 === 0 ? session?.send(n) : sessions.channel('room').send(n))
  const after = await openStream(t, url, { headers: { 'last-event-id': before.events.at(-1)?.id ?? '' } })
  await after.waitFor(({ data }) => data === 99)
  t.strictSame([...numbers(before), ...numbers(after)], Array.from({ length: 100 }, (_, n) => n))
})

t.test('a stalled stream is replaced without waiting for it', async t => {
  const { sessions, url } = await serve(t, { log: { bytes: 64 * 1024 * 1024 } })
  const stalled = await openStream(t, url)
  stalled.body.pause()
  const session = await sessions.find(stalled.sessionId)
  const text = 'x'.repeat(64 * 1024)
  for (let n = 0; n < 200; n++) await session?.send(text)
  const second = await openStream(t, url, { headers: { 'last-event-id': stalled.events[0]?.id ?? '' } })
  await until(() => numbers(second).length === 200, 'all to come')
  await until(() => sessions.stats().streams === 1, 'the stalled to end')
  stalled.body.resume()
  await within(stalled.ended, 'the stalled to end')
  t.notMatch(stalled.raw(), /event: close/)
})

t.test('whenever it is replaced, a stream of messages is whole over the streams that carried it', async t => {
  const next = random(seedOf(t))
  const { sessions, url } = await serve(t)
  const count = 500
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  let last = first
  const got: unknown[] = []
  const take = async (stream: Stream): Promise<void> => {
    await within(stream.ended, 'the replaced to end')
    got.push(...numbers(stream))
  }
  const sending = (async () => {
    for (let n = 0; n < count; n++) {
      session?.send(n)
      if (next() < 0.3) await new Promise(setImmediate)
    }
  })()
  for (let i = 0; i < 20; i++) {
    for (let turns = Math.floor(next() * 5); turns > 0; turns--) await new Promise(setImmediate)
    const replaced = last
    // By X-Session-ID: where the client stands is what the server has written, and all that is written arrives here.
    last = await openStream(t, url, { headers: { 'x-session-id': first.sessionId } })
    await take(replaced)
  }
  await sending
  // The last stream may have come behind all of them.
  await session?.send(count)
  await last.waitFor(({ data }) => data === count)
  got.push(...numbers(last))
  t.strictSame(got, Array.from({ length: count + 1 }, (_, n) => n))
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} that is replaced stops, and does not take the session back`, async t => {
    const gets: unknown[] = []
    const { sessions, url } = await serve(t, { retry: 1 }, {
      before: app => app.addHook('onRequest', async ({ method, headers }) => { if (method === 'GET') gets.push(headers['last-event-id']) })
    })
    const source = open(t, `${url}/downward`)
    const welcome = signal<string>()
    const heard: unknown[] = []
    source.addEventListener('welcome', ({ data }) => { welcome.resolve((JSON.parse(String(data)) as { sessionId: string }).sessionId) })
    source.addEventListener('message', ({ data }) => { heard.push(data) })
    for (const event of ['close', 'gap']) source.addEventListener(event, () => { t.fail(event) })
    const id = await within(welcome.promise, 'the welcome')
    const second = await openStream(t, url, { headers: { 'x-session-id': id } })
    await until(() => source.readyState === 2, 'the first to stop')
    t.strictSame(gets, [undefined, undefined, 'closed'])
    await (await sessions.find(id))?.send('for the second')
    await second.waitFor(({ data }) => data === 'for the second')
    t.strictSame(heard, [])
    t.strictSame(sessions.stats(), { sessions: 1, streams: 1, channels: 0 })
  })
}

/** Serves a session whose first stream was replaced, by one that is lost, but whose client does not read the end of it. */
async function replaceUnread (t: Test, options: SseSessionsOptions, told: string[]): Promise<{ sessions: Sessions, first: Socket }> {
  const { app, sessions, url, port } = await serve(t, options)
  const opened = signal<Session>()
  sessions.addHook('onOpen', session => { opened.resolve(session) })
    .addHook('onDisconnect', () => { told.push('disconnect') })
    .addHook('onClose', (_session, reason) => { told.push(reason) })
  const accepted = once(app.server, 'connection')
  const { socket: first } = wire(t, port, { stalled: true })
  const [socket] = await within(accepted, 'the connection') as [Socket]
  const session = await within(opened.promise, 'the session')
  await until(() => session.connected, 'the stream')
  // The system takes no more, and the stream does not wait for that yet.
  while (socket.writableLength === 0) {
    await session.send('x'.repeat(8000))
    await new Promise(setImmediate)
    await new Promise(setImmediate)
  }
  const second = await openStream(t, url, { headers: { 'x-session-id': session.id } })
  t.equal(sessions.stats().streams, 2, 'the first is not over')
  second.destroy()
  await until(() => told[0] === 'disconnect', 'the disconnect')
  return { sessions, first }
}

t.test('a replaced stream whose client does not read its end does not keep the session', async t => {
  const told: string[] = []
  const { sessions } = await replaceUnread(t, { resumeTimeout: 50 }, told)
  await until(() => told.length === 2, 'the expiry')
  t.strictSame(told, ['disconnect', 'expired'])
  t.equal(sessions.stats().streams, 1)
})

t.test('a replaced stream that ends later than its successor does not disconnect the session once more', async t => {
  const told: string[] = []
  const { sessions, first } = await replaceUnread(t, {}, told)
  t.equal(sessions.stats().streams, 1)
  first.destroy()
  await until(() => sessions.stats().streams === 0, 'the end of the first')
  t.strictSame(told, ['disconnect'])
})
