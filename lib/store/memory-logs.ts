import { demandRoom, now, type Draft, type Log } from './log.js'
import { Offer } from './offer.js'

/** Logs in this process's memory, with one counter of positions. */
export class MemoryLogs {
  head = 0
  /** Those that have entries. */
  readonly #logs = new Set<Log>()
  readonly #offer = new Offer()
  #sweep: NodeJS.Timeout | undefined
  #sweepAt = Infinity

  append (log: Log, draft: Draft): void {
    demandRoom(draft, log.bounds)
    this.#offer.before(log, draft, this.head)
    const time = now()
    this.#logs.add(log)
    log.push(draft, ++this.head, time)
    this.#sweepLater(log, time)
    log.listener.wake()
  }

  /** Nothing will be appended to a log any more, and nobody reads it. */
  release (log: Log): void {
    this.#logs.delete(log)
  }

  close (): void {
    clearTimeout(this.#sweep)
    this.#logs.clear()
  }

  /** Appends and reads expire a log; the sweep is for those that see neither. */
  #sweepLater ({ bounds: { age } }: Log, time: number): void {
    if (time + age >= this.#sweepAt) return
    this.#sweepAt = time + age
    clearTimeout(this.#sweep)
    this.#sweep = setTimeout(this.#expire, age).unref()
  }

  readonly #expire = (): void => {
    this.#sweepAt = Infinity
    const time = now()
    for (const log of this.#logs) {
      log.expire(time)
      if (log.length > 0) this.#sweepLater(log, time)
      else this.#logs.delete(log)
    }
  }
}
