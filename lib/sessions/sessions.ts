import type { FastifyBaseLogger, FastifyReply, FastifyTypeProvider, FastifyTypeProviderDefault } from 'fastify'
import { ActiveItems } from '../active-items.js'
import { andThen, isPromise, noop, settlesWithin, toPromise, type Awaitable } from '../awaitable.js'
import type { Contract, DownData, DownEvent, EmptyDownEvent, UpEvent } from '../contract.js'
import { CloseTimeout, Closing, SessionOver } from '../errors.js'
import { now } from '../clock.js'
import type { Settings } from '../options.js'
import { Runs } from '../runs/runs.js'
import { logSafely } from '../safe-log.js'
import type { SessionState } from '../store/session-state.js'
import type { Store } from '../store/store.js'
import { flushScheduler } from '../stream/flush-scheduler.js'
import { Heartbeat } from '../stream/heartbeat.js'
import { hasTimedOut } from '../stream/request-time.js'
import { SharedCompression } from '../stream/shared-compression.js'
import type { StreamWriter } from '../stream/stream-writer.js'
import { IdGenerator } from '../wire/event-id.js'
import { frameHeartbeatEvent, frameRetry, HEARTBEAT_FRAME, PADDING_FRAME } from '../wire/frame.js'
import { AuthorizationCheck } from './authorization-check.js'
import { Channel, type ChannelContext } from './channel.js'
import type { ChannelOptions } from './channel-options.js'
import type { ContractChannel, ContractHandler, ContractPrincipalSessions, ContractSession } from './contract-types.js'
import { createSharedEntry, type SendOptions } from './event-options.js'
import { HandlerRegistry, type HandlerOptions, type MessageHandler } from './handlers.js'
import { HookRunner, type Hooks } from './hooks.js'
import { kInternals, Session } from './session.js'
import { SESSION_FRAMES, SessionInternals, type SessionContext, type StreamFrames, type UnhandledDetails } from './session-internals.js'
import { PrincipalSessions } from './principal-sessions.js'

/** Minimum time for the store and the `onClose` hooks in `close`, in milliseconds, even if streams or handlers have taken all of `closeTimeout`. */
const MIN_STORE_TIMEOUT = 100

/** @internal Key of the slot of a tracked reply for which `close` waits. */
export const kSlot = Symbol('slot')

/** Key of the original method `send` of a tracked reply, until it is called. */
const kSend = Symbol('send')

/** Key of whether a handler has started for the request of a tracked reply. */
const kIsStarted = Symbol('started')

interface TrackedReply {
  [kSlot]?: number | undefined
  [kIsStarted]?: true
  [kSend]?: FastifyReply['send'] | undefined
}

/** The method `send` of a tracked reply, until it is called: by the plugin, by the app, or by Fastify, for example after its `handlerTimeout`. */
function sendTracked (this: FastifyReply & TrackedReply, payload?: unknown): FastifyReply {
  const send = this[kSend] as FastifyReply['send']
  this.send = send
  this[kSend] = undefined
  try {
    return this.send(payload)
  } catch (error) {
    // Nothing was sent: a serializer of the app has failed.
    this[kSend] = send
    this.send = sendTracked
    throw error
  }
}

/** Numbers for monitoring. */
export interface SessionStats {
  /** Open sessions, connected or not. With a shared store, the number for all processes; it can be one second out of date. */
  readonly sessions: number
  /** Open streams of this process. */
  readonly streams: number
  /** Channels that have members, or events that are kept. With a shared store, those that have a member whose stream is in this process. */
  readonly channels: number
}

/** The registry of sessions, which is a decorator of the Fastify instance. */
export class Sessions<TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault> {
  /** The registry of runs: event streams that do not depend on connections, with any number of readers. */
  readonly runs: Runs
  /** @internal */
  readonly settings: Settings
  /** @internal */
  readonly hooks: HookRunner
  /** @internal */
  readonly handlers: HandlerRegistry
  /** @internal Compresses streams. `undefined` if option `compress` is off. */
  readonly compression: SharedCompression | undefined
  /** @internal Whether the server is closing. Then no session and no stream is opened any more. */
  closing = false
  readonly #context: SessionContext<Session> & ChannelContext
  readonly #store: Store
  readonly #logger: FastifyBaseLogger
  readonly #heartbeat: Heartbeat
  readonly #authorizationCheck: AuthorizationCheck | undefined
  readonly #streams: Set<StreamWriter>
  readonly #ids = new IdGenerator()
  /** The replies to POST and DELETE requests whose handlers run. */
  readonly #replies = new ActiveItems<FastifyReply>()
  /** Promises of the calls that close sessions, and of the hooks that run for closed sessions. `close` waits for them. */
  readonly #pendingCloses = new Set<Promise<void>>()
  /** Resolves the promise for which `close` waits. */
  #onIdle: (() => void) | undefined

  /** @internal Use {@link createSessions}. */
  constructor (settings: Settings, logger: FastifyBaseLogger, store: Store, streams: Set<StreamWriter>, frames: StreamFrames) {
    const { heartbeatInterval, heartbeatEvent } = settings
    this.settings = settings
    this.compression = settings.compress ? new SharedCompression() : undefined
    this.hooks = new HookRunner(logger)
    this.handlers = new HandlerRegistry(this.hooks, {
      stopParts: (session, key) => this.runs.deliveries.stopValues(session.id, key),
      answer: (session, data) => {
        session[kInternals].preventEviction()
        return this.runs.requests.answer(session.id, data)
      }
    })
    this.#store = store
    this.#logger = logger
    this.#streams = streams
    const frame = heartbeatEvent === undefined ? HEARTBEAT_FRAME : frameHeartbeatEvent(heartbeatEvent)
    this.#heartbeat = new Heartbeat(heartbeatInterval, frame, streams)
    if (settings.expires !== undefined) {
      this.#authorizationCheck = new AuthorizationCheck(streams, session => this.#closeUnauthorized(session), error => {
        logSafely(logger, 'warn', { err: error }, 'sessions whose credentials have expired could not be closed')
      })
    }
    this.runs = new Runs(settings, logger, store.runs, {
      createRetryDelay: () => this.createRetryDelay(),
      onUnhandled: (error, call, details) => { this.#onUnhandled(error, call, details) }
    })
    this.#context = {
      store,
      logger,
      frames,
      padding: settings.padding ? PADDING_FRAME : '',
      pinned: new Set(),
      createRetryDelay: () => this.createRetryDelay(),
      close: (session, reason) => this.#closeSession(session, reason),
      onStreamOpen: stream => { streams.add(stream) },
      onStreamClose: stream => { this.#onStreamClose(stream) },
      getOrCreateSession: state => this.#getOrCreateSession(state),
      request: (target, description, frame, options) => this.runs.requests.send(target, description, frame, options),
      onJoin: (session, channel) => this.#notifyMembership('onJoin', session, channel),
      onLeave: (session, channel) => this.#notifyMembership('onLeave', session, channel),
      onDisconnect: session => { this.hooks.notify('onDisconnect', session) },
      onGap: (session, gap) => { this.hooks.notify('onGap', session, gap) },
      onLost: session => { this.#runCloseHooks(session, 'lost') },
      onUnhandled: (error, call, details) => { this.#onUnhandled(error, call, details) }
    }
  }

  /** Number of open sessions, connected or not. With a shared store, the number for all processes; it can be one second out of date. */
  get size (): number {
    return this.#store.stats().sessions
  }

  /** Returns numbers for monitoring. */
  stats (): SessionStats {
    return { ...this.#store.stats(), streams: this.#streams.size }
  }

  /** Finds an open session by id; `undefined` if there is none. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  find (id: string): Promise<Session | undefined> {
    return toPromise(() => andThen(this.#store.find(id), state => this.#getOpenSession(state)))
  }

  /** Returns an object for the open sessions of a principal, in all processes: it sends events to these sessions, counts them or closes them. Throws FST_SSE_OPTION_INVALID if the principal is not a string. */
  of (principal: string): PrincipalSessions {
    return new PrincipalSessions(principal, {
      find: principal => andThen(this.#store.findByPrincipal(principal), states => states.map(state => this.#getOrCreateSession(state))),
      onUnhandled: (error, call, details) => { this.#onUnhandled(error, call, details) }
    })
  }

  /** Returns a channel by name. You do not create channels: a channel exists while it has members, or events that it keeps. Throws FST_SSE_CHANNEL_INVALID or FST_SSE_OPTION_INVALID. */
  channel (name: string, options: ChannelOptions = {}): Channel {
    return new Channel(name, options, this.#context)
  }

  /**
   * Sends a named event to all sessions. Resolves when the event is in the log of broadcasts. Rejects with
   * FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_OPTION_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE.
   */
  broadcast (event: string, data: unknown, options?: SendOptions): Promise<void> {
    return toPromise(() => this.#store.broadcast(createSharedEntry(event, data, options, 'broadcast')), error => { this.#onUnhandled(error, 'broadcast', { event }) })
  }

  /** Adds a hook; see {@link Hooks}. Throws FST_SSE_HOOK_INVALID for an unknown name. */
  addHook<Name extends keyof Hooks> (name: Name, hook: Hooks[Name]): this {
    this.hooks.add(name, hook)
    return this
  }

  /**
   * Sets the handler of the messages with an event name. With a `schema`, their data is validated as Fastify validates bodies,
   * and typed by the type provider. The return value of the handler is the response. Throws FST_SSE_HANDLER_INVALID if the
   * event name already has a handler, or if an argument is invalid.
   */
  handle (event: string, handler: MessageHandler<unknown>): this
  handle<const Schema> (event: string, options: HandlerOptions<Schema>, handler: MessageHandler<Validated<TypeProvider, Schema>>): this
  handle (event: string, ...rest: [MessageHandler<unknown>] | [HandlerOptions<unknown>, MessageHandler<never>]): this {
    const [options, handler] = rest.length > 1 ? rest : [{}, rest[0]]
    this.handlers.set(event, options as HandlerOptions<unknown>, handler as MessageHandler<unknown>)
    return this
  }

  /** Returns the same registry with handlers that are typed by another type provider. */
  withTypeProvider<Provider extends FastifyTypeProvider> (): Sessions<Provider> {
    return this as unknown as Sessions<Provider>
  }

  /** Returns the same registry, typed by a contract that the app shares with its clients. */
  withContract<C extends Contract> (): ContractSessions<C, TypeProvider> {
    return this as unknown as ContractSessions<C, TypeProvider>
  }

  /** @internal Creates a session and retains it: the caller must attach a stream to it or discard it. Resolves with `undefined` if there are too many sessions. */
  async open (principal: string | undefined): Promise<Session | undefined> {
    const state = await this.#store.open(this.#ids.next(), principal)
    if (state === undefined) return undefined
    const session = this.#getOrCreateSession(state)
    session[kInternals].retain()
    return session
  }

  /** @internal Closes and releases a session whose id no client has received. */
  async discard (session: Session, reason: string): Promise<void> {
    try {
      await this.#closeSession(session, reason, false)
    } catch (error) {
      logSafely(this.#logger, 'warn', { err: error, session: session.shortId }, 'a session could not be discarded; it will expire')
    }
    session[kInternals].release()
  }

  /** @internal Finds the session that a client resumes: an open one, or a closed one, whose client may not have received the `close` event yet. */
  async findForResume (id: string, principal: string | undefined): Promise<Session | undefined> {
    const state = await this.#store.find(id)
    return state !== undefined && state.principal === principal ? this.#getOrCreateSession(state) : undefined
  }

  /** @internal Acquires for this process the right to stream a session, starting after a cursor. Resolves with the newest position of the store, or with `undefined` if the session does not exist any more. */
  acquireStream (session: Session, cursor: number, requestedAt = now()): Awaitable<number | undefined> {
    return session[kInternals].acquireStream(cursor, requestedAt)
  }

  /** @internal Finds an open session for a POST or DELETE. If it is cached, returns it synchronously; it may have been closed since then, which the next call of the store detects. */
  findCached (id: string): Awaitable<Session | undefined> {
    return andThen(this.#store.findCached(id), state => this.#getOpenSession(state))
  }

  /** @internal Records until when the client of a session is authorized, in milliseconds since 1970; `undefined` changes nothing. */
  authorize (session: Session, until: number | undefined): Awaitable<void> {
    const { state } = session[kInternals]
    return until === undefined || until <= (state.authorizedUntil ?? 0) ? undefined : this.#store.authorize(state, until)
  }

  /** @internal Is called by the store when a session has expired. Resolves when the `onLeave` and `onClose` hooks have run. */
  onExpire (state: SessionState): Promise<void> {
    const session = this.#getOrCreateSession(state)
    session[kInternals].onEnd()
    return this.#runCloseHooks(session, String(state.closeReason))
  }

  /** @internal Is called by the store if a session has joined or left a channel although the call has rejected. Resolves when the hooks have run. */
  async onLateMembership (name: 'onJoin' | 'onLeave', state: SessionState, channel: string): Promise<void> {
    await this.#notifyMembership(name, this.#getOrCreateSession(state), channel)
  }

  /** @internal Returns the number of milliseconds that a client should wait before it reconnects. While the server is closing, `closeTimeout` is added, so that the client does not reach this server again. */
  createRetryDelay (): number {
    const { retry: [min, max], closeTimeout } = this.settings
    return (this.closing ? closeTimeout : 0) + min + Math.floor(Math.random() * (max - min + 1))
  }

  /**
   * @internal Tracks a reply. With `delaysClose`, `close` waits for its response, and sends an error at the end of `closeTimeout`. Call it when
   * the handler starts, and not before: the body of a request may never arrive. Returns false if Fastify has sent an error already, so that the
   * handler must do nothing.
   */
  trackReply (reply: FastifyReply & TrackedReply, delaysClose = true): boolean {
    if (hasTimedOut(reply.request)) return false
    if (delaysClose) reply[kSlot] = this.#replies.add(reply)
    reply[kSend] = reply.send
    reply.send = sendTracked
    return true
  }

  /** @internal Whether nothing has called `send` of a tracked reply. Check it before `send`, which throws while `onError` hooks run for an earlier error. */
  canSend (reply: FastifyReply & TrackedReply): boolean {
    return reply[kSend] !== undefined
  }

  /** @internal Records that a handler starts for the request of a tracked reply. If `close` responds to it, the message may have been handled. Throws FST_SSE_CLOSING if `close` has responded already. */
  markStarted (reply: FastifyReply & TrackedReply): void {
    if (this.closing && !this.canSend(reply)) throw new Closing()
    reply[kIsStarted] = true
  }

  /** @internal Stops tracking a reply for `close`. Call it when its response is being sent. */
  untrackReply (reply: FastifyReply & TrackedReply): void {
    const slot = reply[kSlot]
    if (slot === undefined) return
    reply[kSlot] = undefined
    this.#replies.remove(slot)
    this.#resolveIfIdle()
  }

  /** @internal Ends all streams, and waits for them, for handlers and for runs, at most for a time in milliseconds. Then closes the sessions that no other process can continue. */
  async close (timeout = this.settings.closeTimeout): Promise<void> {
    this.closing = true
    const reason = 'shutdown'
    // A stream that may not write now does not drain: its client receives the rest from another process.
    for (const stream of this.#streams) stream.end({ finalFrame: frameRetry(this.createRetryDelay()), reason, drain: stream.canWrite })
    // The streams are flushed now and not in a later tick, because `closeTimeout` may be 0.
    flushScheduler.flushAll()
    const startedAt = now()
    const runs = this.runs.close(timeout)
    const idle = new Promise<void>(resolve => { this.#onIdle = resolve })
    this.#resolveIfIdle()
    await settlesWithin(idle, timeout)
    for (const reply of this.#replies.values()) {
      // Hooks of the app may still delay an earlier response.
      if (this.canSend(reply)) reply.send((reply as TrackedReply)[kIsStarted] === true ? new CloseTimeout(this.settings.closeTimeout) : new Closing())
    }
    for (const stream of this.#streams) stream.abort()
    this.#heartbeat.stop()
    this.#authorizationCheck?.stop()
    await runs
    const isClosed = await settlesWithin(this.#closeStore(reason), Math.max(MIN_STORE_TIMEOUT, timeout - (now() - startedAt)))
    if (!isClosed) logSafely(this.#logger, 'warn', {}, `closeTimeout (${this.settings.closeTimeout} ms) has passed before the store was closed and the onClose hooks had finished; increase it if they need more time`)
  }

  #onUnhandled (error: unknown, call: string, details: UnhandledDetails): void {
    // A session may be closed at any time, so this error is not a fault of the app.
    if (error instanceof SessionOver) return
    logSafely(this.#logger, 'warn', { err: error, ...details }, `${call} has failed, and nothing handles its rejected promise`)
  }

  /** Closes the store, and the sessions that no other process can continue. */
  async #closeStore (reason: string): Promise<void> {
    try {
      const closed = await this.#store.close(reason)
      await Promise.all(closed.map(state => {
        const session = this.#getOrCreateSession(state)
        session[kInternals].onEnd()
        return this.#runCloseHooks(session, reason)
      }))
      await Promise.all(this.#pendingCloses)
    } catch (error) {
      logSafely(this.#logger, 'error', { err: error }, 'the store could not be closed')
    }
  }

  #resolveIfIdle (): void {
    if (this.#streams.size === 0 && this.#replies.size === 0) this.#onIdle?.()
  }

  #onStreamClose (stream: StreamWriter): void {
    this.#streams.delete(stream)
    this.#resolveIfIdle()
  }

  /** Closes a session whose client is not authorized any more. Does not wait for the hooks, which may take any time. */
  #closeUnauthorized (session: Session): Awaitable<void> {
    const reason = 'unauthorized'
    // The client may have sent newer credentials meanwhile, also to another process.
    return andThen(this.#endSession(session, reason, true, Date.now()), wasOpen => { if (wasOpen) this.#runCloseHooks(session, reason) })
  }

  /** Closes a session, and waits for the hooks. If `isKept` is true, the store keeps it for `resumeTimeout`, so that its client can still receive the last events and `close`. */
  #closeSession (session: Session, reason: string, isKept = true): Awaitable<void> {
    const closed = andThen(this.#endSession(session, reason, isKept), wasOpen => wasOpen ? this.#runCloseHooks(session, reason) : undefined)
    if (isPromise(closed)) this.#trackClose(closed)
    return closed
  }

  #trackClose (close: Promise<void>): void {
    const tracked: Promise<void> = close.catch(noop).then(() => { this.#pendingCloses.delete(tracked) })
    this.#pendingCloses.add(tracked)
  }

  /** Closes a session, but does not run its hooks. Resolves with true if this call has closed it. With `ifUnauthorizedAt`, closes it only if its client is not authorized at that time; see {@link Store.end}. */
  #endSession (session: Session, reason: string, isKept: boolean, ifUnauthorizedAt?: number): Awaitable<boolean> {
    return andThen(this.#store.end(session[kInternals].state, reason, isKept, ifUnauthorizedAt), wasOpen => {
      if (wasOpen) session[kInternals].onEnd()
      return wasOpen
    })
  }

  /** Runs the hooks of a session that is closed. */
  #runCloseHooks (session: Session, reason: string): Promise<void> {
    const runHooks = async (): Promise<void> => {
      if (this.hooks.has('onLeave')) await Promise.all(session.channels.map(channel => this.#notifyMembership('onLeave', session, channel)))
      await this.hooks.notify('onClose', session, reason)
    }
    const done = runHooks()
    this.#trackClose(done)
    return done
  }

  #notifyMembership (name: 'onJoin' | 'onLeave', session: Session, channel: string): Awaitable<void> {
    return this.hooks.has(name) ? this.hooks.notify(name, session, this.channel(channel)) : undefined
  }

  /** Returns the `Session` of a state; `undefined` if there is no state or if the session is closed. */
  #getOpenSession (state: SessionState | undefined): Session | undefined {
    return state === undefined || state.closeReason !== undefined ? undefined : this.#getOrCreateSession(state)
  }

  /** Returns the `Session` of a state. Creates it if this process has not used it yet. */
  #getOrCreateSession (state: SessionState): Session {
    return state.listener instanceof SessionInternals ? state.listener.session as Session : new Session(state, this.#context)
  }
}

/** The registry, typed by a contract. It can be used as `Sessions`. The data that clients send is checked at run time only if the handler has a `schema`. */
export interface ContractSessions<C extends Contract, TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault> extends Sessions<TypeProvider> {
  addHook<Name extends keyof Hooks> (name: Name, hook: Hooks<ContractSession<C>, ContractChannel<C>>[Name]): this
  handle<Event extends UpEvent<C>> (event: Event, handler: ContractHandler<C, Event>): this
  handle<Event extends UpEvent<C>, const Schema> (event: Event, options: HandlerOptions<Schema>, handler: ContractHandler<C, Event, Validated<TypeProvider, Schema>>): this
  broadcast<Event extends EmptyDownEvent<C>> (event: Event): Promise<void>
  broadcast<Event extends DownEvent<C>> (event: Event, data: DownData<C, Event>, options?: SendOptions): Promise<void>
  channel (name: string, options?: ChannelOptions): ContractChannel<C>
  find (id: string): Promise<ContractSession<C> | undefined>
  of (principal: string): ContractPrincipalSessions<C>
  withTypeProvider<Provider extends FastifyTypeProvider> (): ContractSessions<C, Provider>
}

/** Creates the store and the registry. `onClose` hooks for expired sessions run after `ready`, because until then the app may still add hooks. */
export function createSessions (settings: Settings, logger: FastifyBaseLogger, ready?: Promise<void>, frames: StreamFrames = SESSION_FRAMES): Promise<Sessions> {
  const streams = new Set<StreamWriter>()
  const sessions: Promise<Sessions> = Promise.resolve().then(() => settings.store(settings, {
    onBroadcast: () => { for (const stream of streams) stream.onAppend() },
    onExpire: state => Promise.all([sessions, ready]).then(([sessions]) => sessions.onExpire(state), noop),
    onJoin: (state, channel) => sessions.then(sessions => sessions.onLateMembership('onJoin', state, channel)),
    onLeave: (state, channel) => sessions.then(sessions => sessions.onLateMembership('onLeave', state, channel))
  })).then(store => new Sessions(settings, logger, store, streams, frames))
  return sessions
}

/** The type that a type provider derives from a schema. */
type Validated<TypeProvider extends FastifyTypeProvider, Schema> = (TypeProvider & { schema: Schema })['validator']
