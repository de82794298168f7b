import t from 'tap'
import { openSession, stream } from '../support/memory-client.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

eachLibrary(t, 'reads a missed entry when the next publication reveals the loss', async (t, fleet, redis) => {
  const nodeA = await fleet.process()
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  await nodeA.broadcast('message', 1)
  await until(() => down.messages().length === 1, 'the first message')
  // The same state as after another node has appended an entry and its publication was lost.
  const position = String(BigInt(String(await redis.ask('HGET', '{sse}:b', 'last'))) + 1n)
  await redis.ask('XADD', '{sse}:b:log', `${position}-0`, 'f', 'data: 2\n\n')
  await redis.ask('HSET', '{sse}:b', 'last', position)
  await nodeA.broadcast('message', 3)
  await until(() => down.messages().length === 3, 'all messages')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('reads the logs again if too many publications arrive during a comparison', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await farProcess(t, redis)
  const { sessions: nodeA, client, holdAnswers, heard } = await farProcess(t, redis)
  // Without heartbeats, because their replies would reveal the missing entry.
  beforeOrders(client, orders => orders.some(({ operation }) => operation === 'tick') ? new Promise(() => {}) : undefined)
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  await session.join('room')
  await nodeB.channel('room').send(1)
  await until(() => down.messages().length === 1, 'the first message')
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  const lastApplied = (): Promise<unknown> => redis.ask('HGET', '{sse}', `ran:${node}`)
  const before = await lastApplied()
  holdAnswers(true)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(async () => await lastApplied() !== before, 'the comparison')
  await nodeB.channel('room').send(2)
  const target = heard() + 10_000
  await redis.ask('EVAL', "for n = 1, 10001 do redis.call('PUBLISH', '{sse}:all', 'e nobody 1 closed') end", '0')
  await until(() => heard() > target, 'the publications')
  holdAnswers(false)
  await until(() => down.messages().length === 2, 'the message')
})

t.test('delivers messages of a channel whose subscription was confirmed late', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA, holdPublished } = await farProcess(t, redis)
  const { sessions: nodeB } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  holdPublished(true)
  await session.join('room')
  await nodeB.channel('room').send(1)
  const since = performance.now()
  await until(() => performance.now() - since > 2200, 'the timeout of the subscription')
  holdPublished(false)
  await until(() => down.messages().length === 1, 'the message')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
})

eachLibrary(t, 'ignores a publication about a session that is not in memory', async (_t, fleet, redis) => {
  const nodeA = await fleet.process()
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  const number = await redis.ask('HINCRBY', '{sse}', `closeReasons:${node}`, '1')
  await redis.ask('PUBLISH', `{sse}:n:${node}`, `${String(number)} j nobody 2 1 room`)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
})
