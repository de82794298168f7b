import type { Awaitable } from './store/store.js'

export const ignore = (): void => {}

/**
 * Starts work at once and promises its result. Fire and forget is safe: a rejection that nobody awaits does not end
 * the process, as a message to a session that has just ended should not; whoever awaits the promise still gets it.
 */
export function begin<T> (work: () => Awaitable<T>): Promise<T> {
  const promise = new Promise<T>(resolve => { resolve(work()) })
  promise.catch(ignore)
  return promise
}
