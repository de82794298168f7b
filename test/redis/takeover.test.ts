import Fastify from 'fastify'
import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { MemorySink, received } from '../support/memory-sink.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

// The stream of a session moves between nodes, while publications about it are delayed or lost.

const epochOf = (redis: RedisServer, { id }: { id: string }): Promise<unknown> => redis.ask('HGET', `{sse}:s:${id}`, 'epoch')

t.test('delivers events that a node missed while another node had the stream', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, holdPublished } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const first = await stream(nodeA, session)
  holdPublished(true)
  const second = await stream(nodeB, await handleOf(nodeB, session), first.cursor)
  await (await handleOf(nodeB, session)).send(1)
  await until(() => second.messages().length === 1, 'the message')
  const third = await stream(nodeA, session, first.cursor)
  holdPublished(false)
  await until(() => third.messages().length === 1, 'the message on the new stream')
  t.ok(first.sink.closed)
})

t.test('a stream that was requested earlier does not replace a later stream of another node', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const first = await stream(nodeA, session)
  await session.send(1)
  await until(() => first.messages().length === 1, 'the message')
  holdAnswers(true)
  const attached = stream(nodeA, session, first.cursor)
  await until(async () => await epochOf(redis, session) === '2', 'Redis to execute the command')
  const down = await stream(nodeB, await handleOf(nodeB, session), first.cursor)
  await until(() => first.sink.closed, 'the replacement')
  holdAnswers(false)
  const earlierStream = await attached
  await until(() => earlierStream.sink.closed, 'the end of the stream that was requested earlier')
  t.match(earlierStream.read(), [{ event: 'replaced' }])
  await session.send(2)
  await until(() => down.messages().length === 2, 'the messages')
  t.notOk(down.sink.closed)
})

t.test('a stream that was taken back delivers all events, even if the first takeover is received late', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, holdAnswers, holdPublished } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const first = await stream(nodeA, session)
  await session.send(1)
  await until(() => first.messages().length === 1, 'the message')
  holdPublished(true)
  await stream(nodeB, await handleOf(nodeB, session), first.cursor)
  await (await handleOf(nodeB, session)).send(2)
  holdAnswers(true)
  const attached = stream(nodeA, session, first.cursor)
  await until(async () => await epochOf(redis, session) === '3', 'Redis to execute the command')
  holdPublished(false)
  await until(() => first.sink.closed, 'the replacement')
  holdAnswers(false)
  const down = await attached
  await until(() => down.messages().length === 2, 'the messages')
  t.strictSame(down.messages(), [1, 2])
  await session.send(3)
  await until(() => down.messages().length === 3, 'the next message')
})

t.test('a stream that was replaced unnoticed ends after its node has reconnected', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, holdPublished, proxy } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const first = await stream(nodeA, session)
  holdPublished(true)
  const down = await stream(nodeB, await handleOf(nodeB, session), first.cursor)
  proxy.connections[1]?.client.resetAndDestroy()
  await until(() => first.sink.closed, 'the end of the stream')
  t.match(first.read(), [{ event: 'replaced' }])
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
})

t.test('a stream of a session that has closed meanwhile delivers the remaining events and the close event', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, holdPublished, settled } = await farProcess(t, redis)
  const session = await openSession(nodeB)
  const local = await handleOf(nodeA, session)
  const { signal } = local
  holdPublished(true)
  await session.send(1)
  await session.close('enough')
  const attached = stream(nodeA, local, local[kStream].cursor)
  await until(async () => await epochOf(redis, session) === '1', 'Redis to execute the command')
  await settled()
  t.ok(local.closed)
  holdPublished(false)
  const down = await attached
  await until(() => down.sink.closed && signal.aborted, 'the end of the stream')
  t.match(down.read(), [{ event: 'message', data: 1 }, { event: 'close', data: { reason: 'enough' } }])
})

t.test('a stream ends if another node took it over before its response started, and its client can resume', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const { cursor } = session[kStream]
  const generation = session[kStream].retainForResume()
  const head = await nodeA.acquireStream(session, cursor) ?? 0
  // Another node takes over the stream while the hooks of the response run.
  const down = await stream(nodeB, await handleOf(nodeB, session), cursor)
  down.sink.destroy()
  await until(async () => await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the owner to be released')
  await session.send(1)
  const sink = new MemorySink(false)
  await handleOf(nodeA, session)
  session[kStream].attach({ sink, cursor, head, welcome: '{}', resumed: true, generation, logger: Fastify().log })
  await until(() => sink.closed, 'the end of the first stream')
  t.strictSame(received(sink).map(({ event }) => event), ['welcome'])
  const resumed = await stream(nodeA, session, cursor)
  await until(() => resumed.messages().length === 1, 'the message')
})
