const callbacksOf = new WeakMap<EventTarget, Set<() => void>>()

// The only listener of each signal, because Node warns about more than ten.
const runCallbacks = ({ target }: Event): void => {
  for (const callback of callbacksOf.get(target as EventTarget) as Set<() => void>) callback()
}

/** Calls a function when the signal aborts. Returns a function that cancels this. */
export function onAbort (signal: AbortSignal, callback: () => void): () => void {
  const callbacks = callbacksOf.get(signal) ?? new Set()
  callbacksOf.set(signal, callbacks)
  if (callbacks.size === 0) signal.addEventListener('abort', runCallbacks)
  callbacks.add(callback)
  return () => {
    callbacks.delete(callback)
    if (callbacks.size === 0) signal.removeEventListener('abort', runCallbacks)
  }
}

/** The reason of an aborted signal. The signals of some platforms, such as React Native, have none. */
export function abortReason ({ reason }: AbortSignal): unknown {
  return reason ?? new Error('The request was aborted')
}
