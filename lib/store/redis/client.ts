import { StoreUnavailable } from '../../errors.js'
import { noop } from '../../awaitable.js'

type Listener = (...args: string[]) => void

/** How ioredis is to keep the connection for what is published. */
const SUBSCRIBER = {
  maxRetriesPerRequest: null,
  enableOfflineQueue: true,
  // It is a command that a connection which has subscribed must not send.
  enableReadyCheck: false,
  // Done here. Where the connection ends meanwhile, its own has nobody to tell and would end the process.
  autoResubscribe: false
} as const

/** What is used of a client of ioredis. */
export interface IoRedisClient {
  call (command: string, ...args: string[]): Promise<unknown>
  on (event: string, listener: Listener): unknown
  off (event: string, listener: Listener): unknown
  duplicate (options?: typeof SUBSCRIBER): IoRedisSubscriber
}

export interface IoRedisSubscriber {
  on (event: string, listener: Listener): unknown
  subscribe (...channels: string[]): Promise<unknown>
  unsubscribe (...channels: string[]): Promise<unknown>
  disconnect (): void
}

/** What is used of a client of node-redis. */
export interface NodeRedisClient {
  sendCommand (args: string[]): Promise<unknown>
  on (event: string, listener: Listener): unknown
  off (event: string, listener: Listener): unknown
  duplicate (): NodeRedisSubscriber
}

export interface NodeRedisSubscriber {
  readonly isOpen: boolean
  readonly isReady: boolean
  on (event: string, listener: Listener): unknown
  connect (): Promise<unknown>
  subscribe (channels: string[], listener: (message: string, channel: string) => void): Promise<unknown>
  unsubscribe (channels: string[], listener: (message: string, channel: string) => void): Promise<unknown>
  destroy (): unknown
}

/** A client of ioredis or of node-redis. It is the app's: errors and reconnecting are, too, and it has to be connected. */
export type RedisClient = IoRedisClient | NodeRedisClient

export interface LinkListener {
  message (channel: string, text: string): void
  /** What is published may be missed from now on. */
  deaf (): void
  /** It is heard again, once the channels are subscribed to again. */
  hearing (): void
  /** Commands were cut off; what was answered last may not hold any more. */
  restored (): void
}

/** Two connections to Redis: the app's, for commands, and one of our own for what is published. */
export class Link {
  /** Whether commands get through, as far as is known. */
  up = true
  readonly #client: RedisClient
  readonly #timeout: number
  readonly #subscriber: IoRedisSubscriber | NodeRedisSubscriber
  readonly #listener: LinkListener

  constructor (client: RedisClient, timeout: number, listener: LinkListener) {
    this.#client = client
    this.#timeout = timeout
    this.#listener = listener
    client.on('close', this.#down)
    client.on('reconnecting', this.#down)
    client.on('end', this.#down)
    client.on('ready', this.#restored)
    this.#subscriber = 'call' in client ? client.duplicate(SUBSCRIBER) : client.duplicate()
    // Its troubles are the app's client's, too, which tells the app.
    this.#subscriber.on('error', noop)
    for (const event of ['close', 'reconnecting', 'end']) this.#subscriber.on(event, () => { listener.deaf() })
  }

  /** Opens the connection for what is published. */
  async open (): Promise<void> {
    const subscriber = this.#subscriber
    if ('destroy' in subscriber) await this.bounded(subscriber.connect())
    else subscriber.on('message', (channel = '', text = '') => { this.#heard(text, channel) })
    subscriber.on('ready', () => { this.#listener.hearing() })
  }

  command (args: string[]): Promise<unknown> {
    const client = this.#client
    return 'call' in client ? client.call(...args as [string, ...string[]]) : client.sendCommand(args)
  }

  async subscribe (channels: string[]): Promise<void> {
    const subscriber = this.#subscriber
    await this.bounded('destroy' in subscriber ? subscriber.subscribe(channels, this.#heard) : subscriber.subscribe(...channels))
  }

  unsubscribe (channels: string[]): void {
    const subscriber = this.#subscriber
    const done = 'destroy' in subscriber ? subscriber.unsubscribe(channels, this.#heard) : subscriber.unsubscribe(...channels)
    done.catch(noop)
  }

  /** A promise that is not kept in time rejects with StoreUnavailable. */
  bounded<T> (promise: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(() => { reject(new StoreUnavailable()) }, this.#timeout).unref()
      promise.then(resolve, reject).finally(() => { clearTimeout(timer) })
    })
  }

  close (): void {
    this.up = false
    this.#client.off('close', this.#down)
    this.#client.off('reconnecting', this.#down)
    this.#client.off('end', this.#down)
    this.#client.off('ready', this.#restored)
    const subscriber = this.#subscriber
    if (!('destroy' in subscriber)) subscriber.disconnect()
    else if (subscriber.isReady) subscriber.destroy()
    // A connection that it is just making would outlive it.
    else for (const event of ['connect', 'error']) subscriber.on(event, () => { if (subscriber.isOpen) subscriber.destroy() })
  }

  readonly #heard = (text: string, channel: string): void => { this.#listener.message(channel, text) }

  readonly #down = (): void => { this.up = false }

  readonly #restored = (): void => {
    this.up = true
    this.#listener.restored()
  }
}
