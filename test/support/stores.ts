import Fastify from 'fastify'
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import { createClient, createCluster } from 'redis'
import type { Test } from 'tap'
import { memoryStore, type StoreFactory, type Sessions, type SseSessionsOptions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type NodeRedisClient, type NodeRedisCluster, type RedisStoreOptions } from '../../lib/redis.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { startFaultProxy, type FaultProxy } from './fault-proxy.js'
import { startRedisCluster, type RedisCluster } from './redis-cluster.js'
import { needsRedis, startRedis, type RedisServer } from './redis-server.js'
import { withTimeout } from './wait.js'

const logger = Fastify({ logger: false }).log

/** A store under test, with the nodes that use it. The memory store belongs to one process, so it has one node. */
export interface StoreUnderTest {
  /** Whether several nodes can share the store. */
  readonly isShared: boolean
  /** Whether the sessions and runs are divided among several servers, so that limits apply to each part. */
  readonly isPartitioned: boolean
  /** Opens the registry of one more node. If nodes cannot share the store, the same options return the same registry. It is closed when the test ends. */
  addNode (options?: SseSessionsOptions): Promise<Sessions>
}

type Connect = (t: Test, port: number) => Promise<StoreFactory>

export function createIoredis (t: Test, port: number): Redis {
  const client = new Redis({ port, host: '127.0.0.1' })
  t.teardown(() => { client.disconnect() })
  return client
}

export async function createNodeRedis (t: Test, port: number): Promise<NodeRedisClient> {
  const client = createClient({ socket: { port, host: '127.0.0.1' } })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  return client
}

const connectIoredis: Connect = async (t, port) => redisStore({ client: createIoredis(t, port) })

const connectNodeRedis: Connect = async (t, port) => redisStore({ client: await createNodeRedis(t, port) })

async function open (t: Test, store: StoreFactory, options: SseSessionsOptions): Promise<Sessions> {
  const sessions = await createSessions(resolveOptions({ store, heartbeatInterval: false, closeTimeout: 100, ...options }, 0), logger)
  t.teardown(() => withTimeout(sessions.close(), 'the store to close'))
  return sessions
}

function createMemoryStoreUnderTest (t: Test): StoreUnderTest {
  const opened = new Map<string, Promise<Sessions>>()
  return {
    isShared: false,
    isPartitioned: false,
    addNode: (options = {}) => {
      const optionsKey = JSON.stringify(options)
      const sessions = opened.get(optionsKey) ?? open(t, memoryStore, options)
      opened.set(optionsKey, sessions)
      return sessions
    }
  }
}

/** Defines a test on the Redis store for each supported client library. */
export function testEachRedisClient (t: Test, title: string, run: (t: Test, store: StoreUnderTest, redis: RedisServer) => Promise<void>): void {
  for (const [library, connect] of [['ioredis', connectIoredis], ['node-redis', connectNodeRedis]] as const) {
    t.test(`${title}: Redis with ${library}`, needsRedis, async t => {
      const redis = await startRedis(t)
      await run(t, { isShared: true, isPartitioned: false, addNode: async (options = {}) => await open(t, await connect(t, redis.port), options) }, redis)
    })
  }
}

/** A node that reaches Redis over a proxy, so that a test can pause and break its connections: the first for commands, the second for publications. */
export interface ProxiedNode {
  readonly sessions: Sessions
  readonly client: Redis
  readonly proxy: FaultProxy
  /** Pauses the replies of Redis (true) or resumes them (false). */
  pauseReplies (isPaused: boolean): void
  /** Pauses the publications of Redis (true) or resumes them (false). */
  pausePublications (isPaused: boolean): void
  /** The number of publications that were received. */
  publicationCount (): number
  /** Resolves when all replies so far were received, and the node has sent the commands that they caused. */
  waitForReplies (): Promise<unknown>
}

/** Opens a node that reaches Redis with ioredis over a proxy. */
export async function openProxiedNode (t: Test, redis: RedisServer, options: SseSessionsOptions = {}, { lease = 5000, ...connectionOptions }: Partial<RedisStoreOptions> & RedisOptions = {}): Promise<ProxiedNode> {
  const proxy = await startFaultProxy(t, redis.port)
  const client = new Redis({ port: proxy.port, host: '127.0.0.1', ...connectionOptions })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  let publicationCount = 0
  const duplicate = (options: RedisOptions): Redis => Redis.prototype.duplicate.call(client, options).on('message', () => { publicationCount++ })
  Object.assign(client, { duplicate })
  const createPause = (index: number) => (isPaused: boolean): void => {
    const server = proxy.connections[index]?.server
    if (isPaused) server?.pause()
    else server?.resume()
  }
  const sessions = await open(t, redisStore({ client, lease }), options)
  return { sessions, client, proxy, pauseReplies: createPause(0), pausePublications: createPause(1), publicationCount: () => publicationCount, waitForReplies: () => client.ping() }
}

/** Defines a test for the factory of every store. Each call of `connect` returns the factory of one more node; those of the memory store share nothing. `servers` are the Redis servers of the store. */
export function testEachStoreFactory (t: Test, title: string, run: (t: Test, connect: () => Promise<StoreFactory>, servers: readonly RedisServer[]) => Promise<void>): void {
  t.test(`${title}: memory store`, async t => await run(t, async () => memoryStore, []))
  for (const [library, connect] of [['ioredis', connectIoredis], ['node-redis', connectNodeRedis]] as const) {
    t.test(`${title}: Redis with ${library}`, needsRedis, async t => {
      const redis = await startRedis(t)
      await run(t, () => connect(t, redis.port), [redis])
    })
  }
  t.test(`${title}: two Redis servers`, needsRedis, async t => {
    const servers = await startServers(t)
    await run(t, () => connectServers(t, servers), servers)
  })
  const getCluster = shareCluster(t)
  t.test(`${title}: Redis Cluster`, needsRedis, async t => {
    const cluster = await getCluster()
    await run(t, createClusterConnect(t, cluster), cluster.servers)
  })
}

/** Defines a test for every store. */
export function testEachStore (t: Test, title: string, run: (t: Test, store: StoreUnderTest) => Promise<void>): void {
  t.test(`${title}: memory store`, async t => await run(t, createMemoryStoreUnderTest(t)))
  testEachRedisClient(t, title, run)
  t.test(`${title}: two Redis servers`, needsRedis, async t => {
    const servers = await startServers(t)
    await run(t, { isShared: true, isPartitioned: true, addNode: async (options = {}) => await open(t, await connectServers(t, servers), options) })
  })
  const getCluster = shareCluster(t)
  t.test(`${title}: Redis Cluster`, needsRedis, async t => {
    const connect = createClusterConnect(t, await getCluster())
    await run(t, { isShared: true, isPartitioned: true, addNode: async (options = {}) => await open(t, await connect(), options) })
  })
}

/** The cluster of each file of tests, because it takes seconds to start one. */
const sharedClusters = new WeakMap<Test, Promise<RedisCluster>>()

/** Returns a function that starts the cluster of a file of tests, or empties it if it was started. */
function shareCluster (t: Test): () => Promise<RedisCluster> {
  return async () => {
    const cluster = sharedClusters.get(t) ?? startRedisCluster(t)
    sharedClusters.set(t, cluster)
    await (await cluster).sendToAll('FLUSHALL')
    return await cluster
  }
}

/** Returns a function that connects one more node to a cluster, alternately with each library. */
function createClusterConnect (t: Test, cluster: RedisCluster): () => Promise<StoreFactory> {
  let count = 0
  return async () => redisStore({ client: count++ % 2 === 0 ? connectCluster(t, cluster) : await connectNodeRedisCluster(t, cluster) })
}

/** Connects to a cluster with ioredis. */
export function connectCluster (t: Test, { addresses }: RedisCluster): Cluster {
  const client = new Cluster(addresses)
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  return client
}

/** Connects to a cluster with node-redis. */
export async function connectNodeRedisCluster (t: Test, { addresses }: RedisCluster): Promise<NodeRedisCluster> {
  const client = createCluster({ rootNodes: addresses.map(socket => ({ socket })) })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  return client
}

async function startServers (t: Test): Promise<[RedisServer, RedisServer]> {
  return [await startRedis(t), await startRedis(t)]
}

/** Connects to one server with each library. */
async function connectServers (t: Test, [first, second]: [RedisServer, RedisServer]): Promise<StoreFactory> {
  return redisStore({ client: [createIoredis(t, first.port), await createNodeRedis(t, second.port)] })
}
