import t, { type Test } from 'tap'
import type { Sessions, SseSessionsOptions } from '../../lib/index.js'
import { openSession, attachMemoryStream, type MemoryStream } from '../support/memory-stream.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { serve } from '../support/server.js'
import { openProxiedNode } from '../support/stores.js'
import { recordOpenedSessions, openRawClient } from '../support/raw-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

// More events than a log keeps, and more streams than the scheduler flushes in one tick.
const EVENTS = 1500
const STREAMS = 200

const numbers = Array.from({ length: EVENTS }, (_, n) => n)

async function openStreams (sessions: Sessions): Promise<MemoryStream[]> {
  return await Promise.all(Array.from({ length: STREAMS }, async () => {
    const session = await openSession(sessions)
    await session.join('room')
    return await attachMemoryStream(sessions, session)
  }))
}

/** Asserts that every stream received all numbered events in order, and no other event. */
async function assertAllReceived (t: Test, streams: readonly MemoryStream[]): Promise<void> {
  for (const stream of streams) await waitUntil(() => stream.read().length >= EVENTS, 'all events')
  t.ok(streams.every(({ events }) => events.every(({ event, data }, n) => event === 'message' && data === n)))
  t.ok(streams.every(({ events }) => events.length === EVENTS))
}

const smallLogs: SseSessionsOptions = { log: { bytes: 10_000 }, channelLog: { bytes: 10_000 } }

for (const [limit, options] of [['count', {}], ['bytes', smallLogs]] as const) {
  t.test(`delivers a burst above the ${limit} limit of a log to every client that keeps up`, async t => {
    const { sessions } = await serve(t, options)
    const streams = await openStreams(sessions)
    for (const n of numbers) sessions.channel('room').send(n)
    await assertAllReceived(t, streams)
    for (const { events } of streams) events.length = 0
    for (const n of numbers) sessions.broadcast('message', n)
    await assertAllReceived(t, streams)
    const session = await openSession(sessions)
    const ownStream = await attachMemoryStream(sessions, session)
    for (const n of numbers) session.send(n)
    await assertAllReceived(t, [ownStream])
  })
}

t.test('delivers a burst over a real connection, and reports a gap to a client that does not keep up', async t => {
  const { sessions, port } = await serve(t)
  const opened = recordOpenedSessions(sessions)
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  for (const n of numbers) opened[0]?.session.send({ n })
  await client.waitFor(`data: {"n":${EVENTS - 1}}`)
  t.strictSame(client.numbers(), numbers)
  t.notMatch(client.text(), 'event: gap')
  const stalled = await openSession(sessions)
  const stalledStream = await attachMemoryStream(sessions, stalled, undefined, true)
  for (const n of numbers) stalled.send(n)
  stalledStream.sink.drain(false)
  await waitUntil(() => stalledStream.read().length > 0, 'the remaining events')
  t.match(stalledStream.events[0], { event: 'gap', data: { reason: 'count' } })
  t.equal(stalledStream.events.at(-1)?.data, EVENTS - 1)
})

t.test('delivers a burst from another node over Redis completely', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: reader } = await openProxiedNode(t, redis)
  const { sessions: sender } = await openProxiedNode(t, redis)
  const streams = await openStreams(reader)
  await Promise.all(numbers.map(n => sender.broadcast('message', n)))
  await assertAllReceived(t, streams)
})

t.test('causes no error when a client ends its connection during a burst', async t => {
  const { app, sessions, port } = await serve(t, { log: { entries: 1 } })
  const errors: unknown[] = []
  app.server.on('clientError', error => { errors.push(error) })
  const opened = recordOpenedSessions(sessions)
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  const closed = deferred()
  opened[0]?.socket.on('close', () => { closed.resolve() }).on('end', () => {
    for (const n of [1, 2, 3]) opened[0]?.session.send({ n })
  })
  client.socket.end()
  await withTimeout(closed.promise, 'the end of the connection')
  t.strictSame(errors, [])
})
