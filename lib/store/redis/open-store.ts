import { OptionInvalid } from '../../errors.js'
import type { Store, StoreCallbacks, StoreSettings } from '../store.js'
import { countMasters, createPartitions, isCluster, SlotClient, type RedisCluster } from './cluster-client.js'
import type { RedisClient } from './connection.js'
import { StartLimit } from './messages/start-limit.js'
import { PartitionedStore } from './partitioned-store.js'
import { RedisNode } from './redis-node.js'
import { RedisStore } from './redis-store.js'

export interface OpenStoreOptions {
  /** One client of a cluster, or any number of clients of single servers. */
  readonly clients: ReadonlyArray<RedisClient | RedisCluster>
  readonly namespace: string
  readonly lease: number
  /** Number of partitions of a cluster; by default, that of its masters. */
  readonly partitions: number | undefined
}

/** The namespaces of each client that are in use. */
const namespacesInUse = new WeakMap<object, Set<string>>()

/** Opens the partitions of a store, each of which has an equal share of the limits. */
export async function openStore ({ clients, namespace, lease, partitions }: OpenStoreOptions, settings: StoreSettings, callbacks: StoreCallbacks): Promise<Store> {
  const release = reserveNamespace(clients, namespace)
  let parts: ReadonlyArray<{ readonly client: RedisClient, readonly namespace: string }> = []
  const nodes: RedisNode[] = []
  const closeAll = async (): Promise<void> => {
    await Promise.all(nodes.map(node => node.close()))
    for (const { client } of parts) if (client instanceof SlotClient) client.disconnect()
    release()
  }
  let closed: Promise<void> | undefined
  const close = (): Promise<void> => {
    closed ??= closeAll()
    return closed
  }
  try {
    const cluster = clients.find(isCluster)
    parts = cluster === undefined ? (clients as readonly RedisClient[]).map(client => ({ client, namespace })) : createPartitions(cluster, namespace, partitions ?? await countMasters(cluster))
    const startLimit = new StartLimit()
    const share = { ...settings, maxSessions: Math.ceil(settings.maxSessions / parts.length), maxRuns: Math.ceil(settings.maxRuns / parts.length) }
    for (const [index, part] of parts.entries()) nodes.push(new RedisNode(share, callbacks, { ...part, lease, isCluster: cluster !== undefined, partition: `${index + 1} of ${parts.length}`, startLimit }))
    const started = await Promise.allSettled(nodes.map(node => node.start()))
    for (const result of started) if (result.status === 'rejected') throw result.reason
    const [store, ...others] = nodes.map(node => new RedisStore(share, node, close)) as [RedisStore, ...RedisStore[]]
    return others.length === 0 ? store : new PartitionedStore([store, ...others], close)
  } catch (error) {
    await close()
    throw error
  }
}

/** Reserves a namespace of clients. Returns the function that releases it. Two registrations with the same one would share their sessions, and run each other's handlers and hooks. */
function reserveNamespace (clients: readonly object[], namespace: string): () => void {
  const inUse = clients.map(client => {
    const names = namespacesInUse.get(client) ?? new Set()
    namespacesInUse.set(client, names)
    return names
  })
  if (inUse.some(names => names.has(namespace))) throw new OptionInvalid(`The client already has a store with the namespace "${namespace}"; give each registration its own "namespace"`)
  for (const names of inUse) names.add(namespace)
  return () => { for (const names of inUse) names.delete(namespace) }
}
