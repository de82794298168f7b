import t from 'tap'
import { findSession, openSession, attachStream } from '../support/memory-stream.js'
import { openTwoNodes } from './support/two-nodes.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { testEachRedisClient, openProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

testEachRedisClient(t, 'reports a gap if the store has been rolled back', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  const down = await attachStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  await session.send(2)
  await waitUntil(() => down.messages().length === 2, 'the next message')
  t.match(down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 2 }])
})

t.test('a rollback reports missed publications as lost, and later events arrive', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, proxy, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  pausePublications(true)
  await (await findSession(nodeB, session)).send(2)
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  proxy.connections[1]?.client.resetAndDestroy()
  await waitUntil(() => down.read().some(({ event }) => event === 'gap'), 'the gap')
  await session.send(3)
  await waitUntil(() => down.messages().includes(3), 'the next message')
  t.match(down.read(), [{ event: 'message', data: 1 }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 3 }])
  t.equal(down.read().length, 3)
})

t.test('after a rollback, a session has its earlier state, and later changes apply', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachStream(sessions, session)
  await session.update({ nick: 'ann' })
  const rollBack = await redis.snapshot()
  for (const nick of ['bob', 'cid', 'dan']) await session.update({ nick })
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await rollBack()
  await session.join('room')
  await sessions.channel('room').send(2)
  await session.send(3)
  await waitUntil(() => down.messages().includes(3), 'the last message')
  t.strictSame(down.messages(), [1, 2, 3])
  await waitUntil(() => session.data.nick === 'ann', 'the data')
})

testEachRedisClient(t, 'delivers events after a rollback of the inbox sequence number', async (_t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  const down = await attachStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  await redis.sendCommand('HINCRBY', '{sse}', `inbox:${node}`, '-2')
  await session.send(2)
  await waitUntil(() => down.messages().length === 2, 'the next message')
})
