import { StoreUnavailable } from '../../errors.js'
import { noop } from '../../awaitable.js'

export type Listener = (...args: string[]) => void

/** Options of ioredis for the connections that the store opens. */
const STORE_CONNECTION_OPTIONS = {
  maxRetriesPerRequest: null,
  enableOfflineQueue: true,
  lazyConnect: false,
  // It sends INFO, which a connection with subscriptions must not.
  enableReadyCheck: false,
  // The store subscribes again itself: ioredis would cause an unhandled rejection if the connection closed meanwhile.
  autoResubscribe: false
} as const

/** What the store uses of a client of ioredis. */
export interface IoRedisClient {
  readonly status?: string
  call (command: string, ...args: string[]): Promise<unknown>
  connect? (): Promise<unknown>
  on (event: string, listener: Listener): unknown
  off (event: string, listener: Listener): unknown
  duplicate (options?: typeof STORE_CONNECTION_OPTIONS): IoRedisDuplicate
}

/** What the store uses of a duplicate of a client of ioredis. */
export interface IoRedisDuplicate {
  call (command: string, ...args: string[]): Promise<unknown>
  on (event: string, listener: Listener): unknown
  subscribe (...channels: string[]): Promise<unknown>
  unsubscribe (...channels: string[]): Promise<unknown>
  disconnect (): void
}

/** What the store uses of a client of node-redis. */
export interface NodeRedisClient {
  readonly isOpen: boolean
  readonly isReady: boolean
  sendCommand (args: string[]): Promise<unknown>
  on (event: string, listener: Listener): unknown
  off (event: string, listener: Listener): unknown
  duplicate (): NodeRedisDuplicate
}

/** What the store uses of a duplicate of a client of node-redis. */
export interface NodeRedisDuplicate {
  readonly isOpen: boolean
  readonly isReady: boolean
  sendCommand (args: string[]): Promise<unknown>
  on (event: string, listener: Listener): unknown
  connect (): Promise<unknown>
  subscribe (channels: string[], listener: (message: string, channel: string) => void): Promise<unknown>
  unsubscribe (channels: string[], listener: (message: string, channel: string) => void): Promise<unknown>
  sSubscribe (channels: string[], listener: (message: string, channel: string) => void): Promise<unknown>
  sUnsubscribe (channels: string[], listener: (message: string, channel: string) => void): Promise<unknown>
  destroy (): unknown
}

/** A client of ioredis or of node-redis. The app connects and closes it, and handles its errors. */
export type RedisClient = IoRedisClient | NodeRedisClient

/** Milliseconds within which Redis must execute a command. */
export const COMMAND_TIMEOUT = 2000

/** Milliseconds within which each connection must be ready at boot. Up to three are opened one after the other: the client of a cluster, and the two of a node. Together, they take less than the 10 s that Fastify gives a plugin. */
export const CONNECT_TIMEOUT = 3000

/** A reason for `withTimeout`: the replicas of logs are not complete. */
export const LOGS_NOT_READ = 'The logs were not read from Redis'

/** Returns the error for the caller of a store. It keeps only the message of the cause, because errors of the client libraries contain the arguments of the command, such as the data of events. */
export function createUnavailableError (cause?: unknown): Error {
  if (cause instanceof StoreUnavailable) return cause
  return Object.assign(new StoreUnavailable(), cause instanceof Error && { cause: new Error(cause.message) })
}

/**
 * Calls a function after the sockets were read once more. After the event loop was blocked, timers run before sockets are read, so a timer
 * would otherwise give up a command whose reply has arrived.
 */
export function afterReading (callback: () => void): void {
  setImmediate(callback)
}

/** Settles as the promise does, but rejects with StoreUnavailable instead of its error, or after `timeout` milliseconds. `reason`: what has not happened by then. */
export function withTimeout<T> (promise: Promise<T>, timeout = COMMAND_TIMEOUT, reason = 'Redis has not replied'): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const fail = (): void => { reject(createUnavailableError(new Error(`${reason} within ${timeout} ms`))) }
    const timer = setTimeout(() => { afterReading(fail) }, timeout).unref()
    promise.then(resolve, (error: unknown) => { reject(createUnavailableError(error)) }).finally(() => { clearTimeout(timer) })
  })
}

/** Waits until a client is ready. Rejects with the reason if it is not ready within CONNECT_TIMEOUT. `connecting`: the result of its method `connect`. */
export async function waitUntilReady (client: Pick<IoRedisClient, 'on' | 'off'>, connecting?: Promise<unknown>): Promise<void> {
  let lastError: unknown
  let onReady = noop
  const ready = new Promise<void>(resolve => { onReady = resolve })
  const onError = (error: unknown): void => { lastError = error }
  connecting?.catch(onError)
  client.on('error', onError)
  client.on('ready', onReady)
  try {
    await withTimeout(ready, CONNECT_TIMEOUT)
  } catch {
    // For a host name with several addresses, the message is empty.
    const { message, code } = Object(lastError) as { message?: string, code?: string }
    throw new Error(`the client is not connected after ${CONNECT_TIMEOUT} ms: ${message || code || 'no reply'}; check its host and port, and that Redis is running`)
  } finally {
    client.off('error', onError)
    client.off('ready', onReady)
  }
}

export interface StoreConnectionListener {
  onConnect (): void
  onDisconnect (): void
  onPublication (channel: string, text: string): void
}

/** A connection that the store opens itself, with the settings of the app's client. */
export class StoreConnection {
  isConnected = false
  readonly #client: IoRedisDuplicate | NodeRedisDuplicate
  readonly #listener: StoreConnectionListener
  readonly #isSharded: boolean
  #isClosed = false
  /** Whether node-redis has opened its socket. A `destroy` before that does not stop node-redis from opening it. */
  #hasSocket = false
  #lastError: Error | undefined

  /** If `isSharded` is true, the channels are those of a slot of a cluster. */
  constructor (client: RedisClient, listener: StoreConnectionListener, isSharded = false) {
    this.#listener = listener
    this.#isSharded = isSharded
    const duplicate = 'call' in client ? client.duplicate(STORE_CONNECTION_OPTIONS) : client.duplicate()
    this.#client = duplicate
    duplicate.on('error', (error: unknown) => {
      this.#lastError = error as Error
      this.#onSocketChange(false)
    })
    duplicate.on('connect', () => { this.#onSocketChange(true) })
    for (const event of ['close', 'reconnecting', 'end']) duplicate.on(event, () => { this.#onStatusChange(false) })
    duplicate.on('ready', () => { this.#onStatusChange(true) })
    if ('destroy' in duplicate) duplicate.connect().catch(noop)
    else duplicate.on(isSharded ? 'smessage' : 'message', (channel = '', text = '') => { this.#receive(text, channel) })
  }

  get lastError (): Error | undefined {
    return this.#lastError
  }

  // Async, because the clients throw some of their errors.
  async command (args: string[]): Promise<unknown> {
    const client = this.#client
    return await ('destroy' in client ? client.sendCommand(args) : client.call(...args as [string, ...string[]]))
  }

  async subscribe (channels: string[]): Promise<void> {
    const client = this.#client
    if (this.#isSharded) await ('destroy' in client ? client.sSubscribe(channels, this.#receive) : client.call('ssubscribe', ...channels))
    else await ('destroy' in client ? client.subscribe(channels, this.#receive) : client.subscribe(...channels))
  }

  async unsubscribe (channels: string[]): Promise<void> {
    const client = this.#client
    if (this.#isSharded) await ('destroy' in client ? client.sUnsubscribe(channels, this.#receive) : client.call('sunsubscribe', ...channels))
    else await ('destroy' in client ? client.unsubscribe(channels, this.#receive) : client.unsubscribe(...channels))
  }

  close (): void {
    this.#isClosed = true
    this.isConnected = false
    const client = this.#client
    if (!('destroy' in client)) client.disconnect()
    else if (this.#hasSocket) client.destroy()
  }

  #onSocketChange (hasSocket: boolean): void {
    this.#hasSocket = hasSocket
    const client = this.#client
    if (this.#isClosed && 'destroy' in client && client.isOpen) client.destroy()
  }

  #onStatusChange (isConnected: boolean): void {
    if (this.#isClosed) return
    this.isConnected = isConnected
    if (isConnected) this.#listener.onConnect()
    else this.#listener.onDisconnect()
  }

  readonly #receive = (text: string, channel: string): void => {
    if (!this.#isClosed) this.#listener.onPublication(channel, text)
  }
}

/**
 * The connection for commands. It uses the app's client. If this does not reply or reconnect for too long, the node calls `replace`, which opens a
 * connection of the store. A connection whose other side is gone (half open) can stay silent for many minutes before the operating
 * system reports an error.
 */
export class CommandConnection {
  /** Whether commands can be sent. */
  isConnected = true
  /** Increases when the connection is lost or replaced. ioredis can then send the commands without replies again, so a later reply can be that of a second attempt. */
  lossCount = 0
  readonly #client: RedisClient
  readonly #onConnect: () => void
  #replacement: StoreConnection | undefined

  /** `onConnect` is called when commands can be sent again. */
  constructor (client: RedisClient, onConnect: () => void) {
    this.#client = client
    this.#onConnect = onConnect
    this.#listen('on')
  }

  /** Waits until the app's client is connected. Rejects with the reason if it is not. */
  async open (): Promise<void> {
    const client = this.#client
    if ('call' in client) {
      const connecting = client.status === 'wait' ? client.connect?.() : undefined
      if (client.status !== undefined && client.status !== 'ready') await waitUntilReady(client, connecting)
    } else if (!client.isOpen) throw new Error('the node-redis client is not connected; call "await client.connect()" before you register the plugin')
    else if (!client.isReady) await waitUntilReady(client)
  }

  // Async, because the clients throw some of their errors.
  async command (args: string[]): Promise<unknown> {
    if (this.#replacement !== undefined) return await this.#replacement.command(args)
    const client = this.#client
    return await ('call' in client ? client.call(...args as [string, ...string[]]) : client.sendCommand(args))
  }

  /** Opens another connection, because the current one does not reply. */
  replace (): void {
    this.#stop()
    // What was sent to the app's client can still be executed, and sent again.
    this.lossCount++
    this.#replacement = new StoreConnection(this.#client, { onConnect: this.#markConnected, onDisconnect: this.#markDisconnected, onPublication: noop })
  }

  close (): void {
    this.#stop()
  }

  #stop (): void {
    this.isConnected = false
    this.#listen('off')
    this.#replacement?.close()
  }

  #listen (method: 'on' | 'off'): void {
    for (const event of ['close', 'reconnecting', 'end']) this.#client[method](event, this.#markDisconnected)
    this.#client[method]('ready', this.#markConnected)
  }

  readonly #markDisconnected = (): void => {
    this.isConnected = false
    this.lossCount++
  }

  readonly #markConnected = (): void => {
    this.isConnected = true
    this.#onConnect()
  }
}
