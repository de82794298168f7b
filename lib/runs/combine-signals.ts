import { setMaxListeners } from 'node:events'

/** Returns a controller that aborts when one of the signals does, with the same reason, until `release` is called. */
export function combineSignals (signals: ReadonlyArray<AbortSignal | undefined>): { controller: AbortController, release: () => void } {
  // Not with `AbortSignal.any`, which leaks memory in some versions of Node if one of the signals lives long.
  const controller = new AbortController()
  setMaxListeners(0, controller.signal)
  const sources = signals.filter(signal => signal !== undefined)
  const onAbort = (): void => { controller.abort(sources.find(({ aborted }) => aborted)?.reason) }
  for (const source of sources) source.addEventListener('abort', onAbort)
  if (sources.some(({ aborted }) => aborted)) onAbort()
  return { controller, release: () => { for (const source of sources) source.removeEventListener('abort', onAbort) } }
}
