import { noop } from '../../awaitable.js'
import { withTimeout, CONNECT_TIMEOUT, StoreConnection, createUnavailableError, type RedisClient } from './connection.js'

export interface SubscriberListener {
  onPublication (channel: string, text: string): void
  /** Publications are missed from now on. */
  onDisconnect (): void
  /** All subscriptions are confirmed: publications arrive from now on. */
  onReady (): void
}

// Redis executes nothing else during a command.
const MAX_CHANNELS_PER_COMMAND = 1000

/** The connection for publications. It subscribes again after it was lost. */
export class Subscriber {
  /** Whether all subscriptions are confirmed. */
  isReady = false
  readonly #client: RedisClient
  readonly #listener: SubscriberListener
  /** The channels. Each subscription has an object of its own, so that the confirmation of an earlier one is ignored. */
  readonly #pubSubChannels = new Map<string, object>()
  #confirmed = new Set<string>()
  /** For each channel that is being unsubscribed, a promise that resolves when this is confirmed or has failed. */
  readonly #unsubscribing = new Map<string, Promise<void>>()
  #connection: StoreConnection | undefined
  #subscribing: Promise<void> | undefined

  constructor (client: RedisClient, listener: SubscriberListener) {
    this.#client = client
    this.#listener = listener
  }

  /** Opens the connection. Rejects with StoreUnavailable. */
  async open (channels: readonly string[]): Promise<void> {
    for (const channel of channels) this.#pubSubChannels.set(channel, {})
    const ready = new Promise<void>((resolve, reject) => {
      this.#connect(() => { this.resubscribe().then(resolve, reject) })
    })
    try {
      await withTimeout(ready, CONNECT_TIMEOUT)
    } catch (error) {
      throw createUnavailableError(this.#connection?.lastError ?? error)
    }
  }

  /** Subscribes to channels. Rejects with StoreUnavailable. */
  async add (channels: readonly string[]): Promise<void> {
    for (const channel of channels) if (!this.#pubSubChannels.has(channel)) this.#pubSubChannels.set(channel, {})
    await this.#subscribe(channels.filter(channel => !this.#confirmed.has(channel)))
  }

  remove (channels: readonly string[]): void {
    for (const channel of channels) {
      this.#pubSubChannels.delete(channel)
      this.#confirmed.delete(channel)
    }
    // All at once, because a channel that is added meanwhile must stay subscribed.
    for (const chunk of toChunks(channels)) {
      const unsubscribed = (this.#connection as StoreConnection).unsubscribe(chunk).catch(noop).then(() => {
        for (const channel of chunk) if (this.#unsubscribing.get(channel) === unsubscribed) this.#unsubscribing.delete(channel)
      })
      for (const channel of chunk) this.#unsubscribing.set(channel, unsubscribed)
    }
  }

  /** Opens another connection, because nothing arrives over the current one. */
  replace (): void {
    this.#connection?.close()
    this.#markDisconnected()
    this.#connect(() => { this.resubscribe().catch(noop) })
  }

  /** Subscribes to all channels, if the connection is up and not all subscriptions are confirmed. */
  resubscribe (): Promise<void> {
    if (this.isReady || this.#connection?.isConnected !== true) return Promise.resolve()
    this.#subscribing ??= this.#subscribe([...this.#pubSubChannels.keys()]).then(() => {
      this.isReady = true
      this.#listener.onReady()
    }).finally(() => { this.#subscribing = undefined })
    return this.#subscribing
  }

  close (): void {
    this.#connection?.close()
    this.#markDisconnected()
  }

  #connect (onConnect: () => void): void {
    this.#connection = new StoreConnection(this.#client, {
      onPublication: (channel, text) => { this.#listener.onPublication(channel, text) },
      onDisconnect: () => { this.#markDisconnected() },
      onConnect
    })
  }

  async #subscribe (channels: readonly string[]): Promise<void> {
    const connection = this.#connection as StoreConnection
    // `#markDisconnected` replaces the set, which shows below that the connection was lost.
    const confirmed = this.#confirmed
    for (const chunk of toChunks(channels)) {
      // If a channel was unsubscribed before its subscription was confirmed, node-redis does not subscribe again until both the subscription and the unsubscription are confirmed.
      const unsubscribed = chunk.flatMap(channel => this.#unsubscribing.get(channel) ?? [])
      if (unsubscribed.length > 0) await withTimeout(Promise.all(unsubscribed))
      // Without those that were removed meanwhile.
      const subscriptions = chunk.flatMap(channel => this.#pubSubChannels.has(channel) ? [{ channel, subscription: this.#pubSubChannels.get(channel) }] : [])
      if (subscriptions.length === 0) continue
      await withTimeout(connection.subscribe(subscriptions.map(({ channel }) => channel)))
      if (confirmed !== this.#confirmed) throw createUnavailableError(new Error('The pub/sub connection to Redis was lost while it subscribed'))
      for (const { channel, subscription } of subscriptions) if (this.#pubSubChannels.get(channel) === subscription) confirmed.add(channel)
    }
  }

  #markDisconnected (): void {
    this.isReady = false
    this.#confirmed = new Set()
    // A new connection has no subscriptions. If a connection is lost before it was ready, ioredis never settles the commands that it has sent on it.
    this.#unsubscribing.clear()
    this.#listener.onDisconnect()
  }
}

function * toChunks (channels: readonly string[]): Iterable<string[]> {
  for (let from = 0; from < channels.length; from += MAX_CHANNELS_PER_COMMAND) yield channels.slice(from, from + MAX_CHANNELS_PER_COMMAND)
}
