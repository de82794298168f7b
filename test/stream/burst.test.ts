import t, { type Test } from 'tap'
import type { Sessions, SseSessionsOptions } from '../../lib/index.js'
import { openSession, stream, type MemoryStream } from '../support/memory-client.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { serve } from '../support/server.js'
import { farProcess } from '../support/stores.js'
import { listOpened, wire } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

// Far more than a log keeps, to more streams than write in one turn.
const EVENTS = 1500
const STREAMS = 200

const numbers = Array.from({ length: EVENTS }, (_, n) => n)

async function crowd (sessions: Sessions): Promise<MemoryStream[]> {
  return await Promise.all(Array.from({ length: STREAMS }, async () => {
    const session = await openSession(sessions)
    await session.join('room')
    return await stream(sessions, session)
  }))
}

/** That all have everything, in order, and were told of nothing else. */
async function hasAll (t: Test, streams: readonly MemoryStream[]): Promise<void> {
  for (const one of streams) await until(() => one.read().length >= EVENTS, 'the events')
  t.ok(streams.every(one => one.events.every(({ event, data }, n) => event === 'message' && data === n)))
  t.ok(streams.every(({ events }) => events.length === EVENTS))
}

const small: SseSessionsOptions = { log: { bytes: 10_000 }, channelLog: { bytes: 10_000 } }

for (const [by, options] of [['count', {}], ['bytes', small]] as const) {
  t.test(`whatever is sent in one turn, clients that take it lose nothing to a log's ${by}`, async t => {
    const { sessions } = await serve(t, options)
    const streams = await crowd(sessions)
    for (const n of numbers) sessions.channel('room').send(n)
    await hasAll(t, streams)
    for (const one of streams) one.events.length = 0
    for (const n of numbers) sessions.broadcast('message', n)
    await hasAll(t, streams)
    const session = await openSession(sessions)
    const own = await stream(sessions, session)
    for (const n of numbers) session.send(n)
    await hasAll(t, [own])
  })
}

t.test('over a connection, too, all that is sent in one turn comes, and what a client does not take is told', async t => {
  const { sessions, port } = await serve(t)
  const opened = listOpened(sessions)
  const client = wire(t, port)
  await client.waitFor('event: welcome')
  for (const n of numbers) opened[0]?.session.send({ n })
  await client.waitFor(`data: {"n":${EVENTS - 1}}`)
  t.strictSame(client.numbers(), numbers)
  t.notMatch(client.text(), 'event: gap')
  const stalled = await openSession(sessions)
  const none = await stream(sessions, stalled, undefined, true)
  for (const n of numbers) stalled.send(n)
  none.sink.drain(false)
  await until(() => none.read().length > 0, 'the rest')
  t.match(none.events[0], { event: 'gap', data: { reason: 'count' } })
  t.equal(none.events.at(-1)?.data, EVENTS - 1)
})

t.test('what another process sends in one turn comes over Redis whole', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const streams = await crowd(one)
  await Promise.all(numbers.map(n => two.broadcast('message', n)))
  await hasAll(t, streams)
})

t.test('a client that ends its connection while a burst is written causes no error', async t => {
  const { app, sessions, port } = await serve(t, { log: { entries: 1 } })
  const errors: unknown[] = []
  app.server.on('clientError', error => { errors.push(error) })
  const opened = listOpened(sessions)
  const client = wire(t, port)
  await client.waitFor('event: welcome')
  const closed = signal()
  opened[0]?.socket.on('close', () => { closed.resolve() }).on('end', () => {
    for (const n of [1, 2, 3]) opened[0]?.session.send({ n })
  })
  client.socket.end()
  await within(closed.promise, 'the end of the connection')
  t.strictSame(errors, [])
})
