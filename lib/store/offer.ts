import { flushes, flushNow } from '../turns.js'
import type { Draft, Log } from './log.js'

/**
 * Sees to it that no log drops an entry before it was offered to the streams: however much is sent in one turn of the event
 * loop, a hole is for clients that do not keep up, and for them alone.
 */
export class Offer {
  #flushes = flushes()
  /** Everything up to here has been offered. */
  #through = 0

  /** A draft is about to be added to a log; the logs have everything up to `head`, and may be read. */
  before (log: Log, draft: Draft, head: number): void {
    if (this.#flushes !== flushes()) this.#everything(head)
    if (log.pushedOutBy(draft) <= this.#through) return
    flushNow()
    this.#everything(head)
  }

  #everything (head: number): void {
    this.#flushes = flushes()
    this.#through = head
  }
}
