/** How many messages may start to be handled per tick. Most handlers take less than a tenth of a millisecond until they wait for something. */
const STARTS_PER_TICK = 64

/**
 * Limits how many messages start to be handled in one tick of the event loop, so that an overloaded node still renews its lease, and
 * writes to its streams.
 */
export class StartLimit {
  #startsLeft = STARTS_PER_TICK
  #isTickScheduled = false
  readonly #waitingStarted: Array<() => void> = []
  readonly #waitingNew: Array<() => void> = []

  /** Returns whether a message may start now. Otherwise, it has to wait. */
  tryStart (): boolean {
    this.#scheduleTick()
    if (this.#startsLeft === 0) return false
    this.#startsLeft--
    return true
  }

  /** Waits for a later tick in which a message may start. Messages of a started ticket come first, because the responses to the messages before them stay in memory until all of the ticket are handled. */
  wait (isTicketStarted: boolean): Promise<void> {
    this.#scheduleTick()
    return new Promise(resolve => { (isTicketStarted ? this.#waitingStarted : this.#waitingNew).push(resolve) })
  }

  #scheduleTick (): void {
    if (this.#isTickScheduled) return
    this.#isTickScheduled = true
    setImmediate(this.#tick)
  }

  readonly #tick = (): void => {
    this.#isTickScheduled = false
    const next = this.#waitingStarted.splice(0, STARTS_PER_TICK)
    next.push(...this.#waitingNew.splice(0, STARTS_PER_TICK - next.length))
    this.#startsLeft = STARTS_PER_TICK - next.length
    for (const resolve of next) resolve()
    if (this.#waitingStarted.length > 0 || this.#waitingNew.length > 0) this.#scheduleTick()
  }
}
