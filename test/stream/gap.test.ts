import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { Gap, SseSessionsOptions } from '../../lib/index.js'
import { formatEventId } from '../../lib/wire/event-id.js'
import { kInternals } from '../../lib/sessions/session.js'
import { skewClock } from '../support/clock.js'
import { eventSources } from '../support/event-sources.js'
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { summarize, findGap, destroyStream, serveSession, positionOf, resumeAfter, type ServedSession } from '../support/served-session.js'
import { serve } from '../support/server.js'
import { openStream, type ClientStream } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

const senders: Array<[name: string, option: 'log' | 'channelLog', send: (opened: ServedSession, data: unknown) => Promise<void>]> = [
  ['session', 'log', ({ session }, data) => session.send(data)],
  ['channel', 'channelLog', ({ sessions }, data) => sessions.channel('room').send(data)],
  ['broadcast', 'channelLog', ({ sessions }, data) => sessions.broadcast('message', data)]
]

for (const [name, option, send] of senders) {
  t.test(`reports what a ${name} log trimmed by count, bytes or age as a gap with its range, before any entry`, async t => {
    const skew = skewClock(t)
    for (const [reason, bounds] of [['count', { entries: 3 }], ['bytes', { bytes: 3 * Buffer.byteLength('data: 10\n\n') }], ['age', { age: 1000 }]] as const) {
      const served = await serveSession(t, { [option]: bounds })
      await served.session.join('room')
      await send(served, 10)
      await served.stream.waitFor(({ data }) => data === 10)
      await destroyStream(served)
      for (const n of [11, 12, 13]) await send(served, n)
      if (reason === 'age') skew(1001)
      for (const n of [14, 15, 16]) await send(served, n)
      const events = await resumeAfter(t, served, 1)
      const gap = { after: 1, resumedAt: 4, reason }
      t.strictSame(summarize(events), ['welcome', 'gap', 14, 15, 16], reason)
      t.strictSame(findGap(events), gap)
      t.strictSame(events.map(positionOf), [1, 4, 5, 6, 7])
      t.strictSame(served.reportedGaps.map(({ session, gap }) => ({ session: session.id, gap })), [{ session: served.session.id, gap }])
      t.strictSame(summarize(await resumeAfter(t, served, 4)), ['welcome', 14, 15, 16], 'a client that resumes with the id of the gap receives no second report')
      t.equal(served.reportedGaps.length, 1)
    }
  })
}

t.test('reports entries that expired without any append or read as a gap when the client resumes', async t => {
  const skew = skewClock(t)
  const served = await serveSession(t)
  await destroyStream(served)
  for (const n of [1, 2]) await served.session.send(n)
  skew(300_001)
  const events = await resumeAfter(t, served, 0)
  t.strictSame(summarize(events), ['welcome', 'gap'])
  t.strictSame(findGap(events), { after: 0, resumedAt: 2, reason: 'age' })
})

t.test('sends older entries of other logs after the gap, and repeats the gap until all of them are received', async t => {
  const served = await serveSession(t, { channelLog: { entries: 1 } })
  const { session, sessions } = served
  await session.join('room')
  await destroyStream(served)
  await session.send(1)
  await sessions.channel('room').send(2)
  await session.send(3)
  await sessions.channel('room').send(4)
  await session.send(5)
  await sessions.channel('room').send(6)
  const events = await resumeAfter(t, served, 0)
  t.strictSame(summarize(events), ['welcome', 'gap', 1, 3, 5, 6])
  t.strictSame(findGap(events), { after: 0, resumedAt: 4, reason: 'count' })
  t.strictSame(events.map(positionOf), [0, 0, 1, 3, 5, 6])
  for (const [position, after, remaining] of [[1, 1, [3, 5, 6]], [3, 3, [5, 6]]] as const) {
    const again = await resumeAfter(t, served, position)
    t.strictSame(summarize(again), ['welcome', 'gap', ...remaining])
    t.strictSame(findGap(again), { after, resumedAt: 4, reason: 'count' })
  }
  t.strictSame(summarize(await resumeAfter(t, served, 5)), ['welcome', 6])
})

t.test('reports no gap to a client whose log was trimmed only up to its cursor', async t => {
  const served = await serveSession(t, { log: { entries: 2 } })
  await destroyStream(served)
  for (const n of [1, 2, 3, 4]) await served.session.send(n)
  t.strictSame(summarize(await resumeAfter(t, served, 2)), ['welcome', 3, 4])
  t.strictSame(summarize(await resumeAfter(t, served, 4)), ['welcome'])
  t.strictSame(served.reportedGaps, [])
  t.strictSame(summarize(await resumeAfter(t, served, 1)), ['welcome', 'gap', 3, 4])
})

/** Opens a stream whose client does not read, and sends until at least 200 messages are unsent. `read` starts to read. */
async function openStalledStream (t: Test, options: SseSessionsOptions): Promise<{ stream: ClientStream, proxy: FaultProxy, sent: number, read: () => void }> {
  const { app, port, sessions } = await serve(t, options)
  const sockets: Socket[] = []
  app.server.on('connection', socket => { sockets.push(socket) })
  const proxy = await startFaultProxy(t, port)
  const stream = await openStream(t, proxy.url)
  const session = await sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('no session')
  proxy.connections[0]?.server.pause()
  const padding = 'x'.repeat(10_000)
  let n = 0
  while (n - session[kInternals].cursor < 200) {
    for (let i = 0; i < 50; i++) await session.send({ n: ++n, padding })
    await waitUntil(() => session[kInternals].cursor === n || sockets[0]?.writableNeedDrain === true, 'the stream to write or to stall')
  }
  return { stream, proxy, sent: n, read: () => { proxy.connections[0]?.server.resume() } }
}

t.test('a client that reads too slowly receives a gap and what the log has kept, on the same connection', async t => {
  const { stream, proxy, sent: n, read } = await openStalledStream(t, { log: { entries: 100 } })
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
      // The store is new and the messages are its only entries, so their numbers are their positions.
      if ((data as { n: number }).n !== cursor + 1) t.fail(`${JSON.stringify(data).slice(0, 20)} came after ${cursor}`)
      cursor++
    }
  }
  t.equal(cursor, n)
  t.ok(gaps.length > 0 && stream.events[1]?.event === 'message')
  t.equal(gaps.at(-1)?.resumedAt, n - 100)
  t.equal(proxy.connections.length, 1)
})

t.test('reports what expired while the client did not read as a gap when it reads again', async t => {
  const skew = skewClock(t)
  const { stream, sent, read } = await openStalledStream(t, { log: { bytes: 2 ** 30 } })
  skew(300_001)
  read()
  const gap = await stream.waitFor(({ event }) => event === 'gap', 'the gap')
  const last = (stream.events.at(-2)?.data as { n: number }).n
  t.strictSame(gap.data, { after: last, resumedAt: sent, reason: 'age' })
  t.ok(last <= sent - 200 && stream.events.length === last + 2)
})

t.test('reports a cursor ahead of the store as a gap back to the store, and delivers what is sent later', async t => {
  const served = await serveSession(t)
  await served.session.send(1)
  await served.stream.waitFor(({ data }) => data === 1)
  const events = await resumeAfter(t, served, 1000)
  t.strictSame(summarize(events), ['welcome', 'gap'])
  t.strictSame(findGap(events), { after: 1000, resumedAt: 1, reason: 'store' })
  t.strictSame(events.map(positionOf), [1000, 1], 'the welcome has the position of the client, the gap has the position of the store')
  matchList(t, served.reportedGaps, [{ gap: { after: 1000, resumedAt: 1, reason: 'store' } }])
  await served.session.send(2)
  t.strictSame(summarize(await resumeAfter(t, served, 1)), ['welcome', 2])
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} receives a gap as an event, and resumes after it`, async t => {
    const { sessions, port } = await serve(t, { retry: 1, log: { entries: 2 } })
    const proxy = await startFaultProxy(t, port)
    const source = open(t, `${proxy.url}/downward`)
    const welcome = deferred<string>()
    const last = deferred()
    const received: unknown[] = []
    for (const event of ['welcome', 'gap', 'message']) {
      source.addEventListener(event, ({ data }) => {
        const parsed: unknown = JSON.parse(String(data))
        received.push(event === 'welcome' ? event : parsed)
        if (event === 'welcome') welcome.resolve((parsed as { sessionId: string }).sessionId)
        if (parsed === 5) last.resolve()
      })
    }
    const session = await sessions.find(await withTimeout(welcome.promise, 'the welcome'))
    proxy.breakConnection('cut')
    for (const n of [1, 2, 3, 4]) session?.send(n)
    await waitUntil(() => received.includes(4), 'the last message')
    proxy.breakConnection('reset')
    session?.send(5)
    await withTimeout(last.promise, 'the message after the second fault')
    t.strictSame(received, ['welcome', 'welcome', { after: 0, resumedAt: 2, reason: 'count' }, 3, 4, 'welcome', 5])
  })
}

t.test('what an onGap hook sends comes after all entries that were left in the log', async t => {
  // Half of the log is trimmed: one more message makes it move its entries to the front of its arrays.
  const { sessions, url } = await serve(t, { log: { entries: 100 } })
  sessions.addHook('onGap', session => session.send('state'))
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  first.destroy()
  await waitUntil(() => session?.connected === false, 'the loss of the stream')
  for (let n = 1; n < 200; n++) await session?.send(n)
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(first.sessionId, 0) } })
  await stream.waitFor(({ data }) => data === 'state')
  t.strictSame(summarize(stream.events), ['welcome', 'gap', ...Array.from({ length: 100 }, (_, index) => 100 + index), 'state'])
})

t.test('what an onGap hook sends comes after the welcome, even if it exceeds the log after a rollback', async t => {
  const { sessions, url } = await serve(t, { log: { entries: 2 } })
  const first = await openStream(t, url)
  sessions.addHook('onGap', session => { for (const n of [1, 2, 3, 4]) session.send(n) })
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(first.sessionId, 1000) } })
  await stream.waitFor(({ data }) => data === 4)
  t.strictSame(summarize(stream.events), ['welcome', 'gap', 1, 2, 3, 4])
})
