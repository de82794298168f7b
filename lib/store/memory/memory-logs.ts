import { now } from '../../clock.js'
import { assertFits, type EntryInput, type Log } from '../../log/log.js'
import { TrimGuard } from '../trim-guard.js'

/** Appends to the logs of a memory store, with one counter of positions for all of them, and trims entries that are too old. */
export class MemoryLogs {
  /** The newest position of all logs. */
  newestPosition = 0
  /** The logs that have entries. */
  readonly #logs = new Set<Log>()
  readonly #trimGuard = new TrimGuard()
  #sweepTimer: NodeJS.Timeout | undefined
  #sweepAt = Infinity

  /** Appends an entry to a log. Throws EntryTooLarge. */
  append (log: Log, entry: EntryInput): void {
    assertFits(entry, log.bounds)
    this.#trimGuard.beforeAppend(log, entry, this.newestPosition)
    const time = now()
    this.#logs.add(log)
    log.push(entry, ++this.newestPosition, time)
    this.#scheduleSweep(log, time)
    log.listener.onAppend()
  }

  /** Empties and removes a log that is not used any more. */
  release (log: Log): void {
    log.shrink(0)
    this.#logs.delete(log)
  }

  close (): void {
    clearTimeout(this.#sweepTimer)
    this.#logs.clear()
  }

  /** Entries that are too old are trimmed when a log is read or appended to. The sweep trims them in logs that are not used for a while. */
  #scheduleSweep ({ bounds: { age } }: Log, time: number): void {
    if (time + age >= this.#sweepAt) return
    this.#sweepAt = time + age
    clearTimeout(this.#sweepTimer)
    this.#sweepTimer = setTimeout(this.#sweep, age).unref()
  }

  readonly #sweep = (): void => {
    this.#sweepAt = Infinity
    const time = now()
    for (const log of this.#logs) {
      log.expire(time)
      if (log.length > 0) this.#scheduleSweep(log, time)
      else this.#logs.delete(log)
    }
  }
}
