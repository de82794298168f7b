import Fastify from 'fastify'
import { Redis, type RedisOptions } from 'ioredis'
import { createClient } from 'redis'
import type { Test } from 'tap'
import { memoryStore, type StoreFactory, type Sessions, type SseSessionsOptions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type RedisStoreOptions } from '../../lib/redis.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { faultProxy, type FaultProxy } from './proxy.js'
import { needsRedis, startRedis, type RedisServer } from './redis.js'
import { within } from './wait.js'

const logger = Fastify({ logger: false }).log

/** A store under test, with the nodes that use it. The memory store belongs to one process, so it has one node. */
export interface Fleet {
  /** Whether several nodes can share the store. */
  readonly shared: boolean
  /** Opens the registry of one more node. If nodes cannot share the store, the same options return the same registry. It is closed when the test ends. */
  process (options?: SseSessionsOptions): Promise<Sessions>
}

type Connect = (t: Test, port: number) => Promise<StoreFactory>

const viaIoredis: Connect = async (t, port) => {
  const client = new Redis({ port, host: '127.0.0.1' })
  t.teardown(() => { client.disconnect() })
  return redisStore({ client })
}

const viaNodeRedis: Connect = async (t, port) => {
  const client = createClient({ socket: { port, host: '127.0.0.1' } })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  return redisStore({ client })
}

async function open (t: Test, store: StoreFactory, options: SseSessionsOptions): Promise<Sessions> {
  const sessions = await createSessions(resolveOptions({ store, heartbeatInterval: false, closeTimeout: 100, ...options }, 0), logger)
  t.teardown(() => within(sessions.close(), 'the store to close'))
  return sessions
}

function oneProcess (t: Test): Fleet {
  const opened = new Map<string, Promise<Sessions>>()
  return {
    shared: false,
    process: (options = {}) => {
      const kind = JSON.stringify(options)
      const process = opened.get(kind) ?? open(t, memoryStore, options)
      opened.set(kind, process)
      return process
    }
  }
}

/** Defines a test on the Redis store for each supported client library. */
export function eachLibrary (t: Test, title: string, run: (t: Test, fleet: Fleet, redis: RedisServer) => Promise<void>): void {
  for (const [library, connect] of [['ioredis', viaIoredis], ['node-redis', viaNodeRedis]] as const) {
    t.test(`${title}: Redis with ${library}`, needsRedis, async t => {
      const redis = await startRedis(t)
      await run(t, { shared: true, process: async (options = {}) => await open(t, await connect(t, redis.port), options) }, redis)
    })
  }
}

/** A node that reaches Redis over a proxy, so that a test can pause and break its connections: the first for commands, the second for publications. */
export interface FarProcess {
  readonly sessions: Sessions
  readonly client: Redis
  readonly proxy: FaultProxy
  /** Pauses the replies of Redis (true) or resumes them (false). */
  holdAnswers (hold: boolean): void
  /** Pauses the publications of Redis (true) or resumes them (false). */
  holdPublished (hold: boolean): void
  /** The number of publications that were received. */
  heard (): number
  /** Resolves when all replies so far were received, and the node has sent the commands that they caused. */
  settled (): Promise<unknown>
}

/** Opens a node that reaches Redis with ioredis over a proxy. */
export async function farProcess (t: Test, redis: RedisServer, options: SseSessionsOptions = {}, { lease = 5000, ...more }: Partial<RedisStoreOptions> & RedisOptions = {}): Promise<FarProcess> {
  const proxy = await faultProxy(t, redis.port)
  const client = new Redis({ port: proxy.port, host: '127.0.0.1', ...more })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  let heard = 0
  const duplicate = (options: RedisOptions): Redis => Redis.prototype.duplicate.call(client, options).on('message', () => { heard++ })
  Object.assign(client, { duplicate })
  const holder = (index: number) => (hold: boolean): void => {
    const server = proxy.connections[index]?.server
    if (hold) server?.pause()
    else server?.resume()
  }
  const sessions = await open(t, redisStore({ client, lease }), options)
  return { sessions, client, proxy, holdAnswers: holder(0), holdPublished: holder(1), heard: () => heard, settled: () => client.ping() }
}

/** Defines a test for every store. */
export function eachStore (t: Test, title: string, run: (t: Test, fleet: Fleet) => Promise<void>): void {
  t.test(`${title}: memory store`, async t => await run(t, oneProcess(t)))
  eachLibrary(t, title, run)
}
