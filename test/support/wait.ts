// The real ones: a test may stop the clock.
const { setTimeout, clearTimeout } = globalThis
const { now } = Date

/** Bounds a wait: rejects, saying for what, when the promise takes longer. */
export function within<T> (promise: Promise<T>, what: string, ms = 10_000): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => { reject(new Error(`Waited ${ms} ms for ${what}`)) }, ms)
    promise.then(resolve, reject).finally(() => { clearTimeout(timer) })
  })
}

/** A promise and its resolve, for an event that a callback tells. */
export function signal<T = void> (): { promise: Promise<T>, resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {}
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}

/** Waits for a condition that no event tells, looking once a turn of the event loop. */
export async function until (condition: () => boolean | Promise<boolean>, what: string, ms = 10_000): Promise<void> {
  const end = now() + ms
  while (!await condition()) {
    if (now() > end) throw new Error(`Waited ${ms} ms for ${what}`)
    await new Promise(resolve => { setTimeout(resolve, 1) })
  }
}

/** Waits until the event loop has written for its streams once more. */
export const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })
