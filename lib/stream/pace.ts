import { begin, isPromise } from '../promises.js'
import type { Awaitable } from '../store/store.js'

/** Where items go, and when it is ready for more. */
export interface Consumer {
  take (item: unknown): Awaitable<void>
  ready (): Awaitable<void>
}

/**
 * Moves the items of an iterable to a consumer, asking for the next only when it is ready. An abort is not kept waiting
 * by an iterable that is: the iterable is told to return, and the reason is thrown.
 */
export function pace (items: AsyncIterable<unknown> | Iterable<unknown>, signal: AbortSignal, consumer: Consumer): Promise<void> {
  // A string is iterable, too, but no object.
  const iterator = typeof items !== 'string' && Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : (items as Iterable<unknown>)[Symbol.iterator]()
  return new Promise((resolve, reject) => {
    let over = false
    const leave = (): void => {
      over = true
      signal.removeEventListener('abort', onAbort)
    }
    const abandon = (reason: unknown): void => {
      if (over) return
      leave()
      reject(reason)
      // Later, for it may be running, and have ended the session itself. Not awaited: a generator that waits for
      // something else would not return before that came.
      queueMicrotask(() => { begin(() => iterator.return?.()) })
    }
    const onAbort = (): void => { abandon(signal.reason) }
    signal.addEventListener('abort', onAbort)
    const move = async (): Promise<void> => {
      for (;;) {
        // Awaiting what is no promise would cost a turn of the queue for each item.
        const next = iterator.next()
        const { done, value } = isPromise(next) ? await next : next
        if (over) return
        if (done === true) {
          leave()
          resolve()
          return
        }
        const taken = consumer.take(value)
        if (isPromise(taken)) await taken
        const ready = consumer.ready()
        if (isPromise(ready)) await ready
        if (over) return
      }
    }
    if (signal.aborted) onAbort()
    else move().catch(abandon)
  })
}
