/** Calls a function when the signal aborts. Returns a function that cancels this. */
export type OnAbort = (signal: AbortSignal, callback: () => void) => () => void

export const onAbort: OnAbort = (signal, callback) => {
  signal.addEventListener('abort', callback)
  return () => { signal.removeEventListener('abort', callback) }
}

/** The reason of an aborted signal. The signals of some platforms, such as React Native, have none. */
export function abortReason ({ reason }: AbortSignal): unknown {
  return reason ?? new Error('The request was aborted')
}
