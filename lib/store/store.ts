import type { Draft, Log, LogBounds, LogListener } from './log.js'

/** A value, or a promise of it: a store in memory answers at once and costs no promise. */
export type Awaitable<T> = T | Promise<T>

/**
 * Where logs live.
 *
 * A store MUST take every position from ONE counter: positions are whole numbers from 1, and a later append, to
 * whatever log, gets a higher one. It MUST add an entry to the log before it wakes the log's listener, and MUST wake
 * it after every append. It MUST keep what a log's bounds allow and MUST record in the log what it trims. It MUST NOT
 * write to a log after `release`. It MUST NOT keep the process alive when nothing else does.
 *
 * `append` MUST either have added the entry when it answers or reject without having added it; a store that cannot be
 * reached rejects with StoreUnavailable. Two appends begun one after the other by one caller MUST keep their order.
 */
export interface Store {
  /** The position of the newest entry of all logs. */
  head (): Awaitable<number>
  /** Gives the log of a name, made where there is none. A name is given out once until it is released. */
  log (name: string, bounds: LogBounds, listener: LogListener): Log
  /** Appends to a log that `log` gave out, and answers the entry's position. */
  append (log: Log, draft: Draft): Awaitable<number>
  /** Gives a log back: nothing will be appended to it any more. Readers may still read it. */
  release (log: Log): void
  /** Ends the store; called once, after the last stream has ended. */
  close (): Awaitable<void>
}
