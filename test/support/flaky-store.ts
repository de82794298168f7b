import { MemoryStore, StoreUnavailable, type Draft, type Log, type LogBounds, type LogListener, type Store } from '../../lib/index.js'

/** A store over a network, as it looks when that is down: written with nothing but what the package exports. */
export class FlakyStore implements Store {
  down = false
  readonly #store = new MemoryStore()

  async head (): Promise<number> {
    this.#reach()
    return this.#store.head()
  }

  log (name: string, bounds: LogBounds, listener: LogListener): Log {
    return this.#store.log(name, bounds, listener)
  }

  async append (log: Log, draft: Draft): Promise<number> {
    this.#reach()
    return this.#store.append(log, draft)
  }

  release (log: Log): void {
    this.#store.release(log)
  }

  close (): void {
    this.#store.close()
  }

  #reach (): void {
    if (this.down) throw new StoreUnavailable()
  }
}
