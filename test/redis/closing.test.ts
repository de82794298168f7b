import { createClient } from 'redis'
import t from 'tap'
import { StoreConnection } from '../../lib/store/redis/connection.js'
import { kInternals } from '../../lib/sessions/session.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { openTwoNodes } from './support/two-nodes.js'
import { createMessage, readQueue, recordHandlers, startGatedMessage } from './support/messages.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { testEachRedisClient, openProxiedNode } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

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
  const ready = deferred()
  const connection = new StoreConnection(client, { onPublication: () => {}, onDisconnect: () => { process.nextTick(() => { connection.close() }) }, onConnect: ready.resolve })
  await withTimeout(ready.promise, 'the connection')
  await connection.subscribe(['all'])
  const countConnections = async (): Promise<number> => Number((await redis.info('stats')).total_connections_received)
  const before = await countConnections()
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await waitUntil(async () => await countConnections() > before, 'the connection')
  const connections = async (): Promise<string[]> => String(await redis.sendCommand('CLIENT', 'LIST')).trim().split('\n').filter(line => !line.includes('name=test'))
  await t.resolves(waitUntil(async () => (await connections()).length === 1, 'the connection to close'))
})

t.test('closes a connection of node-redis to which Redis has not replied yet', needsRedis, async t => {
  const redis = await startRedis(t)
  const { port, connections } = await startFaultProxy(t, redis.port)
  const client = createClient({ socket: { port, host: '127.0.0.1' } })
  client.on('error', () => {})
  const connecting = deferred()
  const { duplicate } = client
  Object.assign(client, { duplicate: () => duplicate.call(client).on('connect', connecting.resolve) })
  redis.pause()
  const connection = new StoreConnection(client, { onPublication: () => {}, onDisconnect: () => {}, onConnect: () => { t.fail('Redis is paused') } })
  await withTimeout(connecting.promise, 'the socket')
  connection.close()
  await t.resolves(waitUntil(() => connections[0]?.client.destroyed === true, 'the end of the connection'))
  redis.resume()
})

t.test('a closing node starts no handler for a message whose enqueueing is in progress', needsRedis, async t => {
  const [redis, { sessions: nodeA, pauseReplies }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeB)
  const local = await findSession(nodeA, session)
  const { handled, handle } = recordHandlers()
  pauseReplies(true)
  const result = Promise.resolve(local[kInternals].messageQueue.enqueue(createMessage('key', handle('closing'))))
  result.catch(() => {})
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 1, 'the message to be queued')
  const closed = nodeA.close()
  pauseReplies(false)
  await t.rejects(result, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await closed
  await t.rejects(Promise.resolve(local[kInternals].messageQueue.enqueue(createMessage('key', handle('closed')))), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('key', handle('other'))), { replayed: false })
  t.strictSame(handled, ['other'])
})

t.test('a closing node does not wait forever for a running handler', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const { gate, started, running } = startGatedMessage(session)
  await withTimeout(started, 'the handler')
  await withTimeout(sessions.close(), 'the store to close')
  gate.resolve()
  await running
})

t.test('a closing node stays registered until Redis has the response of its last handler', needsRedis, async t => {
  const [, { sessions: nodeA, client }, { sessions: nodeB }] = await openTwoNodes(t, { closeTimeout: 60_000 })
  const session = await openSession(nodeB)
  const { gate, started, handle, running } = startGatedMessage(await findSession(nodeA, session))
  await withTimeout(started, 'the handler')
  const [completing, released] = [deferred(), deferred()]
  const operations: string[] = []
  interceptStoreCommands(client, commands => {
    const names = commands.map(({ operation }) => operation)
    operations.push(...names)
    if (!names.includes('complete')) return undefined
    completing.resolve()
    return released.promise
  })
  const closed = nodeA.close()
  gate.resolve()
  await running
  await withTimeout(completing.promise, 'the response to be sent')
  const after = operations.indexOf('complete')
  await waitUntil(() => operations.length > after + 2, 'two heartbeats')
  t.strictSame(operations.slice(after, after + 3), ['complete', 'heartbeat', 'heartbeat'])
  released.resolve()
  await withTimeout(closed, 'the close')
  t.equal(operations.at(-1), 'deregister')
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat'))), { replayed: true })
})
