// Maximum of the random part of a delay, in milliseconds.
const MAX_JITTER = 10_000
// [WHATWG HTML 8.6] The maximum of a signed 32-bit integer. A timer with a longer delay would run at once.
const MAX_TIMER_DELAY = 2_147_483_647

/** Sets a timer, like `setTimeout`. Sets none if the delay is longer than a timer can count (24.8 days), for example `Infinity`. */
export function setTimer (run: () => void, ms: number): ReturnType<typeof setTimeout> | undefined {
  return ms > MAX_TIMER_DELAY ? undefined : setTimeout(run, ms)
}

/** Settings that all backoffs of a session share. */
export interface RetrySettings {
  /** Minimum delay before a retry, in milliseconds. The server changes it with the `retry` field of the stream. */
  retryDelay: number
}

/** Delays retries by the retry delay and a random time, so that clients do not all retry at the same time. The maximum of the random time doubles after each failure, up to `MAX_JITTER`. */
export interface Backoff {
  /** Makes the next delay short again. Call it after a success. */
  reset (): void
  /** Resolves after the delay. `retryAfter` is the minimum that the server requires, in milliseconds. */
  wait (retryAfter: number): Promise<void>
  /** Ends the current delay, for example when the network is available again. Has no effect on a delay that the server requires. */
  retryNow (): void
  /** Ends the current delay, even one that the server requires. */
  stop (): void
}

export function createBackoff (retrySettings: RetrySettings): Backoff {
  let failures = 0
  // Whether the server requires the current delay.
  let isRequired = false
  let timer: ReturnType<typeof setTimeout> | undefined
  let end = (): void => {}
  const stop = (): void => {
    clearTimeout(timer)
    end()
  }
  return {
    reset () { failures = 0 },
    wait (retryAfter) {
      const { retryDelay } = retrySettings
      // A `retryDelay` of 0 cannot be doubled.
      const delay = retryDelay + Math.random() * Math.min((retryDelay || 1) * 2 ** failures++, MAX_JITTER)
      isRequired = retryAfter > 0
      return new Promise(resolve => {
        end = resolve
        timer = setTimer(resolve, Math.max(delay, retryAfter))
      })
    },
    retryNow () { if (!isRequired) stop() },
    stop
  }
}
