import type { EntryInput, Log } from '../log/log.js'
import { flushScheduler } from '../stream/flush-scheduler.js'

/**
 * Prevents a log from trimming an entry, for its count or its bytes, before the streams had a chance to write it. So a
 * burst within one tick of the event loop reaches every client whose connection accepts it.
 */
export class TrimGuard {
  /** All entries up to this position were written by all streams that could write. */
  #flushedThrough = 0

  /** Flushes the streams if the append may trim an entry that was not flushed yet. `head` is the newest position that the logs contain. */
  beforeAppend (log: Log, entry: EntryInput, head: number): void {
    if (log.evictionPosition(entry) <= this.#flushedThrough) return
    flushScheduler.flushAll()
    this.#flushedThrough = head
  }

  /** Entries were added at positions that are already flushed, so all positions count as not flushed again. */
  reset (): void {
    this.#flushedThrough = 0
  }
}
