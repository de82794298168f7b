import { noop } from '../../awaitable.js'
import { bounded, CONNECT_TIMEOUT, OwnConnection, unavailable, type RedisClient } from './connection.js'

export interface SubscriberListener {
  onMessage (channel: string, text: string): void
  /** Publications are missed from now on. */
  onDown (): void
  /** All subscriptions are confirmed: publications arrive from now on. */
  onReady (): void
}

/** How many channels one command subscribes to. */
const MAX_CHANNELS = 1000

/** The connection for publications. It subscribes again after it was lost. */
export class Subscriber {
  /** Whether all subscriptions are confirmed. */
  isReady = false
  readonly #client: RedisClient
  readonly #listener: SubscriberListener
  /** The channels, each with an object that identifies its subscription. */
  readonly #channels = new Map<string, object>()
  #confirmed = new Set<string>()
  #connection: OwnConnection | undefined
  #subscribing: Promise<void> | undefined

  constructor (client: RedisClient, listener: SubscriberListener) {
    this.#client = client
    this.#listener = listener
  }

  /** Opens the connection. Rejects with StoreUnavailable. */
  async open (channels: readonly string[]): Promise<void> {
    for (const channel of channels) this.#channels.set(channel, {})
    const ready = new Promise<void>((resolve, reject) => {
      this.#connect(() => { this.resubscribe().then(resolve, reject) })
    })
    try {
      await bounded(ready, CONNECT_TIMEOUT)
    } catch (error) {
      throw unavailable(this.#connection?.lastError ?? error)
    }
  }

  /** Subscribes to channels. Rejects with StoreUnavailable. */
  async add (channels: readonly string[]): Promise<void> {
    for (const channel of channels) if (!this.#channels.has(channel)) this.#channels.set(channel, {})
    await this.#subscribe(channels.filter(channel => !this.#confirmed.has(channel)))
  }

  remove (channels: readonly string[]): void {
    for (const channel of channels) {
      this.#channels.delete(channel)
      this.#confirmed.delete(channel)
    }
    if (channels.length > 0) this.#connection?.unsubscribe([...channels]).catch(noop)
  }

  /** Opens another connection, because nothing arrives over the current one. */
  replace (): void {
    this.#connection?.close()
    this.#down()
    this.#connect(() => { this.resubscribe().catch(noop) })
  }

  /** Subscribes to all channels, if the connection is up and not all subscriptions are confirmed. */
  resubscribe (): Promise<void> {
    if (this.isReady || this.#connection?.isUp !== true) return Promise.resolve()
    this.#subscribing ??= this.#subscribe([...this.#channels.keys()]).then(() => {
      this.isReady = true
      this.#listener.onReady()
    }).finally(() => { this.#subscribing = undefined })
    return this.#subscribing
  }

  close (): void {
    this.#connection?.close()
    this.#down()
  }

  #connect (onReady: () => void): void {
    this.#connection = new OwnConnection(this.#client, {
      onMessage: (channel, text) => { this.#listener.onMessage(channel, text) },
      onDown: () => { this.#down() },
      onReady
    })
  }

  async #subscribe (channels: readonly string[]): Promise<void> {
    const connection = this.#connection as OwnConnection
    // Replaced when the connection is lost.
    const confirmed = this.#confirmed
    for (let from = 0; from < channels.length; from += MAX_CHANNELS) {
      const chunk = channels.slice(from, from + MAX_CHANNELS)
      const subscriptions = chunk.map(channel => this.#channels.get(channel))
      await bounded(connection.subscribe(chunk))
      if (confirmed !== this.#confirmed) throw unavailable(new Error('The connection was lost'))
      // Not if the channel was removed meanwhile.
      for (const [index, channel] of chunk.entries()) if (this.#channels.get(channel) === subscriptions[index]) confirmed.add(channel)
    }
  }

  #down (): void {
    this.isReady = false
    this.#confirmed = new Set()
    this.#listener.onDown()
  }
}
