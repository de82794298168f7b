// The original functions, because a test may mock the timers and the clock.
const { setTimeout, clearTimeout } = globalThis
const { now } = Date

/** Limits the wait for a promise. Rejects with a description of what was awaited when the time is over. */
export function within<T> (promise: Promise<T>, what: string, ms = 10_000): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => { reject(new Error(`Waited ${ms} ms for ${what}`)) }, ms)
    promise.then(resolve, reject).finally(() => { clearTimeout(timer) })
  })
}

/** Creates a promise and its `resolve` function, for events that a callback reports. */
export function signal<T = void> (): { promise: Promise<T>, resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {}
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}

/** Waits for a condition that no event reports. Checks it once per millisecond. */
export async function until (condition: () => boolean | Promise<boolean>, what: string, ms = 10_000): Promise<void> {
  const end = now() + ms
  while (!await condition()) {
    if (now() > end) throw new Error(`Waited ${ms} ms for ${what}`)
    await new Promise(resolve => { setTimeout(resolve, 1) })
  }
}

/** Waits for one turn of the event loop, in which scheduled streams are flushed. */
export const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })
