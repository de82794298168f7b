import type { Log, LogListener, Source } from './log.js'

/** What an app keeps with a session. Extend it by declaration merging to have it typed. */
export interface SessionData {
  [key: string]: unknown
}

/** Told what becomes of a session by others than this process's own calls. */
export interface SessionListener extends LogListener {
  /** Up to where its stream has written. */
  readonly cursor: number
  /** What its stream reads has grown, or there is more to read. */
  wake (): void
  /** A stream of another process is its stream now. */
  replaced (): void
  /** It has ended; `endedBy` says why. */
  ended (): void
  /** It has ended because the store has lost it, reason `lost`. Its client is to come back for another. */
  lost (): void
  /** It is forgotten: nobody can come back to it, and a stream that still drains is of no use. */
  forgotten (): void
}

const NO_DATA = Object.freeze({})

/** A session as its store keeps it. The store alone changes it, but for `cursor` and `listener`. */
export class SessionState implements LogListener {
  /** Whose it is, as option `principal` said. */
  readonly principal: string | undefined
  /** The newest position of the store when it was opened: what came before is not for it. */
  readonly openedAt: number
  /** Of this process's part in it; set by who wants to be told. */
  listener: SessionListener | undefined
  data: Readonly<SessionData> = NO_DATA
  /** Why it is over; `undefined` while it lives. */
  endedBy: string | undefined
  /** Up to where its last stream had written; set by who had that, when it is over. */
  cursor: number
  /** Whether another process has a stream of it. */
  elsewhere = false
  /** Its own log, where it is at hand. */
  log: Log | undefined
  /** What a stream of it reads, while one is attached here. */
  readonly sources: Source[]
  /** The channels it is in. */
  channels: Set<string> | undefined
  readonly #id: string

  constructor (id: string, principal: string | undefined, openedAt: number, sources: Source[] = []) {
    this.#id = id
    this.sources = sources
    this.principal = principal
    this.openedAt = openedAt
    this.cursor = openedAt
  }

  // Not a property: a logger that is given the session would print it.
  get id (): string {
    return this.#id
  }

  /** Whether a stream of it may write: a store that others share may have given it to one of them without a word. */
  get mayWrite (): boolean {
    return true
  }

  wake (): void {
    this.listener?.wake()
  }
}
