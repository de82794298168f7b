import t from 'tap'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

eachLibrary(t, 'reports a gap if the store has been rolled back', async (t, fleet, redis) => {
  const nodeA = await fleet.process()
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  await redis.ask('HSET', '{sse}', 'pos', '1')
  await session.send(2)
  await until(() => down.messages().length === 2, 'the next message')
  t.match(down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 2 }])
})

t.test('a rollback reports missed publications as lost, and later messages arrive', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, proxy, holdPublished } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  holdPublished(true)
  await (await handleOf(nodeB, session)).send(2)
  await redis.ask('HSET', '{sse}', 'pos', '1')
  proxy.connections[1]?.client.resetAndDestroy()
  await until(() => down.read().some(({ event }) => event === 'gap'), 'the gap')
  await session.send(3)
  await until(() => down.messages().includes(3), 'the next message')
  t.match(down.read(), [{ event: 'message', data: 1 }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 3 }])
  t.equal(down.read().length, 3)
})

t.test('after a rollback, a session has its earlier state, and later changes apply', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await session.update({ nick: 'ann' })
  const rollBack = await redis.snapshot()
  for (const nick of ['bob', 'cid', 'dan']) await session.update({ nick })
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  await rollBack()
  await session.join('room')
  await sessions.channel('room').send(2)
  await session.send(3)
  await until(() => down.messages().includes(3), 'the last message')
  t.strictSame(down.messages(), [1, 2, 3])
  await until(() => session.data.nick === 'ann', 'the data')
})

eachLibrary(t, 'delivers messages after a rollback of the inbox sequence number', async (_t, fleet, redis) => {
  const nodeA = await fleet.process()
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  await redis.ask('HINCRBY', '{sse}', `closeReasons:${node}`, '-2')
  await session.send(2)
  await until(() => down.messages().length === 2, 'the next message')
})
