import type { FastifyBaseLogger, FastifyTypeProvider, FastifyTypeProviderDefault } from 'fastify'
import { Channel, type SendOptions } from './channel.js'
import type { Contract } from './contract.js'
import { Dispatcher, type MessageHandler, type HandlerOptions } from './dispatch.js'
import { HookLists, type Hooks } from './hooks.js'
import type { Settings } from './options.js'
import { begin, chain, ignore } from './promises.js'
import { Session, type SessionHouse } from './session.js'
import type { SessionState } from './store/state.js'
import type { Awaitable, Store } from './store/store.js'
import type { Downstream } from './stream/downstream.js'
import { Heartbeat } from './stream/heartbeat.js'
import { flushNow } from './turns.js'
import type { ContractSessions } from './typed.js'
import { createSessionId } from './wire/event-id.js'
import { frameEvent, frameHeartbeatEvent, frameRetry, HEARTBEAT_FRAME } from './wire/frame.js'

/** Numbers to watch. */
export interface SessionStats {
  /** Sessions that live, connected or not; in a shared store those of all processes, as of a second ago. */
  readonly sessions: number
  /** Streams of this process that are open. */
  readonly streams: number
  /** Channels that have members; in a shared store those with a stream of this process. */
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
  readonly #log: FastifyBaseLogger
  readonly #heartbeat: Heartbeat
  readonly #streams: Set<Downstream>
  #onLastStream: (() => void) | undefined

  /** @internal Use {@link openSessions}. */
  constructor (settings: Settings, log: FastifyBaseLogger, store: Store, streams: Set<Downstream>) {
    const { heartbeatInterval, heartbeatEvent } = settings
    this.settings = settings
    this.hooks = new HookLists(log)
    this.dispatcher = new Dispatcher(this.hooks)
    this.#store = store
    this.#log = log
    this.#streams = streams
    const frame = heartbeatEvent === undefined ? HEARTBEAT_FRAME : frameHeartbeatEvent(heartbeatEvent)
    this.#heartbeat = new Heartbeat(heartbeatInterval, frame, streams)
    this.#house = {
      store,
      hooks: this.hooks,
      awaited: new Set(),
      retry: () => this.retry(),
      attached: stream => { streams.add(stream) },
      detached: stream => { this.#detached(stream) },
      lost: session => { this.hooks.tell('onClose', session, 'lost') },
      end: (session, reason) => this.#end(session, reason)
    }
  }

  /** How many sessions live, connected or not; in a shared store those of all processes, as of a second ago. */
  get size (): number {
    return this.#store.stats().sessions
  }

  stats (): SessionStats {
    return { ...this.#store.stats(), streams: this.#streams.size }
  }

  /** The session of an id; `undefined` where there is none, or it has ended. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  find (id: string): Promise<Session | undefined> {
    return begin(() => chain(this.#store.find(id), state => state?.endedBy === undefined ? this.#session(state) : undefined))
  }

  /** A channel by name. It need not exist: it does while it has members. */
  channel (name: string): Channel {
    return new Channel(name, this.#store)
  }

  /**
   * Sends a named event to every session there is, with one append. Resolves when it is in the log. Rejects with
   * FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE.
   */
  broadcast (event: string, data: unknown, { except }: SendOptions = {}): Promise<void> {
    return begin(() => this.#store.broadcast({ frame: frameEvent(event, data), except: except?.id }))
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

  /** @internal Makes a session, held for the caller to attach or to discard; `undefined` where there are too many. */
  async open (principal: string | undefined): Promise<Session | undefined> {
    const session = this.#session(await this.#store.open(createSessionId(), principal))
    session?.claim()
    return session
  }

  /** @internal Ends a session whose client has not learnt of it: nobody can come back to it. */
  async discard (session: Session, reason: string): Promise<void> {
    try {
      await this.#end(session, reason, false)
    } catch (error) {
      this.#log.warn({ err: error, session: session.label }, 'a session could not be discarded; it expires by itself')
    }
    session.release()
  }

  /** @internal The session that a client comes back to: one that lives, or has ended without the client having heard. */
  async resumable (id: string, principal: string | undefined): Promise<Session | undefined> {
    const state = await this.#store.find(id)
    return state?.principal === principal ? this.#session(state) : undefined
  }

  /** @internal Gives a stream leave to read what follows a cursor; answers with the newest position, `undefined` where the session is gone. */
  admit (session: Session, cursor: number): Awaitable<number | undefined> {
    return this.#store.attach(session.state, cursor)
  }

  /** @internal The living session that a message is for, at once where it is at hand. */
  recall (id: string): Awaitable<Session | undefined> {
    return chain(this.#store.recall(id), state => state?.endedBy === undefined ? this.#session(state) : undefined)
  }

  /** @internal A session has ended by itself. */
  expired (state: SessionState): Promise<void> {
    const session = this.#session(state)
    session.ended()
    return this.hooks.tell('onClose', session, String(state.endedBy))
  }

  /** @internal How many milliseconds a client is told to wait before it connects again; it is not to come back to a server that closes. */
  retry (): number {
    const { retry: [min, max], closeTimeout } = this.settings
    return (this.closing ? closeTimeout : 0) + min + Math.floor(Math.random() * (max - min + 1))
  }

  /** @internal Ends every stream, within the grace, and the sessions that no other process goes on with: the server is closing. */
  async close (): Promise<void> {
    this.closing = true
    const reason = 'shutdown'
    for (const stream of this.#streams) stream.leave(frameRetry(this.retry()), reason)
    // Not in turns: the grace may be none.
    flushNow()
    await this.#streamsEnded(this.settings.closeTimeout)
    for (const stream of this.#streams) stream.destroy()
    this.#heartbeat.stop()
    const ended = await this.#closeStore(reason)
    await Promise.all(ended.map(state => {
      const session = this.#session(state)
      session.ended()
      return this.hooks.tell('onClose', session, reason)
    }))
  }

  async #closeStore (reason: string): Promise<readonly SessionState[]> {
    try {
      return await this.#store.close(reason)
    } catch (error) {
      this.#log.error({ err: error }, 'the store could not be closed')
      return []
    }
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

  #detached (stream: Downstream): void {
    this.#streams.delete(stream)
    if (this.#streams.size === 0) this.#onLastStream?.()
  }

  #end (session: Session, reason: string, keep = true): Awaitable<void> {
    return chain(this.#store.end(session.state, reason, keep), ended => {
      if (!ended) return
      session.ended()
      return this.hooks.tell('onClose', session, reason)
    })
  }

  #session (state: SessionState): Session
  #session (state: SessionState | undefined): Session | undefined
  #session (state: SessionState | undefined): Session | undefined {
    if (state === undefined) return undefined
    return state.listener instanceof Session ? state.listener : new Session(state, this.#house)
  }
}

/** Opens the store, and the registry over it. `ready` tells when the app's hooks are there, for which what has expired waits. */
export function openSessions (settings: Settings, log: FastifyBaseLogger, ready?: Promise<void>): Promise<Sessions> {
  const streams = new Set<Downstream>()
  const opening: Promise<Sessions> = Promise.resolve().then(() => settings.store(settings, {
    broadcast: () => { for (const stream of streams) stream.wake() },
    expired: state => Promise.all([opening, ready]).then(([sessions]) => sessions.expired(state), ignore)
  })).then(store => new Sessions(settings, log, store, streams))
  return opening
}

/** The type that a type provider gives to data of a schema. */
type Validated<TypeProvider extends FastifyTypeProvider, Schema> = (TypeProvider & { schema: Schema })['validator']
