import { assertOptions } from '../assert-options.js'
import { RunInvalid, RunUnknown, StoreUnavailable } from '../errors.js'
import type { TrimReason } from '../log/log.js'
import type { RunListener, RunState } from '../store/run-state.js'
import type { RunStore } from '../store/run-store.js'
import { splitFrame, type Gap } from '../wire/frame.js'

/** Options of `session.follow`. */
export interface FollowOptions {
  /** Where to start: `start`, the beginning of the run; `now`, what is added from now on; or after the event with a position, as in a `part` event. Default: `start`. */
  readonly from?: 'start' | 'now' | number | undefined
}

/** Returns the position after which a reader starts; `Infinity` for the newest one. Throws FST_SSE_RUN_INVALID. */
export function resolveStart (run: RunState, options: FollowOptions): number {
  assertOptions(options, ['from'], 'follow', RunInvalid)
  const { from = 'start' } = options
  if (from === 'now') return Infinity
  if (from === 'start') return run.startPosition
  if (!Number.isSafeInteger(from) || from < 0) throw new RunInvalid(`Option "from" must be "start", "now" or the position of a part; it is ${String(from)}`)
  return Math.max(from, run.startPosition)
}

/**
 * Reads the events of a run after a position, up to the end of the run. Each item is the properties of a `part` event as JSON, without the
 * braces. Ends when the signal aborts.
 */
export async function * readParts (run: RunState, store: RunStore, start: number, signal: AbortSignal): AsyncGenerator<string, void, undefined> {
  let isUnavailable = false
  let wake: (() => void) | undefined
  const onChange = (): void => { wake?.() }
  const listener: RunListener = {
    onAppend: onChange,
    onEnd: onChange,
    onAbort: () => {
      isUnavailable = true
      onChange()
    }
  }
  const source = await store.follow(run, start, listener)
  if (source === undefined) throw new RunUnknown()
  const { log } = source
  let { cursor } = source
  signal.addEventListener('abort', onChange)
  try {
    // The store has lost positions that the client has received.
    if (start > cursor && start !== Infinity) yield formatGap({ after: start, resumedAt: cursor, reason: 'store' })
    while (!signal.aborted) {
      if (isUnavailable) throw new StoreUnavailable()
      if (run.canWrite) {
        const { trimmedPosition } = log
        if (trimmedPosition > cursor) {
          const gap: Gap = { after: cursor, resumedAt: trimmedPosition, reason: log.trimReason as TrimReason }
          cursor = trimmedPosition
          yield formatGap(gap)
          continue
        }
        const index = log.indexAfter(cursor)
        if (index < log.end) {
          cursor = log.positionAt(index)
          yield formatEvent(cursor, log.frameAt(index), run.isText)
          continue
        }
        if (run.outcome !== undefined) return
      }
      await new Promise<void>(resolve => { wake = resolve })
    }
  } finally {
    signal.removeEventListener('abort', onChange)
    store.unfollow(run, listener)
  }
}

function formatGap (gap: Gap): string {
  return `"position":${gap.resumedAt},"gap":${JSON.stringify(gap)}`
}

function formatEvent (position: number, frame: string, isText: boolean): string {
  const { event, data } = splitFrame(frame)
  const name = event === undefined ? '' : `"event":${JSON.stringify(event)},`
  return `"position":${position},${name}"data":${isText ? JSON.stringify(data) : data}`
}
