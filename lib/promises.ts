import type { Awaitable } from './store/store.js'

export const ignore = (): void => {}

/** Whether a value is still to come. */
export function isPromise<T> (value: Awaitable<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | undefined | null)?.then === 'function'
}

/** What was done at once promises this: it is known to be kept, so that nobody has to wait to find that out. */
const DONE: Promise<unknown> = Promise.resolve()

/**
 * Goes on with a value as soon as it is there: at once, without the cost of a promise, where it is no promise; then
 * what `next` throws is thrown, not rejected with.
 */
export function chain<T, U> (value: Awaitable<T>, next: (value: T) => Awaitable<U>): Awaitable<U> {
  if (value === DONE) return next(undefined as T)
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/**
 * Starts work at once and promises its result. Fire and forget is safe: a rejection that nobody awaits does not end
 * the process, as a message to a session that has just ended should not; whoever awaits the promise still gets it.
 */
export function begin<T> (work: () => Awaitable<T>): Promise<T> {
  let promise: Promise<T>
  try {
    const result = work()
    if (result === undefined) return DONE as Promise<T>
    promise = Promise.resolve(result)
    if (!isPromise(result)) return promise
  } catch (error) {
    promise = Promise.reject(error)
  }
  promise.catch(ignore)
  return promise
}
