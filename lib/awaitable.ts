/** A value, or a promise of it. Code that has the value at once can return it without the cost of a promise. */
export type Awaitable<T> = T | Promise<T>

export const noop = (): void => {}

/** Whether a value is a promise, of any implementation. */
export function isPromise<T> (value: Awaitable<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | undefined | null)?.then === 'function'
}

/** One promise for all work that finishes synchronously without a result. `andThen` recognizes it and continues synchronously. */
const RESOLVED_PROMISE: Promise<unknown> = Promise.resolve()

/**
 * Calls `next` with a value: synchronously if the value is not a promise, otherwise when the promise resolves. In the
 * synchronous case, an error of `next` is thrown and does not become a rejection.
 */
export function andThen<T, U> (value: Awaitable<T>, next: (value: T) => Awaitable<U>): Awaitable<U> {
  if (value === RESOLVED_PROMISE) return next(undefined as T)
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/**
 * Starts work synchronously and returns a promise of its result. The caller may ignore the promise: a rejection without a
 * handler does not terminate the process, for example if a session is closed just before an event is sent to it.
 */
export function toPromise<T> (work: () => Awaitable<T>): Promise<T> {
  let promise: Promise<T>
  try {
    const result = work()
    if (result === undefined) return RESOLVED_PROMISE as Promise<T>
    promise = Promise.resolve(result)
    if (!isPromise(result)) return promise
  } catch (error) {
    promise = Promise.reject(error)
  }
  promise.catch(noop)
  return promise
}
