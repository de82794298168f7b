/** How many messages start to be handled per tick. Most handlers take less than a tenth of a millisecond until they wait for something. */
const MESSAGES_PER_TICK = 64

/**
 * Limits how many messages start to be handled in one tick of the event loop, so that a node with too much to do still renews its
 * lease, and writes to its streams. Tickets that have been started come first: the others need no memory for responses yet.
 */
export class Turns {
  #left = MESSAGES_PER_TICK
  #isTickScheduled = false
  readonly #started: Array<() => void> = []
  readonly #notStarted: Array<() => void> = []

  /** Waits until a message of a ticket may start. Returns `undefined` if it may start now. */
  wait (isStarted: boolean): Promise<void> | undefined {
    this.#scheduleTick()
    if (this.#left > 0 && this.#started.length === 0 && (isStarted || this.#notStarted.length === 0)) {
      this.#left--
      return undefined
    }
    return new Promise(resolve => { (isStarted ? this.#started : this.#notStarted).push(resolve) })
  }

  #scheduleTick (): void {
    if (this.#isTickScheduled) return
    this.#isTickScheduled = true
    setImmediate(this.#tick)
  }

  readonly #tick = (): void => {
    this.#isTickScheduled = false
    const next = this.#started.splice(0, MESSAGES_PER_TICK)
    next.push(...this.#notStarted.splice(0, MESSAGES_PER_TICK - next.length))
    this.#left = MESSAGES_PER_TICK - next.length
    for (const resolve of next) resolve()
    if (this.#started.length > 0 || this.#notStarted.length > 0) this.#scheduleTick()
  }
}
