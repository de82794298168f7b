const CAP = 30_000

/** How long to wait before the next attempt: longer each time, at random, so that many clients do not come at once. */
export class Backoff {
  /** The least to wait, in milliseconds: what the server has asked for. */
  floor = 1000
  #attempts = 0
  #wake: (() => void) | undefined

  /** Things went well: the next wait is short again. */
  reset (): void {
    this.#attempts = 0
  }

  /** Waits; `retryAfter`, in seconds, is what an answer asked for. A {@link wake} or an abort ends the wait. */
  async wait (signal: AbortSignal, retryAfter = 0): Promise<void> {
    const spread = Math.min(CAP, this.floor * 2 ** this.#attempts++)
    const delay = Math.max(this.floor + Math.random() * spread, retryAfter * 1000)
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, delay)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
      signal.addEventListener('abort', this.#wake, { once: true })
    })
    if (this.#wake !== undefined) signal.removeEventListener('abort', this.#wake)
    this.#wake = undefined
  }

  /** Ends a wait at once, as when the network is back. */
  wake (): void {
    this.#wake?.()
  }
}
