import type { EntryInput, Log } from '../log/log.js'
import { flushScheduler } from '../stream/flush-scheduler.js'

/**
 * Prevents an append from trimming entries (for their count or bytes) that streams could write, but have not flushed yet.
 * So all events of a burst within one tick reach every client that uses HTTP/1.1 without TLS and whose connection accepts them.
 */
export class TrimGuard {
  /** Every stream that could write has written all entries up to this position. */
  #flushedThrough = 0

  /** Flushes the streams if the append may trim an entry that was not flushed yet. `newestPosition`: that of all logs. */
  beforeAppend (log: Log, entry: EntryInput, newestPosition: number): void {
    if (log.evictionPosition(entry) <= this.#flushedThrough) return
    flushScheduler.flushAll()
    this.#flushedThrough = newestPosition
  }

  /** Marks all positions as not flushed. It is called after entries were added at positions that were marked as flushed. */
  reset (): void {
    this.#flushedThrough = 0
  }
}
