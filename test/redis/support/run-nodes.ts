import { Redis } from 'ioredis'
import type { Test } from 'tap'
import type { SseSessionsOptions } from '../../../lib/index.js'
import { redisStore } from '../../../lib/redis.js'
import { serveRuns, type RunServer } from '../../runs/support/serve-runs.js'
import { startFaultProxy, type FaultProxy } from '../../support/fault-proxy.js'
import { startRedis, type RedisServer } from '../../support/redis-server.js'

/** A server with runs in Redis, which it reaches over a proxy. Its first connection is for commands, the second for publications. */
export interface RunNode extends RunServer {
  readonly client: Redis
  readonly proxy: FaultProxy
}

export interface RunNodeOptions {
  readonly lease?: number
  readonly plugin?: SseSessionsOptions
}

export async function openRunNode (t: Test, redis: RedisServer, { lease = 5000, plugin = {} }: RunNodeOptions = {}): Promise<RunNode> {
  const proxy = await startFaultProxy(t, redis.port)
  const client = new Redis({ port: proxy.port, host: '127.0.0.1' })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  const server = await serveRuns(t, { plugin: { closeTimeout: 100, ...plugin, store: redisStore({ client, lease }) } })
  return { ...server, client, proxy }
}

/** Starts Redis and two servers with the same options. */
export async function openRunNodes (t: Test, options?: RunNodeOptions, redisOptions?: Parameters<typeof startRedis>[1]): Promise<[redis: RedisServer, nodeA: RunNode, nodeB: RunNode]> {
  const redis = await startRedis(t, redisOptions)
  return [redis, await openRunNode(t, redis, options), await openRunNode(t, redis, options)]
}
