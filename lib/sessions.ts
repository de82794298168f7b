import type { FastifyBaseLogger } from 'fastify'
import { Channel, Channels, type SendOptions } from './channel.js'
import type { Contract } from './contract.js'
import { Dispatcher, type MessageHandler, type HandlerOptions } from './dispatch.js'
import { HookLists, type Hooks } from './hooks.js'
import { Mailbox } from './mailbox.js'
import type { Settings } from './options.js'
import { begin, chain, ignore } from './promises.js'
import { Session, type SessionHouse } from './session.js'
import { now, type Log, type LogListener } from './store/log.js'
import type { Store } from './store/store.js'
import type { Downstream } from './stream/downstream.js'
import { Heartbeat } from './stream/heartbeat.js'
import type { ContractSessions } from './typed.js'
import { createSessionId } from './wire/event-id.js'
import { frameEvent, frameHeartbeatEvent, frameRetry, HEARTBEAT_FRAME } from './wire/frame.js'
import type { FastifyTypeProvider, FastifyTypeProviderDefault } from 'fastify'

/** Numbers to watch. */
export interface SessionStats {
  /** Sessions that live, connected or not. */
  readonly sessions: number
  /** Streams that are open. */
  readonly streams: number
  /** Channels that have members. */
  readonly channels: number
}

/** The registry of sessions, decorated on the instance. */
export class Sessions<TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault> {
  /** @internal */
  readonly settings: Settings
  /** @internal */
  readonly hooks: HookLists
  /** @internal */
  readonly dispatcher: Dispatcher
  /** @internal Whether the server is closing: nobody is let in any more. */
  closing = false
  readonly #house: SessionHouse
  readonly #store: Store
  readonly #channels: Channels
  readonly #broadcasts: Log
  readonly #heartbeat: Heartbeat
  /** Those that live, and those that have ended but whose client may come back to hear it. */
  readonly #sessions = new Map<string, Session>()
  /** The latter of them, in the order in which they ended. */
  readonly #ended = new Set<Session>()
  readonly #streams = new Set<Downstream>()
  readonly #perPrincipal = new Map<string, number>()
  /** When sessions without a stream are over; in order, since all wait equally long. */
  readonly #deadlines = new Map<Session, number>()
  #expiry: NodeJS.Timeout | undefined
  #live = 0
  #onLastStream: (() => void) | undefined

  /** @internal */
  constructor (settings: Settings, log: FastifyBaseLogger) {
    const { store, channelLog, heartbeatInterval, heartbeatEvent } = settings
    this.settings = settings
    this.hooks = new HookLists(log)
    this.dispatcher = new Dispatcher(this.hooks)
    this.#store = store
    this.#channels = new Channels(channelLog, store)
    const everyone: LogListener = { wake: () => { for (const session of this.#sessions.values()) session.wake() } }
    this.#broadcasts = store.log('broadcast', channelLog, everyone)
    const frame = heartbeatEvent === undefined ? HEARTBEAT_FRAME : frameHeartbeatEvent(heartbeatEvent)
    this.#heartbeat = new Heartbeat(heartbeatInterval, frame, this.#streams)
    this.#house = {
      store,
      channels: this.#channels,
      hooks: this.hooks,
      log,
      logBounds: settings.log,
      mailbox: () => new Mailbox(settings.maxWaitingMessages, settings.maxIdempotencyKeys),
      retry: () => this.retry(),
      attached: (session, stream) => {
        this.hold(session)
        this.#streams.add(stream)
      },
      detached: (session, stream) => { this.#detached(session, stream) },
      end: (session, reason) => this.#end(session, reason)
    }
  }

  /** How many sessions live, connected or not. */
  get size (): number {
    return this.#live
  }

  stats (): SessionStats {
    return { sessions: this.#live, streams: this.#streams.size, channels: this.#channels.size }
  }

  /** The session of an id; `undefined` where there is none, or it has ended. */
  find (id: string): Session | undefined {
    const session = this.#sessions.get(id)
    return session?.closed === false ? session : undefined
  }

  /** A channel by name. It need not exist: it does while it has members. */
  channel (name: string): Channel {
    return new Channel(name, this.#channels)
  }

  /**
   * Sends a named event to every session there is, with one append. Resolves when it is in the log. Rejects with
   * FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE.
   */
  broadcast (event: string, data: unknown, { except }: SendOptions = {}): Promise<void> {
    return begin(() => chain(this.#store.append(this.#broadcasts, { frame: frameEvent(event, data), except: except?.id }), ignore))
  }

  /** Adds a hook; see {@link Hooks}. Throws FST_SSE_HOOK_INVALID for a name that is none. */
  addHook<Name extends keyof Hooks> (name: Name, hook: Hooks[Name]): this {
    this.hooks.add(name, hook)
    return this
  }

  /**
   * Sets the handler of an upward event. With a `schema` the data is validated as Fastify validates bodies, and typed
   * by the type provider. What the handler returns is the answer. Throws FST_SSE_HANDLER_INVALID where there is one.
   */
  handle (event: string, handler: MessageHandler<unknown>): this
  handle<const Schema> (event: string, options: HandlerOptions<Schema>, handler: MessageHandler<Validated<TypeProvider, Schema>>): this
  handle (event: string, ...rest: [MessageHandler<unknown>] | [HandlerOptions<unknown>, MessageHandler<never>]): this {
    const [options, handler] = rest.length === 1 ? [{}, rest[0]] : rest
    this.dispatcher.set(event, options, handler as MessageHandler<unknown>)
    return this
  }

  /** The same registry, whose handlers are typed by another type provider. */
  withTypeProvider<Provider extends FastifyTypeProvider> (): Sessions<Provider> {
    return this as unknown as Sessions<Provider>
  }

  /** The same registry, typed by a contract that clients share. */
  withContract<C extends Contract> (): ContractSessions<C> {
    return this as unknown as ContractSessions<C>
  }

  /** @internal Makes a session, for the caller to attach or to close; `undefined` where there are too many. */
  async open (principal: string | undefined): Promise<Session | undefined> {
    const { maxSessions, maxSessionsPerPrincipal } = this.settings
    if (this.#live >= maxSessions) return undefined
    if (principal !== undefined && this.#principalCount(principal) >= maxSessionsPerPrincipal) return undefined
    this.#count(principal, 1)
    try {
      const id = createSessionId()
      const session = new Session(id, principal, await this.#store.head(), this.#broadcasts, this.#house)
      this.#sessions.set(id, session)
      return session
    } catch (error) {
      this.#count(principal, -1)
      throw error
    }
  }

  /** @internal Ends a session whose client has not learnt of it: nobody can come back to it. */
  async discard (session: Session, reason: string): Promise<void> {
    const ended = this.#end(session, reason)
    this.#remove(session)
    await ended
  }

  /** @internal The session that a client comes back to: one that lives, or has ended without the client having heard. */
  resumable (id: string, principal: string | undefined): Session | undefined {
    const session = this.#sessions.get(id)
    return session?.principal === principal ? session : undefined
  }

  /** @internal Has a session not expire while its client is on the way back; `release` ends that. */
  hold (session: Session): void {
    if (!session.closed) this.#deadlines.delete(session)
  }

  /** @internal The client has not come back after all. */
  release (session: Session): void {
    if (!session.connected && !session.closed) this.#expireLater(session)
  }

  /** @internal How many milliseconds a client is told to wait before it connects again; it is not to come back to a server that closes. */
  retry (): number {
    const { retry: [min, max], closeTimeout } = this.settings
    return (this.closing ? closeTimeout : 0) + min + Math.floor(Math.random() * (max - min + 1))
  }

  /** @internal Ends every stream, within the grace, and every session: the server is closing. */
  async close (): Promise<void> {
    this.closing = true
    const reason = 'shutdown'
    for (const session of this.#sessions.values()) session.dismiss(frameRetry(this.retry()), reason)
    await this.#streamsEnded(this.settings.closeTimeout)
    for (const stream of this.#streams) stream.destroy()
    this.#heartbeat.stop()
    clearTimeout(this.#expiry)
    await Promise.all([...this.#sessions.values()].map(session => this.#end(session, reason)))
    clearTimeout(this.#expiry)
    await this.#store.close()
  }

  #streamsEnded (deadline: number): Promise<void> {
    if (this.#streams.size === 0) return Promise.resolve()
    return new Promise<void>(resolve => {
      const timer = setTimeout(resolve, deadline)
      this.#onLastStream = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #detached (session: Session, stream: Downstream): void {
    this.#streams.delete(stream)
    if (this.#streams.size === 0) this.#onLastStream?.()
    if (session.connected || session.closed) return
    this.#expireLater(session)
    this.hooks.tell('onDisconnect', session)
  }

  async #end (session: Session, reason: string): Promise<void> {
    if (!session.end(reason)) return
    this.#count(session.principal, -1)
    // Kept for a while, for a client that has not heard of the end; but not without number.
    this.#expireLater(session)
    this.#ended.add(session)
    const [oldest] = this.#ended
    if (oldest !== undefined && this.#ended.size > this.settings.maxSessions) this.#remove(oldest)
    await this.hooks.tell('onClose', session, reason)
  }

  #count (principal: string | undefined, difference: 1 | -1): void {
    this.#live += difference
    if (principal === undefined) return
    const count = this.#principalCount(principal) + difference
    if (count === 0) this.#perPrincipal.delete(principal)
    else this.#perPrincipal.set(principal, count)
  }

  #principalCount (principal: string): number {
    return this.#perPrincipal.get(principal) ?? 0
  }

  #expireLater (session: Session): void {
    const { resumeTimeout } = this.settings
    this.#deadlines.delete(session)
    this.#deadlines.set(session, now() + resumeTimeout)
    this.#expiry ??= setTimeout(this.#expire, resumeTimeout).unref()
  }

  readonly #expire = (): void => {
    const time = now()
    for (const [session, deadline] of this.#deadlines) {
      if (deadline > time) {
        this.#expiry = setTimeout(this.#expire, deadline - time).unref()
        return
      }
      this.#end(session, 'expired')
      this.#remove(session)
    }
    this.#expiry = undefined
  }

  #remove (session: Session): void {
    this.#deadlines.delete(session)
    this.#sessions.delete(session.id)
    this.#ended.delete(session)
    session.dispose()
  }
}

/** The type that a type provider gives to data of a schema. */
type Validated<TypeProvider extends FastifyTypeProvider, Schema> = (TypeProvider & { schema: Schema })['validator']
