import t from 'tap'
import { openSession, stream } from '../support/memory-client.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

eachLibrary(t, 'an idle node keeps sending heartbeats after SCRIPT FLUSH', async (_t, fleet, redis) => {
  await fleet.process()
  await redis.ask('SCRIPT', 'FLUSH')
  const lastHeartbeat = (): Promise<unknown> => redis.ask('HGET', '{sse}', 'at')
  const before = await lastHeartbeat()
  await until(async () => await lastHeartbeat() !== before, 'the next heartbeat')
})

t.test('the session count is at most one second old, however long the lease is', needsRedis, async t => {
  const { sessions } = await farProcess(t, await startRedis(t), {}, { lease: 60_000 })
  await openSession(sessions)
  await until(() => sessions.size === 1, 'the session count', 5000)
})

t.test('no commands are queued in the client while Redis is down, and the first one afterwards is a heartbeat', needsRedis, async t => {
  const { sessions, client, proxy } = await farProcess(t, await startRedis(t), {}, { lease: 60_000 })
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  proxy.setDown(true)
  await until(() => client.status !== 'ready', 'the disconnect')
  const operations: string[] = []
  beforeOrders(client, orders => { operations.push(...orders.map(({ operation }) => operation)) })
  const sent = session.send(1)
  // Commands time out after two seconds.
  await t.rejects(sent, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  const since = performance.now()
  await until(() => performance.now() - since > 1200, 'the next heartbeat to be due')
  t.strictSame(operations, [])
  proxy.setDown(false)
  await until(() => operations.length > 0, 'the first operation')
  t.equal(operations[0], 'tick')
  await session.send(2)
  await until(() => down.messages().length === 1, 'the message')
})
