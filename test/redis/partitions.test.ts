import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Session, Sessions, SseSessionsOptions, Store } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { kInternals } from '../../lib/sessions/session.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { hashSlot, partitionOf } from '../../lib/store/redis/hash-slot.js'
import { IdGenerator } from '../../lib/wire/event-id.js'
import { findFreePort } from '../support/free-port.js'
import { attachMemoryStream, findSession, openSession } from '../support/memory-stream.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

const logger = Fastify({ logger: false }).log

function connect (t: Test, { port }: Pick<RedisServer, 'port'>): Redis {
  const client = new Redis({ port, host: '127.0.0.1' })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  return client
}

async function openNode (t: Test, clients: Redis[], options: SseSessionsOptions = {}): Promise<Sessions> {
  const store = redisStore({ client: clients })
  const sessions = await withTimeout(createSessions(resolveOptions({ store, heartbeatInterval: false, closeTimeout: 100, ...options }, 0), logger), 'the boot')
  t.teardown(() => withTimeout(sessions.close(), 'the store to close'))
  return sessions
}

/** Opens two nodes that share two servers. */
async function openNodes (t: Test, options?: SseSessionsOptions): Promise<{ servers: [RedisServer, RedisServer], nodeA: Sessions, nodeB: Sessions }> {
  const servers: [RedisServer, RedisServer] = [await startRedis(t), await startRedis(t)]
  const [nodeA, nodeB] = await Promise.all([0, 1].map(() => openNode(t, servers.map(server => connect(t, server)), options))) as [Sessions, Sessions]
  return { servers, nodeA, nodeB }
}

/** Opens a session in the first partition, and one in the second. */
async function openBoth (sessions: Sessions): Promise<[Session, Session]> {
  return [await openSession(sessions, 'ann'), await openSession(sessions, 'bob')]
}

t.test('the slot of a hash tag is that of Redis Cluster', async t => {
  for (const [tag, slot] of [['123456789', 0x31c3], ['sse', 8273], ['é', 10180], ['', 0]] as const) t.equal(hashSlot(tag), slot)
  t.strictSame(['ann', 'bob'].map(name => partitionOf(name, 2)), [0, 1])
})

t.test('the sessions of a principal are in one partition, which has its share of the limits', needsRedis, async t => {
  const { servers, nodeA, nodeB } = await openNodes(t, { maxSessions: 3 })
  const sessions = [await openSession(nodeA, 'ann'), await openSession(nodeB, 'ann')]
  t.equal(await nodeA.open('ann'), undefined)
  const other = await openSession(nodeB, 'bob')
  for (const session of sessions) t.equal(partitionOf(session.id, 2), 0)
  t.equal((await nodeA.findCached(sessions[0]?.id ?? ''))?.id, sessions[0]?.id)
  t.equal(partitionOf(other.id, 2), 1)
  for (const [index, server] of servers.entries()) t.equal(await server.sendCommand('ZCARD', '{sse}:deadlines'), 2 - index)
  await waitUntil(() => nodeA.size === 3, 'the number of sessions')
})

t.test('a channel and broadcasts reach the sessions of all partitions, and the numbers are those of all', needsRedis, async t => {
  const { nodeA, nodeB } = await openNodes(t)
  const sessions = await openBoth(nodeA)
  const streams = await Promise.all(sessions.map(session => attachMemoryStream(nodeA, session)))
  for (const session of sessions) await session.join('room')
  t.equal(await nodeB.channel('room').count(), 2)
  await waitUntil(() => nodeA.stats().channels === 1, 'the channel in the statistics')
  for (let n = 0; n < 20; n++) await (n % 2 === 0 ? nodeB.channel('room').send(n) : nodeB.broadcast('message', n, { except: sessions[0] }))
  await waitUntil(() => streams[0]?.messages().length === 10 && streams[1]?.messages().length === 20, 'the events')
  t.strictSame(streams.map(stream => stream.messages()), [Array.from({ length: 10 }, (_, n) => n * 2), [...Array(20).keys()]])
})

t.test('the sessions of a partition continue while another one is unavailable', needsRedis, async t => {
  const { servers: [, second], nodeA, nodeB } = await openNodes(t)
  const [ann, bob] = await openBoth(nodeA)
  const [annStream, bobStream] = [await attachMemoryStream(nodeA, ann), await attachMemoryStream(nodeA, bob)]
  for (const session of [ann, bob]) await session.join('room')
  second.pause()
  await (await findSession(nodeB, ann)).send('own')
  await t.rejects(nodeB.channel('room').send('partly'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(nodeB.broadcast('message', 'partly'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(openSession(nodeB, 'bob'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await openSession(nodeB, 'ann')
  await waitUntil(() => annStream.messages().length === 3, 'the events')
  t.strictSame(annStream.messages(), ['own', 'partly', 'partly'])
  second.resume()
  await waitUntil(async () => await bob.send('again').then(() => true, () => false), 'the other partition')
  await waitUntil(() => bobStream.messages().includes('again'), 'the event')
  await nodeB.channel('room').send('all')
  await waitUntil(() => [annStream, bobStream].every(stream => stream.messages().includes('all')), 'the events')
})

t.test('runs are found by name, by id and by session, also while another partition is unavailable', needsRedis, async t => {
  const servers = [await startRedis(t), await startRedis(t)] as const
  const store = await redisStore({ client: servers.map(server => connect(t, server)) })(resolveOptions({ closeTimeout: 100 }, 0), { onBroadcast: () => {}, onExpire: async () => {}, onJoin: async () => {}, onLeave: async () => {} }) as Required<Store>
  t.teardown(() => withTimeout(store.close('shutdown') as Promise<unknown>, 'the store to close'))
  const { runs } = store
  const ids = new IdGenerator()
  const names = Array.from({ length: 8 }, (_, index) => `run ${index}`)
  const started = await Promise.all(names.map(async name => await runs.start({ id: ids.next(), name, principal: 'ann', fingerprint: undefined, keep: 60_000 }, 'never')))
  for (const [index, name] of names.entries()) {
    t.equal(await runs.find(name, 'ann'), started[index])
    t.equal(await runs.findById(started[index]?.id ?? ''), started[index])
  }
  t.equal(await runs.findById(ids.next()), undefined)
  const bob = await store.open(ids.next(), 'bob')
  const sessionId = bob?.id ?? ''
  const delivery = await runs.start({ id: ids.next(), name: 'delivery', principal: undefined, fingerprint: undefined, keep: 0, delivery: { sessionId, partPrefix: 'event: part\ndata: {' } }, 'never')
  t.equal(await runs.find('delivery', undefined, sessionId), delivery)
  const inFirst = started.find(run => partitionOf(JSON.stringify(['ann', run?.name]), 2) === 0)
  const unknown = ids.next()
  servers[1].pause()
  t.equal(await runs.findById(inFirst?.id ?? ''), inFirst)
  await t.rejects(async () => { await runs.findById(unknown) }, { code: 'FST_SSE_STORE_UNAVAILABLE' }, 'it may be in the other partition')
  servers[1].resume()
})

t.test('refuses a node with other partitions', needsRedis, async t => {
  const servers = [await startRedis(t), await startRedis(t), await startRedis(t)]
  const clients = servers.map(server => connect(t, server)) as [Redis, Redis, Redis]
  const others = servers.map(server => connect(t, server)) as [Redis, Redis, Redis]
  await openNode(t, [clients[0], clients[1]])
  const message = /use other values of partitions/
  await t.rejects(openNode(t, [others[1], others[0]]), { code: 'FST_SSE_OPTION_INVALID', message })
  await t.rejects(openNode(t, [others[0]]), { code: 'FST_SSE_OPTION_INVALID', message })
  await t.rejects(openNode(t, others), { code: 'FST_SSE_OPTION_INVALID', message })
  await openNode(t, [others[0], others[1]])
})

t.test('a namespace is in use until all partitions are closed', needsRedis, async t => {
  const clients = [connect(t, await startRedis(t)), connect(t, await startRedis(t))]
  const node = await openNode(t, clients, { closeTimeout: 60_000 })
  const [, session] = await openBoth(node)
  const [started, gate] = [deferred(), deferred()]
  const handled = (async () => await session[kInternals].messageQueue.enqueue({
    key: undefined,
    fingerprint: () => '',
    isConcurrent: false,
    handle: async () => {
      started.resolve()
      await gate.promise
      return { status: 200, headers: {}, body: '' }
    }
  }))()
  await withTimeout(started.promise, 'the handler')
  const closed = node.close()
  await waitUntil(async () => await clients[0]?.zcard('{sse}:nodes') === 0, 'the first partition to close')
  await t.rejects(openNode(t, clients), { code: 'FST_SSE_OPTION_INVALID', message: /already has a store/ })
  gate.resolve()
  await Promise.all([handled, withTimeout(closed, 'the close')])
  await openNode(t, clients)
})

t.test('the boot fails if one of the servers cannot be reached, and can be repeated', needsRedis, async t => {
  const server = await startRedis(t)
  const other = connect(t, { port: await findFreePort() })
  const client = connect(t, server)
  await t.rejects(openNode(t, [client, other]), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /ECONNREFUSED/ })
  await waitUntil(async () => await server.sendCommand('ZCARD', '{sse}:nodes') === 0, 'the other partition to close')
  await openNode(t, [client])
  t.throws(() => redisStore({ client: [] }), { code: 'FST_SSE_OPTION_INVALID', message: /empty/ })
})
