// The original functions, because a test may mock the timers and the clock.
const { setTimeout, clearTimeout } = globalThis
const { now } = Date

/** How long a test waits for something that happens soon, in milliseconds. On a busy machine that can be many seconds later. */
const DEFAULT_TIMEOUT = 30_000

/** Limits the wait for a promise. Rejects with a description of what was awaited when the time is over. */
export function withTimeout<T> (promise: Promise<T>, what: string, ms = DEFAULT_TIMEOUT): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => { reject(new Error(`Waited ${ms} ms for ${what}`)) }, ms)
    promise.then(resolve, reject).finally(() => { clearTimeout(timer) })
  })
}

/** Creates a promise and its `resolve` function, for events that a callback reports. */
export function deferred<T = void> (): { promise: Promise<T>, resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {}
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}

/** Waits for a condition that no event reports. Checks it once per millisecond, and less often the longer it waits. */
export async function waitUntil (condition: () => boolean | Promise<boolean>, what: string, ms = DEFAULT_TIMEOUT): Promise<void> {
  const start = now()
  while (!await condition()) {
    const waited = now() - start
    if (waited > ms) throw new Error(`Waited ${ms} ms for ${what}`)
    await new Promise(resolve => { setTimeout(resolve, Math.min(1 + waited / 50, 20)) })
  }
}

/** Waits for one tick of the event loop, in which scheduled streams are flushed. */
export const nextEventLoopTick = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })
