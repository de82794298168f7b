import type { Producer } from '../../../lib/index.js'
import { deferred } from '../../support/wait.js'

/** A producer that a test controls. */
export interface Feed {
  readonly producer: Producer
  /** Adds items. */
  add (...items: unknown[]): void
  /** Ends the producer: with an error if one is given. */
  end (error?: Error): void
  /** The signal of the producer; `undefined` before it has started. */
  readonly signal: () => AbortSignal | undefined
  /** Number of producers that were started. */
  readonly startCount: () => number
  /** Resolves when the producer has been closed, by its end or by the run. */
  readonly closed: Promise<void>
}

export function createFeed (): Feed {
  const items: unknown[] = []
  let isOver = false
  let failure: Error | undefined
  let signal: AbortSignal | undefined
  let startCount = 0
  let wake = deferred()
  const closed = deferred()
  const notify = (): void => {
    wake.resolve()
    wake = deferred()
  }
  return {
    producer: async function * (context) {
      startCount++
      signal = context.signal
      signal.addEventListener('abort', notify)
      try {
        while (!context.signal.aborted) {
          const { promise } = wake
          yield * items.splice(0)
          if (failure !== undefined) throw failure
          if (isOver) return
          await promise
        }
      } finally {
        closed.resolve()
      }
    },
    add: (...added) => {
      items.push(...added)
      notify()
    },
    end: error => {
      failure = error
      isOver = true
      notify()
    },
    signal: () => signal,
    startCount: () => startCount,
    closed: closed.promise
  }
}
