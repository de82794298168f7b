import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { skewClock } from '../support/clock.js'
import { openSession, attachMemoryStream } from '../support/memory-stream.js'
import { interceptStoreCommands, parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { testEachRedisClient, openProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

testEachRedisClient(t, 'an idle node keeps sending heartbeats after SCRIPT FLUSH', async (_t, store, redis) => {
  await store.addNode()
  await redis.sendCommand('SCRIPT', 'FLUSH')
  const lastHeartbeat = (): Promise<unknown> => redis.sendCommand('HGET', '{sse}', 'clockAt')
  const before = await lastHeartbeat()
  await waitUntil(async () => await lastHeartbeat() !== before, 'the next heartbeat')
})

t.test('updates the session count soon, however long the lease and resumeTimeout are', needsRedis, async t => {
  // A fifth of the lease and a quarter of resumeTimeout are both longer than the wait.
  const { sessions } = await openProxiedNode(t, await startRedis(t), { resumeTimeout: 600_000 }, { lease: 600_000 })
  await openSession(sessions)
  await waitUntil(() => sessions.size === 1, 'the session count')
})

t.test('no commands are queued in the client while Redis is down, and the first one afterwards is a heartbeat', needsRedis, async t => {
  const { sessions, client, proxy } = await openProxiedNode(t, await startRedis(t), {}, { lease: 60_000 })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  proxy.setDown(true)
  await waitUntil(() => client.status !== 'ready', 'the disconnect')
  const operations: string[] = []
  interceptStoreCommands(client, storeCommands => { operations.push(...storeCommands.map(({ operation }) => operation)) })
  const sent = session.send(1)
  // Commands time out after two seconds.
  await t.rejects(sent, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  const since = performance.now()
  await waitUntil(() => performance.now() - since > 1200, 'the next heartbeat to be due')
  t.strictSame(operations, [])
  proxy.setDown(false)
  await waitUntil(() => operations.length > 0, 'the first operation')
  t.equal(operations[0], 'heartbeat')
  await session.send(2)
  await waitUntil(() => down.messages().length === 1, 'the message')
})

t.test('the lease ends while the machine is suspended, which only the time of day shows', needsRedis, async t => {
  const advance = skewClock(t, Date)
  const { sessions } = await openProxiedNode(t, await startRedis(t), {}, { lease: 60_000 })
  const session = await openSession(sessions)
  await attachMemoryStream(sessions, session)
  const internals = session[kInternals]
  await waitUntil(() => internals.canWrite, 'the stream')
  advance(61_000)
  t.equal(internals.canWrite, false)
  await waitUntil(() => internals.canWrite, 'the next heartbeat')
})

t.test('a heartbeat ends at most 128 runs of nodes that have failed, and others follow at once until all have ended', needsRedis, async t => {
  const redis = await startRedis(t)
  const { client } = await openProxiedNode(t, redis, {}, { lease: 60_000 })
  const nodes = ['dead1', 'dead2', 'dead3']
  const countRuns = async (): Promise<number> => {
    let count = 0
    for (const node of nodes) count += await redis.sendCommand('ZCARD', `{sse}:runs:${node}`) as number
    return count
  }
  for (const node of nodes) {
    for (let n = 0; n < 100; n++) {
      const id = `${node}-${n}`
      await redis.sendCommand('HSET', `{sse}:r:${id}`, 'input', '{}', 'name', id, 'keep', '60000', 'startPosition', '1', 'last', '1', 'owner', node, 'nodes', `${node},`)
      await redis.sendCommand('ZADD', `{sse}:runs:${node}`, '1', id)
    }
  }
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const counts: number[] = []
  const callAndCount = async (...command: string[]): Promise<unknown> => {
    if (!parseStoreCommands(command).some(({ operation }) => operation === 'heartbeat')) return await call(...command)
    const before = await countRuns()
    const reply = await call(...command)
    counts.push(before - await countRuns())
    return reply
  }
  Object.assign(client, { call: callAndCount })
  await redis.sendCommand('ZADD', '{sse}:producers', ...nodes.flatMap(node => ['0', node]))
  await waitUntil(() => counts.reduce((sum, count) => sum + count, 0) === 300, 'the runs to end')
  t.strictSame(counts.filter(count => count > 0), [128, 128, 44])
})
