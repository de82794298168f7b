import { begin, ignore } from '../promises.js'
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
export async function pace (items: AsyncIterable<unknown> | Iterable<unknown>, signal: AbortSignal, consumer: Consumer): Promise<void> {
  // A string is iterable, too, but no object.
  const iterator = typeof items !== 'string' && Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : (items as Iterable<unknown>)[Symbol.iterator]()
  // One listener for the whole iteration, not a race an item: a lasting promise would gather the reactions of all.
  let abort: (reason: unknown) => void = ignore
  const onAbort = (): void => { abort(signal.reason) }
  signal.addEventListener('abort', onAbort)
  let finished = false
  try {
    for (;;) {
      signal.throwIfAborted()
      const result = await new Promise<IteratorResult<unknown>>((resolve, reject) => {
        abort = reject
        Promise.resolve(iterator.next()).then(resolve, reject)
      })
      if (result.done === true) {
        finished = true
        return
      }
      await consumer.take(result.value)
      await consumer.ready()
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
    // Not awaited: a generator that waits for something else would not return before that came.
    if (!finished) begin(() => iterator.return?.())
  }
}
