import type { FastifyBaseLogger } from 'fastify'
import { isPromise, toPromise, type Awaitable } from '../awaitable.js'
import { DataInvalid } from '../errors.js'
import { logSafely } from '../safe-log.js'

/** Where {@link pump} writes the items. */
export interface PumpTarget {
  write (item: unknown): Awaitable<void>
  /** Settles when the target has room for the next item. */
  waitForDrain (): Awaitable<void>
  /** The iterator has failed after the promise of {@link pump} has settled. Is not called for errors that only say that something has ended. */
  onLateError (error: unknown): void
}

const END_CODES = new Set<unknown>(['FST_SSE_RUN_OVER', 'FST_SSE_SESSION_OVER'])

/** Whether an error only says that the signal has aborted, or that the session or the run has ended. */
function isEndError (error: unknown, { reason }: AbortSignal): boolean {
  try {
    const { name, code } = Object(error) as { name?: unknown, code?: unknown }
    return error === reason || name === 'AbortError' || END_CODES.has(code)
  } catch {
    // A getter of the error has thrown.
    return false
  }
}

/**
 * Writes the items of an iterable to a target and requests the next item only when the target has room. If the signal
 * aborts, the promise rejects at once with the reason of the signal, even while an item is pending, and the iterator's
 * `return` is called.
 */
export function pump (items: AsyncIterable<unknown> | Iterable<unknown>, signal: AbortSignal, target: PumpTarget): Promise<void> {
  const iterator = createIterator(items)
  if (iterator === undefined) throw new DataInvalid('the items of a stream must be an iterable or an async iterable; call a generator function, and await a promise of one')
  return new Promise((resolve, reject) => {
    let isDone = false
    let isReading = false
    const reportLate = (error: unknown): void => { if (!isEndError(error, signal)) target.onLateError(error) }
    const finish = (): void => {
      isDone = true
      signal.removeEventListener('abort', onAbort)
    }
    const fail = (reason: unknown): void => {
      if (isDone) return
      finish()
      reject(reason)
      // `return` is called in a microtask, because a generator that has aborted the signal itself is still running. The result
      // is not awaited, because a generator that waits for something returns only after that.
      queueMicrotask(() => { toPromise(() => iterator.return?.(), reportLate) })
    }
    const onAbort = (): void => { fail(signal.reason) }
    signal.addEventListener('abort', onAbort)
    const run = async (): Promise<void> => {
      for (;;) {
        // Only promises are awaited, because `await` of another value would cost a microtask per item.
        isReading = true
        const next = iterator.next()
        const { done, value } = isPromise(next) ? await next : next
        // As in `for await`, the items of a synchronous iterable can be promises.
        const item: unknown = isPromise(value) ? await value : value
        isReading = false
        if (isDone) return
        if (done === true) {
          finish()
          resolve()
          return
        }
        const written = target.write(item)
        if (isPromise(written)) await written
        const drained = target.waitForDrain()
        if (isPromise(drained)) await drained
        if (isDone) return
      }
    }
    if (signal.aborted) onAbort()
    else run().catch((error: unknown) => { if (isDone && isReading) reportLate(error); else fail(error) })
  })
}

/** Closes items that nobody reads: destroys a stream of Node.js, whose iterator would not do that, and calls `return` of other iterators. Never rejects. */
export async function discardItems (items: AsyncIterable<unknown> | Iterable<unknown>, log: FastifyBaseLogger): Promise<void> {
  try {
    const { destroy } = items as { destroy?: unknown }
    if (typeof destroy === 'function') destroy.call(items)
    else await createIterator(items)?.return?.()
  } catch (error) {
    logSafely(log, 'warn', { err: error }, 'an iterable of a handler could not be closed')
  }
}

/** Returns the iterator of an iterable; `undefined` if it is not one. */
function createIterator (items: unknown): AsyncIterator<unknown> | Iterator<unknown> | undefined {
  const { [Symbol.asyncIterator]: createAsync, [Symbol.iterator]: create } = Object(items) as Partial<AsyncIterable<unknown>> & Partial<Iterable<unknown>>
  return createAsync === undefined ? create?.call(items) : createAsync.call(items)
}
