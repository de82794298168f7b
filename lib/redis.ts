import { OptionInvalid } from './errors.js'
import type { RedisClient } from './store/redis/connection.js'
import { PartitionedStore } from './store/redis/partitioned-store.js'
import { RedisNode } from './store/redis/redis-node.js'
import { RedisStore } from './store/redis/redis-store.js'
import type { Store, StoreCallbacks, StoreFactory, StoreSettings } from './store/store.js'

/** Options of {@link redisStore}. */
export interface RedisStoreOptions {
  /**
   * A client of ioredis, or of node-redis 6.2 or later, for a single Redis server (not a cluster). You connect it and close
   * it. The store opens a second connection with `client.duplicate()`. An array of clients divides the sessions and runs
   * among several independent servers; all processes need the same servers in the same order.
   */
  readonly client: RedisClient | readonly RedisClient[]
  /** Prefix of all keys, without the braces in which the store writes it. Registrations with the same namespace share their sessions. Default: `sse`. */
  readonly namespace?: string
  /**
   * Milliseconds without a heartbeat after which the other processes treat a process as failed, at least 100. Must be more
   * than the delay after which its Redis client reconnects. Default: 5000.
   */
  readonly lease?: number
}

/** The namespaces of each client that are in use. */
const namespacesInUse = new WeakMap<RedisClient, Set<string>>()

/**
 * Returns a store factory for option `store`. The store keeps sessions, logs and messages in Redis 7 or later, so that any
 * number of processes can serve the same sessions and runs. Throws FST_SSE_OPTION_INVALID.
 */
export function redisStore ({ client, namespace = 'sse', lease = 5000, ...unknown }: RedisStoreOptions = {} as RedisStoreOptions): StoreFactory {
  const clients: readonly RedisClient[] = Array.isArray(client) ? client : [client]
  if (clients.length === 0) throw new OptionInvalid('Option "client" of redisStore must not be an empty array')
  clients.forEach(assertClient)
  const [unknownName] = Object.keys(unknown)
  if (unknownName !== undefined) throw new OptionInvalid(`Option "${unknownName}" of redisStore must be removed: there is no such option`)
  if (typeof namespace !== 'string' || !/^[^{}\s]+$/.test(namespace)) throw new OptionInvalid('Option "namespace" of redisStore must be a string without braces and spaces')
  if (!Number.isInteger(lease) || lease < 100) throw new OptionInvalid(`Option "lease" of redisStore must be a whole number of milliseconds, at least 100; it is ${lease}`)
  return async (settings, callbacks) => {
    const partitions = await Promise.allSettled(clients.map((client, index) => openPartition(client, namespace, lease, index, clients.length, settings, callbacks)))
    const stores = partitions.flatMap(partition => partition.status === 'fulfilled' ? [partition.value] : [])
    for (const partition of partitions) {
      if (partition.status === 'fulfilled') continue
      await Promise.all(stores.map(store => store.close()))
      throw partition.reason
    }
    return stores.length === 1 ? stores[0] as Store : new PartitionedStore(stores)
  }
}

function assertClient (client: RedisClient): void {
  const properties = client as unknown as Record<string, unknown> | undefined
  const hasMethod = (name: string): boolean => typeof properties?.[name] === 'function'
  if (!hasMethod('duplicate') || !(hasMethod('call') || hasMethod('sendCommand'))) throw new OptionInvalid('Option "client" of redisStore must be a client of ioredis or of node-redis, or an array of them: redisStore({ client })')
  // All keys are in one slot, so a cluster would not distribute them.
  if (properties?.isCluster === true || properties?.masters !== undefined) throw new OptionInvalid('Option "client" of redisStore must not be a client of a cluster; use a client of a single Redis')
}

/** Opens one of the partitions of a store. Each has an equal share of the limits. */
async function openPartition (client: RedisClient, namespace: string, lease: number, index: number, count: number, settings: StoreSettings, callbacks: StoreCallbacks): Promise<RedisStore> {
  const inUse = namespacesInUse.get(client) ?? new Set()
  namespacesInUse.set(client, inUse)
  // Two registrations would share their sessions, and run each other's handlers and hooks.
  if (inUse.has(namespace)) throw new OptionInvalid(`The client already has a store with the namespace "${namespace}"; give each registration its own "namespace"`)
  inUse.add(namespace)
  const share = { ...settings, maxSessions: Math.ceil(settings.maxSessions / count), maxRuns: Math.ceil(settings.maxRuns / count) }
  const node = new RedisNode(share, callbacks, { client, namespace, lease, partition: `${index + 1} of ${count}`, onStop: () => { inUse.delete(namespace) } })
  await node.start()
  return new RedisStore(share, node)
}

export type { IoRedisClient, NodeRedisClient, RedisClient } from './store/redis/connection.js'
