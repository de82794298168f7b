import { OptionInvalid } from './errors.js'
import type { RedisClient } from './store/redis/client.js'
import { Node } from './store/redis/node.js'
import { RedisStore } from './store/redis/store.js'
import type { OpenStore } from './store/store.js'

export interface RedisStoreOptions {
  /** A client of ioredis, or of node-redis from 6.2 on, not of a cluster, which is connected and stays yours; a second connection is made by its `duplicate()`. */
  readonly client: RedisClient
  /** What all keys begin with, in braces. Defaults to `sse`. Those who share it share sessions. */
  readonly namespace?: string
  /** Milliseconds without a sign of life after which a process is taken for dead; more than its client of Redis waits before it connects again. Defaults to 5000. */
  readonly lease?: number
}

/**
 * Has sessions, their logs and messages live in Redis, 7 or later, so that any number of processes serve the same
 * sessions. Pass it as option `store`. Throws FST_SSE_OPTION_INVALID.
 */
export function redisStore ({ client, namespace = 'sse', lease = 5000 }: RedisStoreOptions): OpenStore {
  const given = client as unknown as Record<string, unknown> | undefined
  const method = (name: string): boolean => typeof given?.[name] === 'function'
  if (!method('duplicate') || !(method('call') || method('sendCommand'))) throw new OptionInvalid('Option "client" of redisStore must be a client of ioredis or of node-redis')
  // All keys are in one slot, so that there would be nothing to win.
  if (given?.isCluster === true || given?.masters !== undefined) throw new OptionInvalid('Option "client" of redisStore must not be a client of a cluster; use one of a Redis of its own, and a namespace for each')
  if (typeof namespace !== 'string' || !/^[^{}\s]+$/.test(namespace)) throw new OptionInvalid('Option "namespace" of redisStore must be a string without braces and spaces')
  if (!Number.isInteger(lease) || lease < 100) throw new OptionInvalid(`Option "lease" of redisStore must be a whole number of milliseconds from 100; it is ${lease}`)
  return async (settings, user) => {
    const node = new Node(settings, user, { client, namespace, lease })
    await node.start()
    return new RedisStore(settings, node)
  }
}

export type { IoRedisClient, NodeRedisClient, RedisClient } from './store/redis/client.js'
