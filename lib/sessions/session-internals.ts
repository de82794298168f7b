import { setMaxListeners } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { ActiveItems } from '../active-items.js'
import type { Awaitable } from '../awaitable.js'
import { SessionOver } from '../errors.js'
import type { EntryInput } from '../log/log.js'
import type { DeliverySession } from '../runs/deliveries.js'
import type { RequestOptions } from '../runs/requests.js'
import { logSafely } from '../safe-log.js'
import type { MessageQueue } from '../store/message-queue.js'
import type { SessionListener, SessionState } from '../store/session-state.js'
import type { Store } from '../store/store.js'
import type { Sink } from '../stream/response-sink.js'
import { endWithoutStream, type StreamEncoder } from '../stream/shared-compression.js'
import { StreamWriter, type StreamOwner } from '../stream/stream-writer.js'
import { frameClose, frameGap, frameWelcome, REPLACED_FRAME, type Gap } from '../wire/frame.js'

/** The frames of the events that a stream adds to those of the app, except `gap`, which has the same format in every stream. */
export interface StreamFrames {
  /** Returns the first frame of a stream. `retry` is the number of milliseconds that the client should wait before it reconnects; `data` is {@link StreamAttachment.welcome}. */
  welcome (sessionId: string, cursor: number, retry: number, data: string): string
  /** Returns the last frame of a stream whose session is closed. */
  close (reason: string): string
  /** The last frame of a stream that was replaced by another one. */
  readonly replaced: string
}

/** The frames of the plugin's own sessions. `lib/mcp` has others. */
export const SESSION_FRAMES: StreamFrames = { welcome: frameWelcome, close: frameClose, replaced: REPLACED_FRAME }

/** What a session needs from the registry. `Session` is a type parameter, because this module must not import the class that apps use. */
export interface SessionContext<Session> {
  readonly store: Store
  readonly logger: FastifyBaseLogger
  readonly frames: StreamFrames
  /** What each stream gets after the `welcome` event. */
  readonly padding: string
  /** Sessions whose `signal` is in use. The set keeps them in memory until they are closed, so that the signal can abort. */
  readonly pinned: Set<object>
  /** Milliseconds that a client should wait before it reconnects. */
  createRetryDelay (): number
  close (session: Session, reason: string): Awaitable<void>
  /** Sends an event to a session, and resolves with the answer of its client. */
  request (target: DeliverySession, description: string, frame: (id: string) => string, options: RequestOptions): Promise<unknown>
  onStreamOpen (stream: StreamWriter): void
  onStreamClose (stream: StreamWriter): void
  /** A session has joined a channel. Resolves when the hooks have run; never rejects. */
  onJoin (session: Session, channel: string): Awaitable<void>
  /** A session has left a channel. Resolves when the hooks have run; never rejects. */
  onLeave (session: Session, channel: string): Awaitable<void>
  onDisconnect (session: Session): void
  onGap (session: Session, gap: Gap): void
  /** The stream of a session has ended, because the store has lost the session. */
  onLost (session: Session): void
  /** A call of the app has failed, and nothing waits for its promise. */
  onUnhandled (error: unknown, call: string, details: UnhandledDetails): void
}

/** What the log line of a call that failed contains. */
export interface UnhandledDetails {
  readonly session?: string
  readonly event?: string
  readonly channel?: string
  readonly run?: string
  /** The name of a run. */
  readonly name?: string
}

/** A response that is ready to become the stream of a session. */
export interface StreamAttachment {
  readonly sink: Sink
  /** The last position that the client has received. */
  readonly cursor: number
  /** The newest position of the store, the result of its `attach`. */
  readonly newestPosition: number
  /** The argument `data` of {@link StreamFrames.welcome}: for {@link SESSION_FRAMES}, the data of the event as JSON. */
  readonly welcome: string
  /** Whether the request resumes the session. */
  readonly resumed: boolean
  /** The time at which the request has arrived, in milliseconds of `performance.now()`. */
  readonly requestedAt: number
  /** Compresses the stream. Default: none. */
  readonly encoder?: StreamEncoder | undefined
  readonly logger: FastifyBaseLogger
}

/**
 * The part of a session that apps do not see. It decides which response is the stream of the session, when the stream is
 * replaced or released, and what happens when the session is closed. A session has at most one stream, that of the newest
 * request.
 */
export class SessionInternals<Session> implements SessionListener, StreamOwner, DeliverySession {
  // These fields are private, because a logger that prints a SessionState also prints its listener.
  readonly #state: SessionState
  readonly #context: SessionContext<Session>
  readonly #session: Session
  #stream: StreamWriter | undefined
  /** Number of requests for a stream that are in progress, plus 1 while there is a stream. The session does not expire while this is above 0. */
  #refCount = 0
  /** `requestedAt` of the request that was attached last. */
  #attachedRequestedAt = 0
  #messageQueue: MessageQueue | undefined
  #abortController: AbortController | undefined
  /** Whether the store has lost the session. Its `closeReason` does not show that, because an app may close a session with the reason `lost`. */
  #isLost = false
  /** Whether the stream of another process is known to belong to a newer request than those of this process. */
  #isReplacedByNewer = false
  #drainWaiters: Set<() => void> | undefined
  #closeListeners: ActiveItems<() => void> | undefined

  constructor (session: Session, state: SessionState, context: SessionContext<Session>) {
    this.#session = session
    this.#state = state
    this.#context = context
    state.listener = this
  }

  get state (): SessionState {
    return this.#state
  }

  get context (): SessionContext<Session> {
    return this.#context
  }

  get session (): Session {
    return this.#session
  }

  get hasStream (): boolean {
    return this.#stream !== undefined
  }

  get isSessionClosed (): boolean {
    return this.state.closeReason !== undefined
  }

  /** The position up to which a stream has written. */
  get cursor (): number {
    return this.#stream?.cursor ?? this.state.cursor
  }

  get canWrite (): boolean {
    return this.state.canWrite
  }

  get messageQueue (): MessageQueue {
    this.#messageQueue ??= this.context.store.messageQueue(this.state)
    return this.#messageQueue
  }

  /** Aborts when the session is closed. */
  get signal (): AbortSignal {
    if (this.#abortController === undefined) {
      this.#abortController = new AbortController()
      // A session may have any number of producers.
      setMaxListeners(0, this.#abortController.signal)
      this.context.pinned.add(this)
    }
    if (this.isSessionClosed) this.#abortSignal()
    return this.#abortController.signal
  }

  /** Functions that are called when the session is closed: one for each message that waits. Listeners of `signal` would cost more. */
  get closeListeners (): ActiveItems<() => void> {
    this.#closeListeners ??= new ActiveItems()
    return this.#closeListeners
  }

  get sessionId (): string {
    return this.state.id
  }

  append (frame: string): Awaitable<void> {
    return this.send({ frame })
  }

  send (entry: EntryInput): Awaitable<void> {
    return this.context.store.send(this.state, entry)
  }

  /** Resolves when the unsent entries fill less than half of the session's log, or when the session is closed. */
  waitForDrain (): Awaitable<void> {
    const { log } = this.state
    if (this.isSessionClosed) return
    if (log === undefined) return this.context.store.waitForDrain(this.state)
    if (!log.isHalfFullAfter(this.cursor)) return
    return new Promise<void>(resolve => {
      this.#drainWaiters ??= new Set()
      this.#drainWaiters.add(resolve)
    }).then(() => this.waitForDrain())
  }

  /** Prevents the store from closing the session to make room for another one: the memory store evicts only sessions whose message queue was never requested, and the Redis store evicts none. */
  preventEviction (): void {
    this.context.store.messageQueue(this.state)
  }

  /** Prevents a new session from expiring before `release`. */
  retain (): void {
    this.#refCount++
  }

  /** Prevents the session from expiring before `release`, for a request that resumes it. */
  retainForResume (): void {
    if (this.#refCount++ === 0) this.context.store.cancelExpiry(this.state)
  }

  /** Undoes one `retain` or `retainForResume`. */
  release (): void {
    if (--this.#refCount > 0) return
    // A listener of a connection usually calls this method. There, an error of a store of the app would terminate the process.
    try {
      this.context.store.detach(this.state)
    } catch (error) {
      logSafely(this.context.logger, 'error', { err: error, session: this.state.shortId }, 'the store could not detach a session')
    }
    // The store may have removed the log from this process. Then `waitForDrain` has to wait for the store.
    this.onProgress()
  }

  /** Releases the session for a request whose client disconnected after the `onResume` hooks had run and before the stream began. */
  releaseAborted (): void {
    this.release()
    this.#notifyDisconnect()
  }

  /** Acquires for this process the right to stream the session, as `attach` of the store. */
  acquireStream (cursor: number, requestedAt: number): Awaitable<number | undefined> {
    // The flag was set when an earlier stream of this process was replaced.
    this.#isReplacedByNewer = false
    return this.context.store.attach(this.state, cursor, requestedAt)
  }

  /** Makes a response the stream of the session, which replaces the current one. Ends the response and returns false if the current stream belongs to a newer request. */
  setStream ({ sink, cursor, newestPosition, welcome, resumed, requestedAt, encoder, logger }: StreamAttachment): boolean {
    if (this.#stream !== undefined && requestedAt < this.#attachedRequestedAt) {
      endWithoutStream(sink, encoder, this.context.frames.replaced)
      return false
    }
    this.#attachedRequestedAt = requestedAt
    this.#endStream(this.context.frames.replaced, 'replaced')
    const { id: sessionId, ranges } = this.state
    // The client has received positions that the store has lost and will assign again.
    const rollback: Gap | undefined = cursor > newestPosition ? { after: cursor, resumedAt: newestPosition, reason: 'store' } : undefined
    const stream = new StreamWriter({ readerId: sessionId, ranges, cursor: Math.min(cursor, newestPosition), sink, owner: this, encoder, logger })
    this.#stream = stream
    this.context.onStreamOpen(stream)
    logSafely(logger, 'info', { session: this.state.shortId, resumed }, 'event stream opened')
    let preamble = this.context.frames.welcome(sessionId, cursor, this.context.createRetryDelay(), welcome) + this.context.padding
    if (rollback !== undefined) preamble += frameGap(sessionId, newestPosition, rollback)
    stream.start(preamble)
    // `onGap` is called after `start`, because a hook may send so many events that the stream is flushed at once, and the welcome event must come first.
    if (rollback !== undefined) this.onGap(rollback)
    this.#endIfStale(stream)
    return true
  }

  /** Ends a stream that was replaced, or whose session was closed, while the `onSend` hooks ran, after the store's `attach`. */
  #endIfStale (stream: StreamWriter): void {
    const { closeReason, hasEnded, attachedRemotely, ranges } = this.state
    if (this.#isLost) this.#endStream('', 'lost')
    // If the session is closed, but its ranges are not complete yet, the store calls `onEnd` later.
    else if (closeReason !== undefined && hasEnded) stream.end({ finalFrame: this.context.frames.close(closeReason), reason: closeReason, drain: true })
    else if (attachedRemotely) this.onReplaced(this.#isReplacedByNewer)
    // Another process has attached a stream and detached it again. The client should reconnect.
    else if (ranges.length === 0) this.onReplaced(false)
  }

  /** Ends the stream, but not the session: the client reconnects. */
  disconnect (): void {
    if (this.#endStream('', 'disconnected')) this.#notifyDisconnect()
  }

  onAppend (): void {
    this.#stream?.onAppend()
  }

  onProgress (): void {
    if (this.#drainWaiters === undefined) return
    const waiters = this.#drainWaiters
    this.#drainWaiters = undefined
    for (const resolve of waiters) resolve()
  }

  onGap (gap: Gap): void {
    this.context.onGap(this.#session, gap)
  }

  onReplaced (isNewer: boolean): void {
    this.#isReplacedByNewer = isNewer
    this.#endStream(isNewer ? this.context.frames.replaced : '', 'replaced')
    // The store removes the log from this process, also if other requests for a stream are in progress, so the waiters must check again.
    this.onProgress()
  }

  onEnd (): void {
    const { closeReason = 'closed' } = this.state
    this.#stream?.end({ finalFrame: this.context.frames.close(closeReason), reason: closeReason, drain: true })
    this.#abortSignal()
    for (const onClose of this.#closeListeners?.values() ?? []) onClose()
    this.onProgress()
    this.#messageQueue = undefined
  }

  onLost (): void {
    // The stream ends without a `close` event, so that the client reconnects.
    const hadStream = this.#endStream('', 'lost')
    this.#isLost = true
    this.onEnd()
    if (hadStream) this.context.onLost(this.#session)
  }

  onAbort (): void {
    this.#stream?.abort()
  }

  onStreamClose (stream: StreamWriter): void {
    const duration = Math.round(performance.now() - stream.openedAt)
    logSafely(stream.logger, 'info', { session: this.state.shortId, reason: stream.reason, duration }, 'event stream ended')
    this.context.onStreamClose(stream)
    if (stream !== this.#stream) return
    this.#detach(stream)
    this.#notifyDisconnect()
  }

  #abortSignal (): void {
    this.#abortController?.abort(new SessionOver())
    this.context.pinned.delete(this)
  }

  /** Ends the stream now and detaches it, even if its connection takes longer to close. Returns whether there was one. */
  #endStream (finalFrame: string, reason: string): boolean {
    const stream = this.#stream
    if (stream === undefined) return false
    stream.end({ finalFrame, reason, drain: false })
    this.#detach(stream)
    return true
  }

  #detach (stream: StreamWriter): void {
    this.state.cursor = stream.cursor
    this.#stream = undefined
    this.release()
  }

  #notifyDisconnect (): void {
    if (!this.hasStream && !this.state.attachedRemotely && !this.isSessionClosed) this.context.onDisconnect(this.#session)
  }
}
