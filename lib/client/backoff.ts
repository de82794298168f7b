const CAP = 30_000
// [WHATWG HTML 8.6] What a timer can count; it would run a longer one at once.
const LONGEST = 2 ** 31 - 1

/** A timer, or none where it would be longer than 24 days, as for `Infinity`. */
export function after (ms: number, run: () => void): ReturnType<typeof setTimeout> | undefined {
  return ms > LONGEST ? undefined : setTimeout(run, ms)
}

/** The least to wait before another attempt, in milliseconds: what the server's `retry` has asked for. */
export interface Pace {
  floor: number
}

/** How long to wait before the next attempt: longer each time, at random, so that many clients do not come at once. */
export class Backoff {
  readonly #pace: Pace
  #attempts = 0
  #asked = false
  #timer: ReturnType<typeof setTimeout> | undefined
  #end = (): void => {}

  constructor (pace: Pace) {
    this.#pace = pace
  }

  /** Things went well: the next wait is short again. */
  reset (): void {
    this.#attempts = 0
  }

  /** Waits; `retryAfter`, in milliseconds, is what an answer asked for. */
  wait (retryAfter = 0): Promise<void> {
    const { floor } = this.#pace
    // A floor of nothing is none to double.
    const delay = floor + Math.random() * Math.min(CAP, (floor || 1) * 2 ** this.#attempts++)
    this.#asked = retryAfter > 0
    return new Promise(resolve => {
      this.#end = resolve
      this.#timer = after(Math.max(delay, retryAfter), resolve)
    })
  }

  /** Ends a wait at once, as when the network is back; not one that an answer asked for. */
  wake (): void {
    if (!this.#asked) this.stop()
  }

  /** Ends a wait, whatever it is for. */
  stop (): void {
    clearTimeout(this.#timer)
    this.#end()
  }
}
