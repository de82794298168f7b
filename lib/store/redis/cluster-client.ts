import { EventEmitter } from 'node:events'
import { noop } from '../../awaitable.js'
import { StoreUnreachable } from '../../errors.js'
import { waitUntilReady, withTimeout, StoreConnection, type IoRedisClient, type Listener, type NodeRedisClient, type RedisClient } from './connection.js'
import { hashSlot, partitionOf } from './hash-slot.js'

/** What the store uses of a `Cluster` of ioredis. */
export interface IoRedisCluster {
  readonly status: string
  /** For each slot, the addresses of its master and of its replicas. */
  readonly slots: ReadonlyArray<readonly string[]>
  connect (): Promise<unknown>
  on (event: string, listener: Listener): unknown
  off (event: string, listener: Listener): unknown
  nodes (): ReadonlyArray<IoRedisClient & { readonly options: { readonly host?: string | undefined, readonly port?: number | undefined } }>
  refreshSlotsCache (callback: () => void): void
}

/** What the store uses of a cluster of node-redis. */
export interface NodeRedisCluster {
  readonly isOpen: boolean
  readonly masters: readonly unknown[]
  readonly slots: ReadonlyArray<{ readonly master: object }>
  nodeClient (node: object): Promise<NodeRedisClient>
  sendCommand (firstKey: string, isReadonly: boolean, args: string[]): Promise<unknown>
}

/** A client of a Redis Cluster. The app connects and closes it, and handles its errors. */
export type RedisCluster = IoRedisCluster | NodeRedisCluster

/** Milliseconds between attempts to connect. */
const RETRY_DELAY = 100
/** Milliseconds within which an attempt must succeed. */
const ATTEMPT_TIMEOUT = 2000
/** Milliseconds that the client of the cluster has to find out which servers it has now. */
const REFRESH_TIMEOUT = 500

export function isCluster (client: object): client is RedisCluster {
  return 'refreshSlotsCache' in client || 'masters' in client
}

/** Waits until a client of a cluster is connected. Resolves with the number of masters. */
export async function countMasters (cluster: RedisCluster): Promise<number> {
  if ('masters' in cluster) {
    if (!cluster.isOpen) throw new StoreUnreachable('the node-redis cluster is not connected; call "await cluster.connect()" before you register the plugin')
    return cluster.masters.length
  }
  const connecting = cluster.status === 'wait' ? cluster.connect() : undefined
  if (cluster.status !== 'ready') {
    try {
      await waitUntilReady(cluster, connecting)
    } catch (error) {
      throw new StoreUnreachable((error as Error).message)
    }
  }
  return new Set(cluster.slots.map(([master]) => master)).size
}

/** Finds the client of the server that has a hash tag now. Resolves with `undefined` if there is none. */
async function findMaster (cluster: RedisCluster, tag: string): Promise<RedisClient | undefined> {
  const slot = hashSlot(tag)
  if ('masters' in cluster) {
    const key = `{${tag}}`
    // If another server has the slot now, the client of the cluster is redirected, and finds all servers again.
    await withTimeout(cluster.sendCommand(key, false, ['EXISTS', key]), REFRESH_TIMEOUT).catch(noop)
    const shard = cluster.slots[slot]
    return shard && await cluster.nodeClient(shard.master)
  }
  await new Promise<void>(resolve => { cluster.refreshSlotsCache(resolve) })
  const address = cluster.slots[slot]?.[0]
  return cluster.nodes().find(({ options: { host, port } }) => `${host}:${port}` === address)
}

/** A partition of a cluster. */
export interface ClusterPartition {
  readonly client: SlotClient
  readonly namespace: string
}

/** Divides a cluster into partitions, each of which has an equal share of the slots. A namespace is a hash tag, so a partition is in one slot. */
export function createPartitions (cluster: RedisCluster, namespace: string, count: number): ClusterPartition[] {
  const namespaces: string[] = []
  // `<namespace>-0` is a partition for every count. So nodes with different counts share it, and the check of the shared options refuses them.
  for (let n = 0; Object.keys(namespaces).length < count; n++) namespaces[partitionOf(`${namespace}-${n}`, count)] ??= `${namespace}-${n}`
  return namespaces.map(namespace => ({ namespace, client: new SlotClient(cluster, namespace) }))
}

/**
 * A client for the server of a Redis Cluster that has a hash tag. After a failover, or when its slot has moved, it connects
 * to the new server. It has the interface of a client of ioredis, so that the store uses it like that of a single server.
 * The store does not use the client of the cluster for its commands, because that does not show when a connection is lost,
 * and so whether publications can be missing.
 */
export class SlotClient extends EventEmitter implements IoRedisClient {
  status = 'connecting'
  readonly #cluster: RedisCluster
  readonly #tag: string
  /** This client and all its duplicates. */
  readonly #siblings: Set<SlotClient>
  #connection: StoreConnection | undefined
  #attempt = 0
  #timer: NodeJS.Timeout | undefined

  constructor (cluster: RedisCluster, tag: string, siblings = new Set<SlotClient>()) {
    super()
    this.#cluster = cluster
    this.#tag = tag
    this.#siblings = siblings.add(this)
    this.#connect().catch(noop)
  }

  async call (...args: [string, ...string[]]): Promise<unknown> {
    const connection = this.#getConnection()
    try {
      return await connection.command(args)
    } catch (error) {
      const { message } = error as Error
      // While a slot is moved, keys that are not on this server any more, or do not exist, cannot be used (Redis Cluster specification). `common.lua` checks that first, so nothing was executed.
      const isMoving = /^ASK |non local key/.test(message)
      const isElsewhere = /^(MOVED|READONLY) /.test(message)
      if (isElsewhere && connection === this.#connection) for (const client of this.#siblings) client.#reconnect()
      throw isMoving || isElsewhere ? new Error(`TRYAGAIN ${message}`) : error
    }
  }

  async subscribe (...channels: string[]): Promise<void> {
    await this.#getConnection().subscribe(channels)
  }

  async unsubscribe (...channels: string[]): Promise<void> {
    await this.#getConnection().unsubscribe(channels)
  }

  duplicate (): SlotClient {
    return new SlotClient(this.#cluster, this.#tag, this.#siblings)
  }

  disconnect (): void {
    this.#stop()
    this.#siblings.delete(this)
    this.status = 'end'
    this.emit('end')
  }

  async #connect (): Promise<void> {
    const attempt = ++this.#attempt
    const isCurrent = (): boolean => attempt === this.#attempt
    this.#timer = setTimeout(() => { this.#reconnect() }, ATTEMPT_TIMEOUT).unref()
    try {
      const master = await findMaster(this.#cluster, this.#tag)
      if (!isCurrent()) return
      if (master === undefined) throw new Error('no server has the slot')
      const connection = new StoreConnection(master, {
        onConnect: () => {
          clearTimeout(this.#timer)
          this.status = 'ready'
          this.emit('ready')
        },
        onDisconnect: () => {
          if (connection.lastError !== undefined && this.listenerCount('error') > 0) this.emit('error', connection.lastError)
          this.#reconnect()
        },
        onPublication: (channel, text) => { this.emit('message', channel, text) }
      }, true)
      this.#connection = connection
    } catch {
      if (isCurrent()) this.#reconnect()
    }
  }

  #getConnection (): StoreConnection {
    if (this.#connection?.isConnected !== true) throw new Error('the server is not connected')
    return this.#connection
  }

  /** Looks for the server again. */
  #reconnect (): void {
    this.#stop()
    const wasReady = this.status === 'ready'
    this.status = 'reconnecting'
    if (wasReady) this.emit('close')
    this.#timer = setTimeout(() => { this.#connect().catch(noop) }, RETRY_DELAY).unref()
  }

  #stop (): void {
    this.#attempt++
    clearTimeout(this.#timer)
    this.#connection?.close()
    this.#connection = undefined
  }
}
