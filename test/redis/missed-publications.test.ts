import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { openTwoNodes } from './support/two-nodes.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { testEachRedisClient } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

testEachRedisClient(t, 'reads a missed entry when the next publication reveals the loss', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await nodeA.broadcast('message', 1)
  await waitUntil(() => down.messages().length === 1, 'the first message')
  // The same state as after another node has appended an entry and its publication was lost.
  const position = String(BigInt(String(await redis.sendCommand('HGET', '{sse}:b', 'last'))) + 1n)
  await redis.sendCommand('XADD', '{sse}:b:log', `${position}-0`, 'f', 'data: 2\n\n')
  await redis.sendCommand('HSET', '{sse}:b', 'last', position)
  await nodeA.broadcast('message', 3)
  await waitUntil(() => down.messages().length === 3, 'all messages')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('reads the logs again if too many publications arrive during a comparison', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, client, pauseReplies, publicationCount }] = await openTwoNodes(t)
  // Without heartbeats, because their replies would reveal the missing entry.
  interceptStoreCommands(client, storeCommands => storeCommands.some(({ operation }) => operation === 'heartbeat') ? new Promise(() => {}) : undefined)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.join('room')
  await nodeB.channel('room').send(1)
  await waitUntil(() => down.messages().length === 1, 'the first message')
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  const lastApplied = (): Promise<unknown> => redis.sendCommand('HGET', '{sse}', `applied:${node}`)
  const before = await lastApplied()
  pauseReplies(true)
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await waitUntil(async () => await lastApplied() !== before, 'the comparison')
  await nodeB.channel('room').send(2)
  const target = publicationCount() + 10_000
  await redis.sendCommand('EVAL', "for n = 1, 10001 do redis.call('PUBLISH', '{sse}:all', 'e nobody 1 closed') end", '0')
  await waitUntil(() => publicationCount() > target, 'the publications')
  pauseReplies(false)
  await waitUntil(() => down.messages().length === 2, 'the message')
})

t.test('delivers events of a channel whose subscription was confirmed late', needsRedis, async t => {
  const [, { sessions: nodeA, pausePublications }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  pausePublications(true)
  await session.join('room')
  await nodeB.channel('room').send(1)
  const since = performance.now()
  await waitUntil(() => performance.now() - since > 2200, 'the timeout of the subscription')
  pausePublications(false)
  await waitUntil(() => down.messages().length === 1, 'the message')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
})

testEachRedisClient(t, 'ignores a publication about a session that is not in memory', async (_t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  const number = await redis.sendCommand('HINCRBY', '{sse}', `inbox:${node}`, '1')
  await redis.sendCommand('PUBLISH', `{sse}:n:${node}`, `${String(number)} j nobody 2 1 room`)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
})

t.test('a GET opens no stream if its session has expired meanwhile', needsRedis, async t => {
  const [redis, { sessions }] = await openTwoNodes(t)
  const session = await openSession(sessions)
  await redis.sendCommand('DEL', `{sse}:s:${session.id}`)
  await t.rejects(attachMemoryStream(sessions, session), { message: 'the session does not exist any more' })
  t.equal(session.closed, true)
})

t.test('a GET opens no stream if its session has expired meanwhile and the mark of the reply is lost', needsRedis, async t => {
  const [redis, { sessions: nodeA, pausePublications, waitForReplies }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeB)
  const local = await findSession(nodeA, session)
  pausePublications(true)
  await redis.sendCommand('DEL', `{sse}:s:${session.id}`)
  const attached = attachMemoryStream(nodeA, local, local[kInternals].cursor)
  attached.catch(() => {})
  await waitForReplies()
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  pausePublications(false)
  await t.rejects(attached, { message: 'the session does not exist any more' })
  t.equal(local.closed, true)
})

t.test('a call that finds that a session was deleted ends its stream', needsRedis, async t => {
  const [redis, { sessions: nodeA }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await redis.sendCommand('DEL', `{sse}:s:${session.id}`)
  await t.rejects(Promise.resolve(session.send(1)), { code: 'FST_SSE_SESSION_OVER' })
  await waitUntil(() => down.sink.closed, 'the end of the stream')
})
