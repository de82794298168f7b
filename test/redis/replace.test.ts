import { mock } from 'node:test'
import Fastify from 'fastify'
import t from 'tap'
import type { CommandQueue } from '../../lib/store/redis/command-queue.js'
import type { Inbox } from '../../lib/store/redis/replica/inbox.js'
import { runAll } from '../../lib/store/redis/replica/log-reducer.js'
import { LogReplica } from '../../lib/store/redis/replica/log-replica.js'
import type { Reducer } from '../../lib/store/redis/replica/reducer.js'
import { SessionReplica } from '../../lib/store/redis/replica/session-replica.js'
import { StreamOwnership } from '../../lib/store/redis/stream-ownership.js'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream, createEarlierTime } from '../support/memory-stream.js'
import { openTwoNodes, watchAcquire } from './support/two-nodes.js'
import { MemorySink, readEvents } from '../support/memory-sink.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { nextEventLoopTick, waitUntil } from '../support/wait.js'

// The stream of a session moves between nodes, while publications about it are delayed or lost.

t.test('delivers events that a node missed while another node had the stream', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, pausePublications, waitForReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session)
  pausePublications(true)
  const second = await attachMemoryStream(nodeB, await findSession(nodeB, session), first.cursor)
  await (await findSession(nodeB, session)).send(1)
  await waitUntil(() => second.messages().length === 1, 'the message')
  const isAcquired = await watchAcquire(redis, session)
  const attached = attachMemoryStream(nodeA, session, first.cursor)
  await waitUntil(isAcquired, 'Redis to execute the command')
  await waitForReplies()
  pausePublications(false)
  const third = await attached
  await waitUntil(() => third.messages().length === 1, 'the message on the new stream')
  t.ok(first.sink.closed)
})

t.test('a stream that was requested earlier does not replace a later stream of another node', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, pauseReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session, undefined, false, createEarlierTime())
  await session.send(1)
  await waitUntil(() => first.messages().length === 1, 'the message')
  pauseReplies(true)
  const isAcquired = await watchAcquire(redis, session)
  const attached = attachMemoryStream(nodeA, session, first.cursor, false, createEarlierTime())
  await waitUntil(isAcquired, 'Redis to execute the command')
  const down = await attachMemoryStream(nodeB, await findSession(nodeB, session), first.cursor)
  pauseReplies(false)
  const earlierStream = await attached
  await waitUntil(() => earlierStream.sink.closed, 'the end of the stream that was requested earlier')
  // Whether it delivers the message before it is replaced depends on the time.
  matchList(t, earlierStream.read().filter(({ event }) => event !== 'message'), [{ event: 'replaced' }])
  await session.send(2)
  await waitUntil(() => down.messages().length === 2, 'the messages')
  t.notOk(down.sink.closed)
})

t.test('a stream that was requested earlier does not replace a later stream of its node, although its session was found later', needsRedis, async t => {
  const { sessions } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const earlier = performance.now()
  const stream = await attachMemoryStream(sessions, session)
  await session.send(1)
  await waitUntil(() => stream.messages().length === 1, 'the message')
  const earlierStream = await attachMemoryStream(sessions, session, stream.cursor, false, earlier)
  t.ok(earlierStream.sink.closed)
  matchList(t, earlierStream.read(), [{ event: 'replaced' }])
  await session.send(2)
  await waitUntil(() => stream.messages().length === 2, 'the next message')
  t.strictSame([stream.messages(), stream.sink.closed], [[1, 2], false])
})

t.test('a stream that moves to another node and back delivers all events, even if the first move is received late', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, pauseReplies, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => first.messages().length === 1, 'the message')
  pausePublications(true)
  await attachMemoryStream(nodeB, await findSession(nodeB, session), first.cursor)
  await (await findSession(nodeB, session)).send(2)
  pauseReplies(true)
  const isAcquired = await watchAcquire(redis, session)
  const attached = attachMemoryStream(nodeA, session, first.cursor)
  await waitUntil(isAcquired, 'Redis to execute the command')
  pausePublications(false)
  await waitUntil(() => first.sink.closed, 'the replacement')
  pauseReplies(false)
  const down = await attached
  await waitUntil(() => down.messages().length === 2, 'the messages')
  t.strictSame(down.messages(), [1, 2])
  await session.send(3)
  await waitUntil(() => down.messages().length === 3, 'the next message')
})

t.test('a stream that was replaced unnoticed ends after its node has reconnected', needsRedis, async t => {
  const [, { sessions: nodeB }, { sessions: nodeA, pausePublications, proxy }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session, undefined, false, createEarlierTime())
  pausePublications(true)
  const down = await attachMemoryStream(nodeB, await findSession(nodeB, session), first.cursor)
  proxy.connections[1]?.client.resetAndDestroy()
  await waitUntil(() => first.sink.closed, 'the end of the stream')
  matchList(t, first.read(), [{ event: 'replaced' }])
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
})

t.test('a stream of a session that has closed meanwhile delivers the remaining events and the close event', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, pausePublications, waitForReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeB)
  const local = await findSession(nodeA, session)
  const { signal } = local
  pausePublications(true)
  await session.send(1)
  await session.close('enough')
  const isAcquired = await watchAcquire(redis, session)
  const attached = attachMemoryStream(nodeA, local, local[kInternals].cursor)
  await waitUntil(isAcquired, 'Redis to execute the command')
  await waitForReplies()
  pausePublications(false)
  const down = await attached
  await waitUntil(() => down.sink.closed && signal.aborted, 'the end of the stream')
  matchList(t, down.read(), [{ event: 'message', data: 1 }, { event: 'close', data: { reason: 'enough' } }])
})

t.test('a stream ends if another node replaces it before its response starts, and its client can resume', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const { cursor } = session[kInternals]
  session[kInternals].retainForResume()
  const newestPosition = await nodeA.acquireStream(session, cursor) ?? 0
  // Another node replaces the stream while the hooks of the response run.
  const down = await attachMemoryStream(nodeB, await findSession(nodeB, session), cursor)
  down.sink.destroy()
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the owner to be released')
  await session.send(1)
  const sink = new MemorySink(false)
  await findSession(nodeA, session)
  session[kInternals].setStream({ sink, cursor, newestPosition, welcome: '{}', resumed: true, requestedAt: performance.now(), logger: Fastify().log })
  await waitUntil(() => sink.closed, 'the end of the first stream')
  t.strictSame(readEvents(sink).map(({ event }) => event), ['welcome'])
  const resumed = await attachMemoryStream(nodeA, session, cursor)
  await waitUntil(() => resumed.messages().length === 1, 'the message')
})

t.test('a stream that is replaced before its response starts ends without an event if the order of the requests is unknown, even after a stream that ended with "replaced"', needsRedis, async t => {
  const [, { sessions: nodeB }, { sessions: nodeA, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session, undefined, false, createEarlierTime())
  const { cursor } = first
  await attachMemoryStream(nodeB, await findSession(nodeB, session), cursor)
  await waitUntil(() => first.sink.closed, 'the end of the first stream')
  matchList(t, first.read(), [{ event: 'replaced' }])
  session[kInternals].retainForResume()
  const requestedAt = performance.now()
  const newestPosition = await nodeA.acquireStream(session, cursor, requestedAt) ?? 0
  pausePublications(true)
  await nodeB.acquireStream(await findSession(nodeB, session), cursor, requestedAt)
  // The record shows that another node has the stream, but not whether its request is newer.
  await findSession(nodeA, session)
  const sink = new MemorySink(false)
  session[kInternals].setStream({ sink, cursor, newestPosition, welcome: '{}', resumed: true, requestedAt: performance.now(), logger: Fastify().log })
  await waitUntil(() => sink.closed, 'the end of the second stream')
  t.strictSame(readEvents(sink).map(({ event }) => event), ['welcome'])
  pausePublications(false)
})

t.test('a request that arrived earlier does not take the stream from a node with a newer one', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const requestedAt = performance.now()
  // Longer than the clocks of the nodes can differ.
  await waitUntil(() => performance.now() - requestedAt > 1000, 'the next request')
  const down = await attachMemoryStream(nodeB, await findSession(nodeB, session))
  await t.rejects(Promise.resolve(nodeA.acquireStream(session, down.cursor, requestedAt)), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  t.equal(down.sink.closed, false)
})

t.test('if it is unknown which of two requests is newer, the stream that is replaced ends without an event, so that its client reconnects', needsRedis, async t => {
  const [, { sessions: nodeB }, { sessions: nodeA }] = await openTwoNodes(t)
  for (const [delay, events] of [[0, []], [60_000, [{ event: 'replaced' }]]] as const) {
    const session = await openSession(nodeA)
    const requestedAt = performance.now()
    const down = await attachMemoryStream(nodeA, session, undefined, false, requestedAt - delay)
    await nodeB.acquireStream(await findSession(nodeB, session), down.cursor, requestedAt)
    await waitUntil(() => down.sink.closed, 'the end of the stream')
    matchList(t, down.read(), events)
  }
})

t.test('a stream replaces one whose request has a later time, because the clock of Redis was set back', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session)
  // The same state as after the clock was set back by an hour.
  const later = String((Date.now() + 3_600_000) * 1000)
  await redis.sendCommand('HSET', `{sse}:s:${session.id}`, 'requestedAt', later, 'requestedUntil', later)
  const down = await attachMemoryStream(nodeB, await findSession(nodeB, session), first.cursor)
  await waitUntil(() => first.sink.closed, 'the end of the first stream')
  t.strictSame(first.read(), [])
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  t.ok(Number(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'requestedAt')) < Number(later))
})

t.test('an attach waits while logs become complete, also if the stream has to read more of them meanwhile', async t => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => { mock.timers.reset() })
  // Called directly, because Redis would read the logs at once.
  const execute = async (): Promise<unknown> => ({ value: [], position: 5, isApplied: true })
  const ownership = new StreamOwnership({ clockOffset: 0, clockError: 0 } as CommandQueue, { execute } as unknown as Inbox, {} as Reducer, 1000)
  const state = new SessionReplica('a', undefined, 0, { isFenced: false, mayMissBroadcasts: false })
  state.epoch = 1
  const addLog = (name: string): LogReplica => {
    const replica = new LogReplica('channel', name, { entries: 1, bytes: 1, age: 1 })
    replica.addReader(state, 0)
    return replica
  }
  const [first, second] = [addLog('a'), addLog('b')]
  const attached = ownership.attach(state, 0, performance.now())
  await nextEventLoopTick()
  first.release(state)
  const third = addLog('c')
  for (let i = 0; i < 2; i++) {
    mock.timers.tick(2000)
    await nextEventLoopTick()
    t.equal(state.completeWaiters.length, 1)
    second.release(state)
  }
  third.release(state)
  runAll(state.completeWaiters)
  t.equal(await attached, 5)

  addLog('d')
  const failed = t.rejects(ownership.attach(state, 0, performance.now()), { code: 'FST_SSE_STORE_UNAVAILABLE', cause: { message: /logs were not read/ } })
  await nextEventLoopTick()
  mock.timers.tick(2000)
  await failed
})

t.test('a request may have arrived at any time since the last but one run of the timers', async t => {
  // Called directly, because a process that is paused cannot run a test.
  let range: unknown
  const execute = async (_command: string, args: readonly unknown[]): Promise<unknown> => {
    range = args.slice(2)
    return { value: 'outdated' }
  }
  let time = 1000
  t.intercept(performance, 'now', { value: () => time, configurable: true })
  const ownership = new StreamOwnership({ clockOffset: 0, clockError: 0 } as CommandQueue, { execute } as unknown as Inbox, {} as Reducer, 1000)
  const state = new SessionReplica('a', undefined, 0, { isFenced: false, mayMissBroadcasts: false })
  const rangeAt = async (requestedAt: number): Promise<unknown> => {
    await t.rejects(ownership.attach(state, 0, requestedAt), { code: 'FST_SSE_STORE_UNAVAILABLE' })
    return range
  }
  for (time of [1000, 1100, 1200]) ownership.recordTime()
  t.strictSame(await rangeAt(1250), [1_100_000, 1_250_000])
  time = 3000
  ownership.recordTime()
  t.strictSame(await rangeAt(3001), [1_200_000, 3_001_000], 'after a pause')
  t.strictSame(await rangeAt(1250), [1_100_000, 1_250_000], 'a request that was read before the pause')
  for (time = 3100; time <= 63_100; time += 100) ownership.recordTime()
  t.strictSame(await rangeAt(63_101), [63_000_000, 63_101_000])
  t.strictSame(await rangeAt(1250), [0, 1_250_000], 'a minute later, nothing is known')
})

t.test('without a cursor, a client that changes nodes receives events again only if its previous stream has not ended', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => first.messages().length === 1, 'the event')
  const remote = await findSession(nodeB, session)
  const second = await attachMemoryStream(nodeB, remote)
  await waitUntil(() => second.messages().length === 1, 'the repeat')
  second.sink.destroy()
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the end of the stream')
  const third = await attachMemoryStream(nodeA, await findSession(nodeA, session))
  await session.send(2)
  await waitUntil(() => third.messages().includes(2), 'the next event')
  t.strictSame([second.messages(), third.messages()], [[1], [2]])
})
