/** A value, or a promise of it. Code that has the value at once can return it without the cost of a promise. */
export type Awaitable<T> = T | Promise<T>

export const noop = (): void => {}

/** Whether a value is a promise, of any implementation. */
export function isPromise<T> (value: Awaitable<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | undefined | null)?.then === 'function'
}

/** One promise for all work that finishes synchronously without a result. `andThen` recognizes it and continues synchronously. */
const RESOLVED_PROMISE: Promise<unknown> = Promise.resolve()

/** Whether a value is a promise that may take time to settle. */
export function isPending<T> (value: Awaitable<T>): value is Promise<T> {
  return value !== RESOLVED_PROMISE && isPromise(value)
}

/**
 * Calls `next` with a value: synchronously if the value is not a promise, otherwise when the promise resolves. In the
 * synchronous case, an error of `next` is thrown and does not become a rejection.
 */
export function andThen<T, U> (value: Awaitable<T>, next: (value: T) => Awaitable<U>): Awaitable<U> {
  if (value === RESOLVED_PROMISE) return next(undefined as T)
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/** Does work. Calls `cleanUp` if it throws or rejects. */
export function cleanUpAfterError<T> (work: () => Awaitable<T>, cleanUp: (error: unknown) => void): Awaitable<T> {
  const fail = (error: unknown): never => {
    cleanUp(error)
    throw error
  }
  try {
    const result = work()
    return isPromise(result) ? result.catch(fail) : result
  } catch (error) {
    return fail(error)
  }
}

/** A promise that detects whether anything waits for it: `await`, `then`, `catch` and `Promise.all` call its method `then`. */
class ObservedPromise<T> extends Promise<T> {
  #isObserved = false

  // The promises that `then` returns do not have to be observed.
  static override get [Symbol.species] (): PromiseConstructor {
    return Promise
  }

  override then<A = T, B = never> (onFulfilled?: ((value: T) => A | PromiseLike<A>) | null, onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<A | B> {
    this.#isObserved = true
    return super.then(onFulfilled, onRejected)
  }

  /** Calls `report` with the error if nothing waits for the promise. Must be called before the promise rejects. */
  reportUnlessObserved (report: (error: unknown) => void): void {
    super.then(undefined, (error: unknown) => {
      // This runs after all microtasks, because the caller may start to wait in one of them.
      setImmediate(() => { if (!this.#isObserved) report(error) })
    })
  }
}

/**
 * Starts work synchronously and returns a promise of its result. The caller may ignore the promise, although the work can fail at
 * any time, for example because the session is closed. An unhandled rejection does not terminate the process: `report` receives the
 * error instead.
 */
export function toPromise<T> (work: () => Awaitable<T>, report: (error: unknown) => void = noop): Promise<T> {
  let promise: Promise<T>
  try {
    const result = work()
    if (result === undefined) return RESOLVED_PROMISE as Promise<T>
    if (!isPromise(result)) return Promise.resolve(result)
    promise = Promise.resolve(result)
  } catch (error) {
    promise = new Promise((_resolve, reject) => { reject(error) })
  }
  const observed = new ObservedPromise<T>((resolve, reject) => {
    promise.then(resolve, (error: unknown) => {
      observed.reportUnlessObserved(report)
      reject(error)
    })
  })
  return observed
}

/** Waits until a promise resolves, but at most for a time in milliseconds. Resolves with true if the promise has resolved in this time. The promise must not reject. */
export async function settlesWithin (promise: Promise<unknown>, time: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<boolean>(resolve => { timer = setTimeout(resolve, time, false) })
  const hasSettled = await Promise.race([promise.then(() => true), timeout])
  clearTimeout(timer)
  return hasSettled
}
