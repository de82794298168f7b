import { flushes, flushNow } from '../turns.js'
import type { Draft, Log } from './log.js'

/**
 * Sees to it that no log drops an entry, for its count or its bytes, before it was offered to the streams: however much is
 * sent in one turn of the event loop, all of it goes as far as the connections take it.
 */
export class Offer {
  #flushes = flushes()
  /** Where the logs stood when that was first seen. */
  #then = 0
  /** Everything up to here has been offered. */
  #through = 0

  /** A draft is about to be added to a log; the logs have everything up to `head`, and may be read. */
  before (log: Log, draft: Draft, head: number): void {
    const passed = flushes() - this.#flushes
    if (passed > 0) this.#look(passed === 1 ? this.#then : head, head)
    if (log.pushedOutBy(draft) <= this.#through) return
    flushNow()
    this.#look(head, head)
  }

  /** Logs have got what they lacked up to where they stand: it is still to be offered. */
  afresh (): void {
    this.#look(0, 0)
  }

  #look (through: number, then: number): void {
    this.#flushes = flushes()
    this.#then = then
    this.#through = through
  }
}
