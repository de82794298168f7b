import { OptionInvalid } from './errors.js'
import { isCluster, type RedisCluster } from './store/redis/cluster-client.js'
import type { RedisClient } from './store/redis/connection.js'
import { openStore } from './store/redis/open-store.js'
import type { StoreFactory } from './store/store.js'

/** Options of {@link redisStore}. */
export interface RedisStoreOptions {
  /**
   * A client of ioredis, or of node-redis 6.2 or later. You connect it and close it. For a single Redis server, the store
   * opens a second connection with `client.duplicate()`. A client of a Redis Cluster divides the sessions and runs among the
   * masters. An array of clients divides them among several independent servers; all processes need the same servers in
   * the same order.
   */
  readonly client: RedisClient | RedisCluster | readonly RedisClient[]
  /** Prefix of all keys, without the braces in which the store writes it. Registrations with the same namespace share their sessions. Default: `sse`. */
  readonly namespace?: string
  /**
   * Milliseconds without a heartbeat after which the other processes treat a process as failed, at least 100. Must be more
   * than the delay after which its Redis client reconnects. Default: 5000.
   */
  readonly lease?: number
  /**
   * Number of parts into which sessions and runs are divided, for a client of a Redis Cluster. All processes need the same
   * number. Default: the number of masters.
   */
  readonly partitions?: number
}

/**
 * Returns a store factory for option `store`. The store keeps sessions, logs and messages in Redis 7 or later, so that any
 * number of processes can serve the same sessions and runs. Throws FST_SSE_OPTION_INVALID.
 */
export function redisStore ({ client, namespace = 'sse', lease = 5000, partitions, ...unknown }: RedisStoreOptions = {} as RedisStoreOptions): StoreFactory {
  const clients: ReadonlyArray<RedisClient | RedisCluster> = Array.isArray(client) ? client : [client]
  clients.forEach(assertClient)
  const [first] = clients
  if (first === undefined) throw new OptionInvalid('Option "client" of redisStore must not be an empty array')
  if (clients.length > 1 && clients.some(isCluster)) throw new OptionInvalid('Option "client" of redisStore must be one client of a cluster, or an array of clients of single servers')
  const [unknownName] = Object.keys(unknown)
  if (unknownName !== undefined) throw new OptionInvalid(`Option "${unknownName}" of redisStore must be removed: there is no such option`)
  if (typeof namespace !== 'string' || !/^[^{}\s]+$/.test(namespace)) throw new OptionInvalid('Option "namespace" of redisStore must be a string without braces and spaces')
  if (!Number.isInteger(lease) || lease < 100) throw new OptionInvalid(`Option "lease" of redisStore must be a whole number of milliseconds, at least 100; it is ${lease}`)
  if (partitions !== undefined && !(isCluster(first) && Number.isInteger(partitions) && partitions >= 1 && partitions <= 256)) throw new OptionInvalid(`Option "partitions" of redisStore must be a whole number from 1 to 256, for a client of a cluster; it is ${partitions}`)
  return (settings, callbacks) => openStore({ clients, namespace, lease, partitions }, settings, callbacks)
}

function assertClient (client: unknown): void {
  const properties = client as Record<string, unknown> | undefined
  const hasMethod = (name: string): boolean => typeof properties?.[name] === 'function'
  if (!hasMethod('duplicate') || !(hasMethod('call') || hasMethod('sendCommand'))) throw new OptionInvalid('Option "client" of redisStore must be a client of ioredis or of node-redis, or an array of them: redisStore({ client })')
}

export type { IoRedisClient, NodeRedisClient, RedisClient } from './store/redis/connection.js'
export type { IoRedisCluster, NodeRedisCluster, RedisCluster } from './store/redis/cluster-client.js'
