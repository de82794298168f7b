import { Log, now, type Draft, type LogBounds, type LogListener } from './log.js'
import type { Store } from './store.js'

/** Logs in this process's memory: the default store, for an app that runs as one process. */
export class MemoryStore implements Store {
  readonly #logs = new Set<Log>()
  #head = 0
  #sweep: NodeJS.Timeout | undefined

  head (): number {
    return this.#head
  }

  log (_name: string, bounds: LogBounds, listener: LogListener): Log {
    const log = new Log(bounds, listener)
    this.#logs.add(log)
    return log
  }

  append (log: Log, draft: Draft): number {
    const bytes = log.measure(draft)
    log.push(draft, ++this.#head, bytes, now())
    // Appends and reads expire a log; the sweep is for those that see neither.
    this.#sweep ??= setTimeout(this.#expire, log.bounds.age).unref()
    log.listener.wake()
    return this.#head
  }

  release (log: Log): void {
    this.#logs.delete(log)
  }

  close (): void {
    clearTimeout(this.#sweep)
    this.#logs.clear()
  }

  readonly #expire = (): void => {
    this.#sweep = undefined
    const time = now()
    for (const log of this.#logs) {
      log.expire(time)
      if (log.length > 0) this.#sweep ??= setTimeout(this.#expire, log.bounds.age).unref()
    }
  }
}
