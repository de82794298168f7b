import { assertOptions } from '../assert-options.js'
import { andThen, noop, toPromise } from '../awaitable.js'
import type { Received } from '../contract.js'
import { OptionInvalid, quote } from '../errors.js'
import type { Run } from '../runs/run.js'
import type { FollowOptions } from '../runs/run-parts.js'
import type { RequestOptions } from '../runs/requests.js'
import { logSafely } from '../safe-log.js'
import type { RunOutcome } from '../store/run-state.js'
import type { SessionData, SessionState } from '../store/session-state.js'
import { pump } from '../stream/pump.js'
import { assertUserEvent, frameAcknowledgedEvent, frameEvent, frameRequest, parseFrame } from '../wire/frame.js'
import { assertChannel, resolveHistory, type JoinOptions } from './channel-options.js'
import { createEntry, type LatestOptions } from './event-options.js'
import { SessionInternals, type SessionContext } from './session-internals.js'

/** Options of `session.emit`. */
export interface EmitOptions extends RequestOptions, LatestOptions {
  /** Whether to wait until the client has received the event; the package's client then sends an acknowledgement. `timeout` and `signal` apply only then. Default: `false`, the call resolves when the event is in the log. */
  readonly acknowledged?: boolean
}

/** @internal Key of the {@link SessionInternals} of a session, which only the routes and the registry use. */
export const kInternals = Symbol('session internals')

/**
 * A two-way session between one client and the app: events to the client, messages to the app. It is independent of
 * connections, and stays open until it is closed or expires because it has no stream. If several processes share a store,
 * each may have a `Session` object for the same session.
 */
export class Session {
  readonly #internals: SessionInternals<Session>

  /** @internal */
  constructor (state: SessionState, context: SessionContext<Session>) {
    this.#internals = new SessionInternals(this, state, context)
  }

  /** @internal */
  get [kInternals] (): SessionInternals<Session> {
    return this.#internals
  }

  /** The result of option `principal` for the request that opened the session. */
  get principal (): string | undefined {
    return this.#internals.state.principal
  }

  /** The session id. It is a secret, because whoever has it can use the session, unless option `principal` prevents that. Log {@link shortId} instead. */
  get id (): string {
    return this.#internals.state.id
  }

  /** The first 6 characters of the id, for logs. They are not enough to use the session. */
  get shortId (): string {
    return this.#internals.state.shortId
  }

  /** Whether the session has a stream now, in any process. While it has none, events stay in the log. */
  get connected (): boolean {
    return this.#internals.hasStream || this.#internals.state.attachedRemotely
  }

  /** Whether the session is closed. */
  get closed (): boolean {
    return this.#internals.isSessionClosed
  }

  /** Data that the app stores with the session, set with {@link update}. */
  get data (): Readonly<SessionData> {
    return this.#internals.state.data
  }

  /** Names of the channels that the session is in; if it is closed, of those that it was in then. */
  get channels (): string[] {
    return [...this.#internals.state.channels ?? []]
  }

  /** Aborts when the session is closed, not when its stream is lost. */
  get signal (): AbortSignal {
    return this.#internals.signal
  }

  /** Sends the default event, `message`. Resolves and rejects as {@link emit}. */
  send (data: unknown, options?: LatestOptions): Promise<void> {
    return this.#emit('message', data, options, 'session.send')
  }

  /**
   * Sends a named event. Resolves when the event is in the session's log, even if no client is connected. The client then
   * receives the event once and in order, or a `gap` event. Rejects with FST_SSE_SESSION_OVER, FST_SSE_EVENT_INVALID,
   * FST_SSE_DATA_INVALID, FST_SSE_OPTION_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE. You do not have to handle the rejection.
   *
   * With `acknowledged`, resolves when the package's client has received the event. Then it also rejects as {@link request}.
   */
  emit (event: string, data: unknown, options?: EmitOptions): Promise<void> {
    if (options === undefined) return this.#emit(event, data, undefined, 'session.emit')
    return toPromise(() => {
      assertOptions(options, ['acknowledged', 'latest', 'timeout', 'signal'], 'emit', OptionInvalid)
      const { acknowledged = false, latest = false } = options
      if (typeof acknowledged !== 'boolean') throw new OptionInvalid(`Option "acknowledged" must be true or false; it is ${quote(acknowledged)}`)
      if (!acknowledged) return this.#internals.send(createEntry(event, data, { latest }, 'emit'))
      if (latest !== false) throw new OptionInvalid('Option "latest" must be removed from an event with "acknowledged": a later event may replace it before the client receives it')
      return this.#internals.context.request(this.#internals, `the event ${quote(event)}`, id => frameAcknowledgedEvent(id, event, data), options).then(noop)
    }, this.#createReporter('session.emit', event))
  }

  /**
   * Sends a request to the client, and resolves with what its handler returns. The client handles the request once, also if its
   * stream is lost meanwhile. Rejects with FST_SSE_REQUEST_TIMEOUT if it has not answered in time, FST_SSE_REQUEST_UNHANDLED if it has no handler for the
   * event, FST_SSE_REQUEST_FAILED if its handler has failed, FST_SSE_TOO_MANY_DELIVERIES, FST_SSE_OPTION_INVALID, FST_SSE_CLOSING, the reason
   * of `signal`, or as {@link emit}.
   */
  request (event: string, data?: unknown, options: RequestOptions = {}): Promise<unknown> {
    return toPromise(() => {
      assertOptions(options, ['timeout', 'signal'], 'a request', OptionInvalid)
      return this.#internals.context.request(this.#internals, `the request ${quote(event)}`, id => frameRequest(id, event, data), options)
    }, this.#createReporter('session.request', event))
  }

  /**
   * Sends each item of an iterable as a named event, at the speed of the client: the next item is requested when the
   * unsent entries fill less than half of the session's log. Resolves when the iterable ends. Rejects with an error of the
   * iterable, or as {@link emit}. If the session is closed, the iterator's `return` is called, and the promise rejects with
   * FST_SSE_SESSION_OVER.
   */
  stream (event: string, items: AsyncIterable<unknown> | Iterable<unknown>): Promise<void> {
    return toPromise(() => {
      assertUserEvent(event)
      return pump(items, this.signal, {
        write: item => this.#internals.append(frameEvent(event, item)),
        waitForDrain: () => this.#internals.waitForDrain(),
        onLateError: error => { logSafely(this.#internals.context.logger, 'warn', { err: error, session: this.shortId, event }, 'an iterable failed after session.stream had ended') }
      })
    }, this.#createReporter('session.stream', event))
  }

  /**
   * Sends the events of a run as `part` events, at the speed of the client, from the beginning or from a position. Resolves with the
   * outcome of the run when all parts were added to the session's log. If this process closes before that, the outcome has the status `lost` and
   * the reason `shutdown`. The last `part` event contains the same outcome. If this process fails, another one sends it with the status
   * `lost`. Rejects with FST_SSE_SESSION_OVER if the session is closed, and with FST_SSE_RUN_INVALID,
   * FST_SSE_RUN_UNKNOWN, FST_SSE_TOO_MANY_DELIVERIES, FST_SSE_ENTRY_TOO_LARGE, FST_SSE_CLOSING or FST_SSE_STORE_UNAVAILABLE.
   */
  follow (run: Run, options: FollowOptions = {}): Promise<RunOutcome> {
    return toPromise(() => run.follow(this.#internals, options), this.#createReporter('session.follow'))
  }

  /** Joins a channel: the session receives what is sent to the channel from now on. Resolves when the `onJoin` hooks have run. Does nothing if the session is a member. Rejects with FST_SSE_CHANNEL_INVALID, FST_SSE_SESSION_OVER, FST_SSE_TOO_MANY_CHANNELS or FST_SSE_STORE_UNAVAILABLE. */
  join (channel: string): Promise<void>
  /**
   * Joins a channel, and resolves with the newest events that were sent to it before and are still in its log, the oldest first.
   * The client receives every later event, and none of these. If the session is already a member, these are the events from before
   * it joined. Rejects also with FST_SSE_OPTION_INVALID.
   */
  join (channel: string, options: JoinOptions): Promise<Received[]>
  join (channel: string, options?: JoinOptions): Promise<unknown> {
    return toPromise(() => {
      assertChannel(channel)
      const history = options === undefined ? 0 : resolveHistory(options)
      const { store, onJoin } = this.#internals.context
      return andThen(store.join(this.#internals.state, channel, history), ({ isNew, frames }) =>
        andThen(isNew ? onJoin(this, channel) : undefined, () => options === undefined ? undefined : frames.map(parseFrame)))
    }, this.#createReporter('session.join'))
  }

  /**
   * Leaves a channel. The session still receives what was sent to the channel before. If its client is slow or not connected, this
   * applies to the 100 channels that the session left last, and in the memory store to 1 MiB of their events. Resolves when the `onLeave` hooks have run. Rejects with FST_SSE_CHANNEL_INVALID or FST_SSE_STORE_UNAVAILABLE.
   */
  leave (channel: string): Promise<void> {
    return toPromise(() => {
      assertChannel(channel)
      const { store, onLeave } = this.#internals.context
      return andThen(store.leave(this.#internals.state, channel), wasMember => wasMember ? onLeave(this, channel) : undefined)
    }, this.#createReporter('session.leave'))
  }

  /** Sets properties of {@link data}; the others stay. Rejects with FST_SSE_SESSION_OVER or FST_SSE_STORE_UNAVAILABLE, and with FST_SSE_DATA_INVALID if a shared store cannot serialize them. */
  update (change: SessionData): Promise<void> {
    return toPromise(() => this.#internals.context.store.update(this.#internals.state, change), this.#createReporter('session.update'))
  }

  /**
   * Closes the session. A connected client receives what is in the log and then the `close` event with the reason. A client
   * that resumes the session within `resumeTimeout` receives the same. Resolves when the `onClose` hooks have run. Does
   * nothing if the session is already closed. Rejects with FST_SSE_STORE_UNAVAILABLE.
   */
  close (reason = 'closed'): Promise<void> {
    return toPromise(() => this.#internals.context.close(this, reason), this.#createReporter('session.close'))
  }

  #emit (event: string, data: unknown, options: LatestOptions | undefined, call: string): Promise<void> {
    return toPromise(() => this.#internals.send(createEntry(event, data, options, call)), this.#createReporter(call, event))
  }

  /** Creates a function that logs the error of a call if nothing waits for its promise. */
  #createReporter (call: string, event?: string): (error: unknown) => void {
    return error => { this.#internals.context.onUnhandled(error, call, { session: this.shortId, ...event !== undefined && { event } }) }
  }
}
