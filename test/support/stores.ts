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

/** Stands for the processes that share a store; where a store is one process's own there is only that. */
export interface Fleet {
  readonly shared: boolean
  /** Opens the registry of one more process; where there is only one, for the same options, that is given again. It is closed when the test ends. */
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

/** Runs a test over Redis, by each of the libraries that speak to it. */
export function eachLibrary (t: Test, title: string, run: (t: Test, fleet: Fleet, redis: RedisServer) => Promise<void>): void {
  for (const [library, connect] of [['ioredis', viaIoredis], ['node-redis', viaNodeRedis]] as const) {
    t.test(`${title}: over Redis, by ${library}`, needsRedis, async t => {
      const redis = await startRedis(t)
      await run(t, { shared: true, process: async (options = {}) => await open(t, await connect(t, redis.port), options) }, redis)
    })
  }
}

/** A process whose connections to Redis a test can stop and break: the first is for commands, the second for what is published. */
export interface FarProcess {
  readonly sessions: Sessions
  readonly client: Redis
  readonly proxy: FaultProxy
  /** What Redis answers is on its way, until it is called again with false. */
  holdAnswers (hold: boolean): void
  /** As `holdAnswers`, of what is published. */
  holdPublished (hold: boolean): void
  /** How many messages that Redis has published have come. */
  heard (): number
  /** Resolves when all that Redis has answered so far is here, and what came of it is asked for. */
  settled (): Promise<unknown>
}

/** Opens a process that reaches Redis by ioredis, over a proxy. */
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

/** Runs a test on every store that there is. */
export function eachStore (t: Test, title: string, run: (t: Test, fleet: Fleet) => Promise<void>): void {
  t.test(`${title}: in memory`, async t => await run(t, oneProcess(t)))
  eachLibrary(t, title, run)
}
