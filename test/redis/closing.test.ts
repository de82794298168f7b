import { createClient } from 'redis'
import t from 'tap'
import { Link } from '../../lib/store/redis/client.js'
import { openSession } from '../support/memory-stream.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { testEachRedisClient, openProxiedNode } from '../support/stores.js'
import { waitUntil, withTimeout } from '../support/wait.js'

testEachRedisClient(t, 'a closed store rejects commands', async (t, store) => {
  const sessions = await store.addNode()
  const session = await openSession(sessions)
  await sessions.close()
  await t.rejects(withTimeout(session.send(1), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('a node can close while it resubscribes', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, proxy } = await openProxiedNode(t, redis)
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  redis.pause()
  await waitUntil(() => proxy.connections.length === 3, 'the connection')
  await sessions.close()
  redis.resume()
  // An unhandled rejection would fail the test.
  await t.resolves(waitUntil(() => proxy.connections[2]?.client.destroyed === true, 'the end of the connection'))
})

t.test('closes the connection that node-redis opens while the store closes', needsRedis, async t => {
  const redis = await startRedis(t)
  const client = createClient({ socket: { port: redis.port, host: '127.0.0.1' } })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  const noop = (): void => {}
  const connection = new Link(client, 2000, { message: noop, deaf: () => { process.nextTick(() => { connection.close() }) }, hearing: noop, restored: noop })
  await connection.open()
  await connection.subscribe(['all'])
  const countConnections = async (): Promise<number> => Number((await redis.info('stats')).total_connections_received)
  const before = await countConnections()
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await waitUntil(async () => await countConnections() > before, 'the connection')
  const connections = async (): Promise<string[]> => String(await redis.sendCommand('CLIENT', 'LIST')).trim().split('\n').filter(line => !line.includes('name=test'))
  await t.resolves(waitUntil(async () => (await connections()).length === 1, 'the connection to close'))
})
