import Fastify from 'fastify'
import { Cluster } from 'ioredis'
import { createCluster } from 'redis'
import t, { type Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type RedisStoreOptions } from '../../lib/redis.js'
import { kInternals } from '../../lib/sessions/session.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { hashSlot, partitionOf } from '../../lib/store/redis/hash-slot.js'
import { follow } from '../runs/support/run-client.js'
import { serveRuns } from '../runs/support/serve-runs.js'
import { findFreePort } from '../support/free-port.js'
import { attachMemoryStream, findSession, openSession, type MemoryStream } from '../support/memory-stream.js'
import { needsRedis } from '../support/redis-server.js'
import { startRedisCluster, type RedisCluster } from '../support/redis-cluster.js'
import { connectCluster, connectNodeRedisCluster } from '../support/stores.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { createMessage, createResponse } from './support/messages.js'

const logger = Fastify({ logger: false }).log

/** The names, used as principals, of sessions in the first, second and third partition. */
const NAMES = ['ann', 'bob', 'dan'] as const

/** The hash tag of the first of three partitions. */
const FIRST_TAG = 'sse-1'

async function openNode (t: Test, options: RedisStoreOptions): Promise<Sessions> {
  const sessions = await withTimeout(createSessions(resolveOptions({ store: redisStore(options), heartbeatInterval: false, closeTimeout: 100 }, 0), logger), 'the boot', 20_000)
  t.teardown(() => withTimeout(sessions.close(), 'the store to close'))
  return sessions
}

/** Sends numbers to a session over one node, while another node has its stream. Posts messages over both nodes, and repeats each until it has a response. */
class Traffic {
  readonly session: Session
  readonly #stream: MemoryStream
  readonly #sent = new Set<number>()
  /** The numbers of the messages, one for each run of a handler. */
  readonly handled: number[] = []
  readonly #responses: string[] = []
  #last = 0
  #isStopped = false
  readonly #done: Promise<unknown>

  constructor (session: Session, stream: MemoryStream, sender: Session) {
    this.session = session
    this.#stream = stream
    this.#done = Promise.all([this.#send(sender), this.#post([session, sender])])
  }

  get count (): number {
    return Math.min(this.#sent.size, this.#responses.length)
  }

  /**
   * Stops, and waits for the last number. Checks that each number that was sent was received once, in order, or that there was a
   * gap; and that the messages were handled in order, each at least once. Returns the number of gaps.
   */
  async finish (t: Test): Promise<number> {
    this.#isStopped = true
    await this.#done
    const posted = this.#responses.map((_, index) => index)
    t.strictSame(this.#responses, posted.map(String))
    t.strictSame([...new Set(this.handled)], posted)
    t.strictSame(this.handled.toSorted((a, b) => a - b), this.handled)
    await waitUntil(() => this.#stream.messages().includes('end'), 'the last message', 20_000)
    const numbers = this.#stream.messages().filter(data => typeof data === 'number')
    t.ok(numbers.every((number, index) => index === 0 || number > (numbers[index - 1] as number)), 'in order, without repeats')
    const gaps = this.#stream.events.filter(({ event }) => event === 'gap').length
    const missing = [...this.#sent].filter(number => !numbers.includes(number))
    t.ok(missing.length === 0 || gaps > 0, `${missing.length} missing, ${gaps} gaps`)
    return gaps
  }

  async #send (sender: Session): Promise<void> {
    while (!this.#isStopped) {
      const number = ++this.#last
      // A send that fails may have been executed.
      if (await sender.send(number).then(() => true, () => false)) this.#sent.add(number)
    }
    await waitUntil(async () => await sender.send('end').then(() => true, () => false), 'the end', 20_000)
  }

  async #post (sessions: readonly [Session, Session]): Promise<void> {
    for (let number = 0; !this.#isStopped; number++) {
      const message = createMessage(`key ${number}`, () => {
        this.handled.push(number)
        return createResponse(String(number))
      })
      let attempts = number
      await waitUntil(async () => {
        const { messageQueue } = (sessions[attempts++ % 2] as Session)[kInternals]
        return await (async () => await messageQueue.enqueue(message))().then(({ response }) => this.#responses.push(String(response.body)), () => false) !== false
      }, 'the response', 30_000)
    }
  }
}

async function startTraffic (nodeA: Sessions, nodeB: Sessions): Promise<[Traffic, Traffic, Traffic]> {
  const start = async (name: string): Promise<Traffic> => {
    const session = await openSession(nodeA, name)
    return new Traffic(session, await attachMemoryStream(nodeA, session), await findSession(nodeB, session))
  }
  return await Promise.all([start(NAMES[0]), start(NAMES[1]), start(NAMES[2])])
}

async function waitForMore (traffic: readonly Traffic[]): Promise<void> {
  const counts = traffic.map(({ count }) => count)
  await waitUntil(() => traffic.every(({ count }, index) => count >= (counts[index] as number) + 20), 'more messages', 30_000)
}

async function openNodes (t: Test, cluster: RedisCluster): Promise<[Sessions, Sessions]> {
  return [await openNode(t, { client: connectCluster(t, cluster) }), await openNode(t, { client: await connectNodeRedisCluster(t, cluster) })]
}

t.test('when a master fails, its sessions continue on its replica, and the others are not affected', { ...needsRedis, timeout: 120_000 }, async t => {
  const cluster = await startRedisCluster(t, { replicas: 1 })
  const traffic = await startTraffic(...await openNodes(t, cluster))
  await waitForMore(traffic)
  const [, , last] = cluster.servers as [unknown, unknown, RedisCluster['servers'][0]]
  const master = await cluster.masterOf(hashSlot(FIRST_TAG), last)
  await master.kill()
  await waitForMore(traffic.slice(1))
  await waitForMore(traffic)
  const [, ...gaps] = await Promise.all(traffic.map(async item => await item.finish(t)))
  t.strictSame(gaps, [0, 0])
  t.not(await cluster.masterOf(hashSlot(FIRST_TAG), last), master)
})

t.test('while a slot is moved to another master, its sessions wait, and lose nothing', { ...needsRedis, timeout: 120_000 }, async t => {
  const cluster = await startRedisCluster(t)
  const [nodeA, nodeB] = await openNodes(t, cluster)
  const traffic = await startTraffic(nodeA, nodeB)
  await waitForMore(traffic)
  const [server] = cluster.servers as [RedisCluster['servers'][0]]
  const from = await cluster.masterOf(hashSlot(FIRST_TAG), server)
  const to = cluster.servers.find(other => other !== from) as typeof from
  await cluster.moveSlot(hashSlot(FIRST_TAG), from, to, async () => { await waitForMore(traffic.slice(1)) })
  await waitForMore(traffic)
  t.strictSame(await Promise.all(traffic.map(async item => await item.finish(t))), [0, 0, 0])
  for (const { handled } of traffic) t.equal(new Set(handled).size, handled.length, 'each message was handled once')
  t.equal(await from.sendCommand('CLUSTER', 'COUNTKEYSINSLOT', String(hashSlot(FIRST_TAG))), 0)
})

t.test('a run continues while its slot is moved, with readers on two nodes', { ...needsRedis, timeout: 120_000 }, async t => {
  const cluster = await startRedisCluster(t)
  const nodes = await Promise.all([0, 1].map(async () => await serveRuns(t, { plugin: { store: redisStore({ client: connectCluster(t, cluster) }) } })))
  const [nodeA, nodeB] = nodes as [typeof nodes[0] & object, typeof nodes[0] & object]
  const readers = [await follow(t, nodeA.runUrl, { method: 'POST' })]
  nodeA.feed.add(0)
  await readers[0]?.waitFor('0')
  readers.push(await follow(t, nodeB.runUrl))
  const slot = hashSlot(`sse-${partitionOf(JSON.stringify([undefined, 'a']), 3) + 1}`)
  const from = await cluster.masterOf(slot, cluster.servers[0] as typeof cluster.servers[0] & object)
  t.ok((await from.sendCommand('CLUSTER', 'GETKEYSINSLOT', String(slot), '100') as string[]).some(key => key.includes(':r:')), 'the run is in this slot')
  await cluster.moveSlot(slot, from, cluster.servers.find(other => other !== from) as typeof from, async () => { nodeA.feed.add(1) })
  nodeA.feed.add(2)
  for (const reader of readers) await reader.waitFor('2')
  nodeA.feed.end()
  for (const reader of readers) {
    t.equal(await reader.isComplete, true)
    t.strictSame(reader.events.map(({ data }) => data), ['0', '1', '2', '{"status":"finished"}'])
  }
})

t.test('the sessions of the other masters continue while one is unavailable', { ...needsRedis, timeout: 120_000 }, async t => {
  const cluster = await startRedisCluster(t)
  const [nodeA, nodeB] = await openNodes(t, cluster)
  const traffic = await startTraffic(nodeA, nodeB)
  await waitForMore(traffic)
  const [server] = cluster.servers as [RedisCluster['servers'][0]]
  const master = await cluster.masterOf(hashSlot(FIRST_TAG), server)
  master.pause()
  await t.rejects(nodeB.broadcast('message', 'all'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await waitForMore(traffic.slice(1))
  master.resume()
  await waitForMore(traffic)
  t.strictSame(await Promise.all(traffic.map(async item => await item.finish(t))), [0, 0, 0])
  for (const { handled } of traffic) t.equal(new Set(handled).size, handled.length, 'each message was handled once')
})

t.test('refuses wrong options for a cluster, and a node with another number of partitions', needsRedis, async t => {
  const cluster = await startRedisCluster(t)
  const [client, other] = [connectCluster(t, cluster), connectCluster(t, cluster)]
  for (const partitions of [0, 1.5, 257]) t.throws(() => redisStore({ client, partitions }), { code: 'FST_SSE_OPTION_INVALID', message: /partitions/ })
  t.throws(() => redisStore({ client: [client] as never, namespace: 'x y' }), { message: /namespace/ })
  t.throws(() => redisStore({ client: [client, other] as never }), { code: 'FST_SSE_OPTION_INVALID', message: /one client of a cluster/ })
  const node = await openNode(t, { client, partitions: 5 })
  await t.rejects(openNode(t, { client }), { code: 'FST_SSE_OPTION_INVALID', message: /already has a store/ })
  await t.rejects(openNode(t, { client: other }), { code: 'FST_SSE_OPTION_INVALID', message: /use other values of partitions/ })
  await openNode(t, { client: other, partitions: 5 })
  const session = await openSession(node)
  t.equal(await (await findSession(node, session)).send(1), undefined)
})

t.test('the boot error names the reason if a cluster cannot be reached', needsRedis, async t => {
  const port = await findFreePort()
  const ioredis = new Cluster([{ host: '127.0.0.1', port }], { lazyConnect: true })
  ioredis.on('error', () => {})
  t.teardown(() => { ioredis.disconnect() })
  await t.rejects(openNode(t, { client: ioredis }), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /not connected after 3000 ms: Failed to refresh slots cache/ })
  const client = createCluster({ rootNodes: [{ socket: { host: '127.0.0.1', port } }] })
  await t.rejects(openNode(t, { client }), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /await cluster\.connect\(\)/ })
})
