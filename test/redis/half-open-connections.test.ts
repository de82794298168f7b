import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import t, { type Test } from 'tap'
import type { Sessions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type RedisClient } from '../../lib/redis.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { startTcpProxy } from '../cluster/support/tcp-proxy.js'
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

// The other side of a connection is gone, but nothing is sent that would show it: no data arrives any more.

type Connect = (t: Test, port: number) => Promise<RedisClient>

const connectIoredis: Connect = async (t, port) => {
  const client = new Redis({ port, host: '127.0.0.1' })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  return client
}

const connectNodeRedis: Connect = async (t, port) => {
  const client = createClient({ socket: { port, host: '127.0.0.1' } })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  return client
}

async function openNode (t: Test, client: RedisClient): Promise<Sessions> {
  const sessions = await createSessions(resolveOptions({ store: redisStore({ client, lease: 1000 }), heartbeatInterval: false, closeTimeout: 100 }, 0), Fastify({ logger: false }).log)
  t.teardown(() => withTimeout(sessions.close(), 'the store to close'))
  return sessions
}

/** Silences the newest connection of the proxy for commands (`normal`) or publications (`pubsub`). */
async function silence (redis: RedisServer, proxy: FaultProxy, type: 'normal' | 'pubsub'): Promise<void> {
  const clients = String(await redis.sendCommand('CLIENT', 'LIST', 'TYPE', type))
  const connection = proxy.connections.findLast(({ server }) => clients.includes(` addr=127.0.0.1:${server.localPort} `))
  if (connection === undefined) throw new Error(`There is no connection of type ${type}`)
  connection.client.pause()
  connection.server.pause()
}

for (const [library, connect] of [['ioredis', connectIoredis], ['node-redis', connectNodeRedis]] as const) {
  t.test(`replaces half-open connections, and loses and repeats nothing: ${library}`, needsRedis, async t => {
    const redis = await startRedis(t)
    const proxy = await startFaultProxy(t, redis.port)
    const nodeA = await openNode(t, await connect(t, proxy.port))
    const nodeB = await openNode(t, await connect(t, redis.port))
    const session = await openSession(nodeA)
    const down = await attachMemoryStream(nodeA, session)
    const remote = await findSession(nodeB, session)
    const sent: number[] = []
    const send = async (sender: () => Promise<void>, n: number): Promise<void> => {
      await sender()
      sent.push(n)
    }
    await send(() => remote.send(1), 1)
    await waitUntil(() => down.messages().length === 1, 'the first message')
    let before = proxy.connections.length
    await silence(redis, proxy, 'normal')
    await send(() => remote.send(2), 2)
    // The connection that replaced it is replaced, too.
    for (const n of [3, 4]) {
      await waitUntil(async () => await nodeA.broadcast('message', n).then(() => true, () => false), 'another connection for commands', 20_000)
      t.ok(proxy.connections.length > before, 'the commands have another connection')
      before = proxy.connections.length
      if (n === 3) await silence(redis, proxy, 'normal')
    }
    // Each attempt is executed or not, but the last one is.
    await waitUntil(() => down.messages().includes(4), 'the broadcast', 20_000)
    await silence(redis, proxy, 'pubsub')
    await send(() => remote.send(5), 5)
    await waitUntil(() => down.messages().includes(5), 'another connection for publications', 20_000)
    const received = down.messages()
    t.strictSame(received.filter(n => sent.includes(n as number)), sent)
    t.notOk(down.read().some(({ event }) => event === 'gap'))
  })
}

for (const [library, connect] of [['ioredis', connectIoredis], ['node-redis', connectNodeRedis]] as const) {
  t.test(`a node whose server becomes a replica and keeps its connections uses the new primary: ${library}`, needsRedis, async t => {
    const primary = await startRedis(t)
    const replica = await startRedis(t, { replicaOf: primary.port })
    const proxy = await startTcpProxy(t, primary.port)
    const node = await openNode(t, await connect(t, proxy.port))
    const session = await openSession(node)
    await waitUntil(async () => await replica.sendCommand('EXISTS', `{sse}:s:${session.id}`) === 1, 'the replica')
    proxy.targetPort = replica.port
    await replica.sendCommand('REPLICAOF', 'NO', 'ONE')
    await primary.sendCommand('REPLICAOF', '127.0.0.1', String(replica.port))
    await waitUntil(() => session.send(1).then(() => true, () => false), 'the new primary')
  })
}
