import type { Log, LogListener } from '../log/log.js'
import type { LogRange } from '../log/log-range.js'

/** What an app stores with a session. Extend this interface by declaration merging to type it. */
export interface SessionData {
  [key: string]: unknown
}

/** The part of a session in this process. The store calls it for changes that this process did not make itself. */
export interface SessionListener extends LogListener {
  /** The position up to which its stream has written. */
  readonly cursor: number
  /** A log that it reads has grown, or it has more to read. */
  onAppend (): void
  /** Another process has attached a stream to the session. */
  onReplaced (): void
  /** The session has ended; `closeReason` says why. */
  onEnd (): void
  /** The session has ended because the store has lost it; its `closeReason` is {@link LOST}. Its client should connect again for a new session. */
  onLost (): void
  /** The session was removed from the store. No client can resume it, so a stream that is still draining ends. */
  onRemove (): void
}

/** The close reason of a session that the store has lost. */
export const LOST = 'lost'

const EMPTY_DATA = Object.freeze({})

/** A session as its store keeps it. Only the store changes it, except for `cursor` and `listener`. */
export class SessionState implements LogListener {
  /** The result of option `principal` for the request that opened the session. */
  readonly principal: string | undefined
  /** The newest position of the store when the session was opened. The session receives only entries after it. */
  readonly startPosition: number
  listener: SessionListener | undefined
  data: Readonly<SessionData> = EMPTY_DATA
  /** Why the session ended; `undefined` while it is open. */
  closeReason: string | undefined
  /** The position up to which the last stream has written. The listener sets it when the stream ends. */
  cursor: number
  /** Whether another process has a stream of the session. */
  attachedRemotely = false
  /** The session's own log, if it is in this process. */
  log: Log | undefined
  /** What a stream of the session reads; complete while a stream is attached in this process. */
  readonly ranges: LogRange[]
  /** Names of the channels that the session has joined. */
  channels: Set<string> | undefined
  readonly #id: string

  constructor (id: string, principal: string | undefined, startPosition: number, ranges: LogRange[] = []) {
    this.#id = id
    this.ranges = ranges
    this.principal = principal
    this.startPosition = startPosition
    this.cursor = startPosition
  }

  // A getter, because a logger would print a property.
  get id (): string {
    return this.#id
  }

  /** The first characters of the id, for logs. */
  get shortId (): string {
    return this.#id.slice(0, 6)
  }

  /** Whether a stream of the session may write. A shared store may have given the session to another process without being able to notify this one. */
  get canWrite (): boolean {
    return true
  }

  onAppend (): void {
    this.listener?.onAppend()
  }
}
