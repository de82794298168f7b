import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import type { Test } from 'tap'
import { memoryStore, type OpenStore, type Sessions, type SseSessionsOptions } from '../../lib/index.js'
import { settle } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { openSessions } from '../../lib/sessions.js'
import { needsRedis, startRedis, type RedisServer } from './redis.js'
import { within } from './within.js'

const logger = Fastify({ logger: false }).log

/** Stands for the processes that share a store; where a store is one process's own there is only that. */
export interface Fleet {
  readonly shared: boolean
  /** Opens the registry of one more process; where there is only one, for the same options, that is given again. It is closed when the test ends. */
  process (options?: SseSessionsOptions): Promise<Sessions>
}

type Connect = (t: Test, port: number) => Promise<OpenStore>

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

async function open (t: Test, store: OpenStore, options: SseSessionsOptions): Promise<Sessions> {
  const sessions = await openSessions(settle({ store, heartbeatInterval: false, closeTimeout: 100, ...options }, 0), logger)
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

/** Runs a test on every store that there is. */
export function eachStore (t: Test, title: string, run: (t: Test, fleet: Fleet) => Promise<void>): void {
  t.test(`${title}: in memory`, async t => await run(t, oneProcess(t)))
  eachLibrary(t, title, run)
}
