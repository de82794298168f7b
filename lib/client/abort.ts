const callbacksOf = new WeakMap<EventTarget, Set<(reason: unknown) => void>>()

// The only listener of each signal, because Node warns about more than ten.
const runCallbacks = ({ target }: Event): void => {
  for (const callback of callbacksOf.get(target as EventTarget) as Set<(reason: unknown) => void>) callback(abortReason(target as AbortSignal))
}

/** Calls a function with the reason when the signal aborts. Returns a function that cancels this. */
export function onAbort (signal: AbortSignal, callback: (reason: unknown) => void): () => void {
  const callbacks = callbacksOf.get(signal) ?? new Set()
  callbacksOf.set(signal, callbacks.add(callback))
  // The signal ignores a listener that it already has.
  signal.addEventListener('abort', runCallbacks)
  return () => {
    callbacks.delete(callback)
    if (callbacks.size === 0) signal.removeEventListener('abort', runCallbacks)
  }
}

/** The reason of an aborted signal. The signals of some platforms, such as React Native, have none. */
export function abortReason ({ reason }: AbortSignal): unknown {
  return reason ?? new Error('Aborted')
}

/** Resolves like the promise, or rejects when the signal aborts. For what may ignore the signal: functions of the app, and a custom `fetch`. */
export function withAbort<T> (signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(abortReason(signal))
    onAbort(signal, reject)
    promise.then(resolve, reject)
  })
}
