import { flushNow } from '../turns.js'
import type { Draft, Log } from './log.js'

/**
 * Sees to it that no log drops an entry, for its count or its bytes, before it was offered to the streams: however much is
 * sent in one turn of the event loop, all of it goes as far as the connections take it.
 */
export class Offer {
  /** Everything up to here is known to have been offered. */
  #through = 0

  /** A draft is about to be added to a log; the logs have everything up to `head`, and may be read. */
  before (log: Log, draft: Draft, head: number): void {
    if (log.pushedOutBy(draft) <= this.#through) return
    // Not again before a log has got as much as it keeps; and where nobody waits it costs nothing.
    flushNow()
    this.#through = head
  }

  /** Logs have got what they lacked up to where they stand: it is still to be offered. */
  afresh (): void {
    this.#through = 0
  }
}
