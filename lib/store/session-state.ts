import type { Log, LogListener } from '../log/log.js'
import type { LogRange } from '../log/log-range.js'

/** Data that an app stores with a session. To type it, extend this interface by declaration merging. */
export interface SessionData {
  [key: string]: unknown
}

/** What a store calls when another process, or the store itself, has changed a session that this process uses. */
export interface SessionListener extends LogListener {
  /** The position up to which the stream of the session has written. */
  readonly cursor: number
  /** There is more to write: a log has grown, the session reads an additional log, or its stream may write again. */
  onAppend (): void
  /** Another process has attached a stream to the session. If it is not known whether that belongs to a newer request, the client has to reconnect. */
  onReplaced (isNewer: boolean): void
  /** The session is closed. `SessionState.closeReason` contains the reason. */
  onEnd (): void
  /** The session is closed because the store has lost it; its `closeReason` is `lost`. Its client should reconnect to get a new session. */
  onLost (): void
  /** The stream must be aborted: the session was removed from the store, or this process cannot complete the stream. */
  onAbort (): void
}

const EMPTY_DATA = Object.freeze({})

/** The state of a session in this process. The store changes it. The session sets `listener`, and `cursor` when a stream ends. */
export class SessionState implements LogListener {
  /** The result of option `principal` for the request that opened the session. */
  readonly principal: string | undefined
  /** The newest position of the store when the session was opened. The session receives only entries after it. */
  readonly startPosition: number
  /** The store notifies it. */
  listener: SessionListener | undefined
  /** Data of the app. Every change replaces the object. */
  data: Readonly<SessionData> = EMPTY_DATA
  /** Why the session was closed; `undefined` while it is open. */
  closeReason: string | undefined
  /** The position up to which the last stream has written. */
  cursor: number
  /** The time until which the client may use the session, in milliseconds since 1970; `undefined` if there is no limit. */
  authorizedUntil: number | undefined
  /** Whether another process has a stream of the session. */
  attachedRemotely = false
  /** The session's own log, if it is in this process. */
  log: Log | undefined
  /** The parts of logs that a stream of the session reads. Complete from `Store.attach` on, while this process has the right to stream the session. */
  readonly ranges: LogRange[]
  /** Names of the channels that the session is in. When it is closed, they stay: `onLeave` hooks run for them. */
  channels: Set<string> | undefined
  readonly #id: string

  constructor (id: string, principal: string | undefined, startPosition: number, ranges: LogRange[] = []) {
    this.#id = id
    this.ranges = ranges
    this.principal = principal
    this.startPosition = startPosition
    this.cursor = startPosition
  }

  // A getter, because loggers print properties, and the id is a secret.
  get id (): string {
    return this.#id
  }

  /** The first characters of the id, for logs. */
  get shortId (): string {
    return this.#id.slice(0, 6)
  }

  /** Whether a stream of the session may write now. A shared store overrides this: while it is unavailable, another process may have got the right to stream the session, and this process is not notified. */
  get canWrite (): boolean {
    return true
  }

  /** Whether the session is closed, and `ranges` contain everything that was sent before. A shared store overrides this: entries can arrive after the close. */
  get hasEnded (): boolean {
    return this.closeReason !== undefined
  }

  onAppend (): void {
    this.listener?.onAppend()
  }
}
