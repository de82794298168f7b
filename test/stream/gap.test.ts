import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { Gap, SseSessionsOptions } from '../../lib/index.js'
import { formatEventId } from '../../lib/wire/event-id.js'
import { kStream } from '../../lib/sessions/session.js'
import { skewClock } from '../support/clock.js'
import { eventSources } from '../support/eventsources.js'
import { faultProxy, type FaultProxy } from '../support/proxy.js'
import { brief, gapOf, loseStream, opened, positionOf, resume, type Opened } from '../support/resumption.js'
import { serve } from '../support/server.js'
import { openStream, type Stream } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

const senders: Array<[name: string, option: 'log' | 'channelLog', send: (opened: Opened, data: unknown) => Promise<void>]> = [
  ['session', 'log', ({ session }, data) => session.send(data)],
  ['channel', 'channelLog', ({ sessions }, data) => sessions.channel('room').send(data)],
  ['broadcast', 'channelLog', ({ sessions }, data) => sessions.broadcast('message', data)]
]

for (const [name, option, send] of senders) {
  t.test(`a ${name}'s log trimmed by count, by bytes or by age is told as a gap with its range, before any entry`, async t => {
    const skew = skewClock(t)
    for (const [reason, bounds] of [['count', { entries: 3 }], ['bytes', { bytes: 3 * Buffer.byteLength('data: 10\n\n') }], ['age', { age: 1000 }]] as const) {
      const all = await opened(t, { [option]: bounds })
      await all.session.join('room')
      await send(all, 10)
      await all.stream.waitFor(({ data }) => data === 10)
      await loseStream(all)
      for (const n of [11, 12, 13]) await send(all, n)
      if (reason === 'age') skew(1001)
      for (const n of [14, 15, 16]) await send(all, n)
      const events = await resume(t, all, 1)
      const gap = { after: 1, resumedAt: 4, reason }
      t.strictSame(brief(events), ['welcome', 'gap', 14, 15, 16], reason)
      t.strictSame(gapOf(events), gap)
      t.strictSame(events.map(positionOf), [1, 4, 5, 6, 7])
      t.strictSame(all.told.map(({ session, gap }) => ({ session: session.id, gap })), [{ session: all.session.id, gap }])
      t.strictSame(brief(await resume(t, all, 4)), ['welcome', 14, 15, 16], 'a client that comes back with the id of the gap is not told again')
      t.equal(all.told.length, 1)
    }
  })
}

t.test('entries that grow too old while nobody appends or reads are told as a gap when the client comes', async t => {
  const skew = skewClock(t)
  const all = await opened(t)
  await loseStream(all)
  for (const n of [1, 2]) await all.session.send(n)
  skew(300_001)
  const events = await resume(t, all, 0)
  t.strictSame(brief(events), ['welcome', 'gap'])
  t.strictSame(gapOf(events), { after: 0, resumedAt: 2, reason: 'age' })
})

t.test('entries that other logs still have from before the end of the hole come behind the gap, which is told again until they are all had', async t => {
  const all = await opened(t, { channelLog: { entries: 1 } })
  const { session, sessions } = all
  await session.join('room')
  await loseStream(all)
  await session.send(1)
  await sessions.channel('room').send(2)
  await session.send(3)
  await sessions.channel('room').send(4)
  await session.send(5)
  await sessions.channel('room').send(6)
  const events = await resume(t, all, 0)
  t.strictSame(brief(events), ['welcome', 'gap', 1, 3, 5, 6])
  t.strictSame(gapOf(events), { after: 0, resumedAt: 4, reason: 'count' })
  t.strictSame(events.map(positionOf), [0, 0, 1, 3, 5, 6])
  for (const [position, after, rest] of [[1, 1, [3, 5, 6]], [3, 3, [5, 6]]] as const) {
    const again = await resume(t, all, position)
    t.strictSame(brief(again), ['welcome', 'gap', ...rest])
    t.strictSame(gapOf(again), { after, resumedAt: 4, reason: 'count' })
  }
  t.strictSame(brief(await resume(t, all, 5)), ['welcome', 6])
})

t.test('a client whose log was trimmed only up to its cursor is told of no gap', async t => {
  const all = await opened(t, { log: { entries: 2 } })
  await loseStream(all)
  for (const n of [1, 2, 3, 4]) await all.session.send(n)
  t.strictSame(brief(await resume(t, all, 2)), ['welcome', 3, 4])
  t.strictSame(brief(await resume(t, all, 4)), ['welcome'])
  t.strictSame(all.told, [])
  t.strictSame(brief(await resume(t, all, 1)), ['welcome', 'gap', 3, 4])
})

/** A stream that stands still, its client not reading, with 200 messages or more behind it; `read` lets it go on. */
async function parked (t: Test, options: SseSessionsOptions): Promise<{ stream: Stream, proxy: FaultProxy, sent: number, read: () => void }> {
  const { app, port, sessions } = await serve(t, options)
  const sockets: Socket[] = []
  app.server.on('connection', socket => { sockets.push(socket) })
  const proxy = await faultProxy(t, port)
  const stream = await openStream(t, proxy.url)
  const session = await sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('no session')
  proxy.connections[0]?.server.pause()
  const padding = 'x'.repeat(10_000)
  let n = 0
  while (n - session[kStream].cursor < 200) {
    for (let i = 0; i < 50; i++) await session.send({ n: ++n, padding })
    await until(() => session[kStream].cursor === n || sockets[0]?.writableNeedDrain === true, 'the stream to write or to stand')
  }
  return { stream, proxy, sent: n, read: () => { proxy.connections[0]?.server.resume() } }
}

t.test('a live stream whose client reads too slowly gets what it is owed, a gap and what is left, without a new request', async t => {
  const { stream, proxy, sent: n, read } = await parked(t, { log: { entries: 100 } })
  read()
  await stream.waitFor(({ event, data }) => event === 'message' && (data as { n: number }).n === n, 'the last message')
  let cursor = 0
  const gaps: Gap[] = []
  for (const { event, data } of stream.events.slice(1)) {
    if (event === 'gap') {
      const gap = data as Gap
      gaps.push(gap)
      t.match(gap, { after: cursor, reason: 'count' })
      cursor = gap.resumedAt
    } else {
      // Sent one by one to a new store, messages have their numbers as positions.
      if ((data as { n: number }).n !== cursor + 1) t.fail(`${JSON.stringify(data).slice(0, 20)} came after ${cursor}`)
      cursor++
    }
  }
  t.equal(cursor, n)
  t.ok(gaps.length > 0 && stream.events[1]?.event === 'message')
  t.equal(gaps.at(-1)?.resumedAt, n - 100)
  t.equal(proxy.connections.length, 1)
})

t.test('what grows too old while the client reads nothing is told as a gap when it reads again', async t => {
  const skew = skewClock(t)
  const { stream, sent, read } = await parked(t, { log: { bytes: 2 ** 30 } })
  skew(300_001)
  read()
  const gap = await stream.waitFor(({ event }) => event === 'gap', 'the gap')
  const last = (stream.events.at(-2)?.data as { n: number }).n
  t.strictSame(gap.data, { after: last, resumedAt: sent, reason: 'age' })
  t.ok(last <= sent - 200 && stream.events.length === last + 2)
})

t.test('a cursor ahead of the store is told as a gap back to the store, and what is sent from there on comes', async t => {
  const all = await opened(t)
  await all.session.send(1)
  await all.stream.waitFor(({ data }) => data === 1)
  const events = await resume(t, all, 1000)
  t.strictSame(brief(events), ['welcome', 'gap'])
  t.strictSame(gapOf(events), { after: 1000, resumedAt: 1, reason: 'store' })
  t.strictSame(events.map(positionOf), [1000, 1], 'the welcome has the id of the client, the gap that of the store')
  t.match(all.told, [{ gap: { after: 1000, resumedAt: 1, reason: 'store' } }])
  await all.session.send(2)
  t.strictSame(brief(await resume(t, all, 1)), ['welcome', 2])
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} hears a gap as an event of that name, and comes back behind it`, async t => {
    const { sessions, port } = await serve(t, { retry: 1, log: { entries: 2 } })
    const proxy = await faultProxy(t, port)
    const source = open(t, `${proxy.url}/downward`)
    const welcome = signal<string>()
    const last = signal()
    const heard: unknown[] = []
    for (const event of ['welcome', 'gap', 'message']) {
      source.addEventListener(event, ({ data }) => {
        const parsed: unknown = JSON.parse(String(data))
        heard.push(event === 'welcome' ? event : parsed)
        if (event === 'welcome') welcome.resolve((parsed as { sessionId: string }).sessionId)
        if (parsed === 5) last.resolve()
      })
    }
    const session = await sessions.find(await within(welcome.promise, 'the welcome'))
    proxy.strike('cut')
    for (const n of [1, 2, 3, 4]) session?.send(n)
    await until(() => heard.includes(4), 'the last message')
    proxy.strike('reset')
    session?.send(5)
    await within(last.promise, 'the message after the second cut')
    t.strictSame(heard, ['welcome', 'welcome', { after: 0, resumedAt: 2, reason: 'count' }, 3, 4, 'welcome', 5])
  })
}

t.test('what an onGap hook sends at once comes behind what was left, all of which comes', async t => {
  // One more message has the log, of which half is trimmed, move its entries to the front.
  const { sessions, url } = await serve(t, { log: { entries: 100 } })
  sessions.addHook('onGap', session => session.send('state'))
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  first.destroy()
  await until(() => session?.connected === false, 'the loss of the stream')
  for (let n = 1; n < 200; n++) await session?.send(n)
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(first.sessionId, 0) } })
  await stream.waitFor(({ data }) => data === 'state')
  t.strictSame(brief(stream.events), ['welcome', 'gap', ...Array.from({ length: 100 }, (_, index) => 100 + index), 'state'])
})

t.test('nor does it come before the welcome, where it is more than the log keeps and the store has gone back', async t => {
  const { sessions, url } = await serve(t, { log: { entries: 2 } })
  const first = await openStream(t, url)
  sessions.addHook('onGap', session => { for (const n of [1, 2, 3, 4]) session.send(n) })
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(first.sessionId, 1000) } })
  await stream.waitFor(({ data }) => data === 4)
  t.strictSame(brief(stream.events), ['welcome', 'gap', 1, 2, 3, 4])
})
