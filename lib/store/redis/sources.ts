import { now } from '../../log/log.js'
import type { Mirror } from './mirror.js'
import type { Mirrors } from './mirrors.js'
import type { RedisState } from './record.js'

/** Has the sources of an attached session be what it reads, as far as it may be read yet. */
export function arrange (state: RedisState, { broadcasts, channels, point }: Mirrors): void {
  const { ranges: sources, startPosition: openedAt, log } = state
  sources.length = 0
  if (log === undefined) return
  const limit = state.held > 0 ? state.heldAt : Infinity
  const end = Math.min(state.endedAt, limit)
  const reads = new Set<Mirror<RedisState>>()
  sources.push({ log: broadcasts.log, from: openedAt, to: end }, { log, from: openedAt, to: limit })
  const time = now()
  for (const [name, from] of state.members) {
    const mirror = channels.get(name)
    if (mirror === undefined) continue
    reads.add(mirror)
    if (!mirror.loading) sources.push({ log: mirror.log, from, to: end })
  }
  state.left = state.left.filter(({ channel, from, to }) => {
    const mirror = channels.get(channel)
    if (mirror === undefined) return true
    const isWhole = !mirror.loading && to <= Math.max(point, mirror.loadedAt)
    mirror.log.expire(time)
    if (isWhole && mirror.log.nextPosition(from) > to) {
      // Nothing is left of what it had to read there. The own log keeps that there was something.
      const { trimmedPosition: trimmed, trimReason: trimmedBy } = mirror.log
      if (trimmed > from) log.markTrimmed(Math.min(trimmed, to), trimmedBy)
      else log.markTrimmed(to, 'age')
      return false
    }
    reads.add(mirror)
    if (!mirror.loading) sources.push({ log: mirror.log, from, to: Math.min(to, limit) })
    return true
  })
  letGo(state, reads)
  for (const mirror of reads) mirror.readers.add(state)
  state.reads = reads
}

/** A session has no stream here any more. */
export function dismiss (state: RedisState, mirrors: Mirrors): void {
  state.attached = 0
  state.log = undefined
  state.ranges.length = 0
  letGo(state)
  mirrors.own.delete(state.id)
}

/** Resolves when a session may read all that its sources have. */
export function whole (state: RedisState): Promise<void> {
  return state.held === 0 ? Promise.resolve() : new Promise(resolve => { state.freed.push(resolve) })
}

/**
 * Gives an attached session new sources, some channels or all, which may have to be loaded first. Until all that it reads
 * has come as far as these, it reads on where everything is complete: a cursor must not pass what is still to come.
 */
export async function widen (state: RedisState, mirrors: Mirrors, through: number | (() => Promise<number>), channels?: readonly string[]): Promise<void> {
  if (state.held++ === 0) {
    state.heldAt = mirrors.point
    arrange(state, mirrors)
  }
  const free = (): void => {
    if (--state.held > 0) return
    arrange(state, mirrors)
    state.listener?.onAppend()
    for (const proceed of state.freed.splice(0)) proceed()
  }
  try {
    const needed = typeof through === 'number' ? through : await through()
    const loadedAt = await mirrors.ensure(state, channels)
    // A stream that is only about to begin reads from far behind.
    if (channels === undefined) arrange(state, mirrors)
    mirrors.when(Math.max(needed, loadedAt), free)
  } catch (error) {
    free()
    throw error
  }
}

/** Lets go of the mirrors that a session reads, but for some. */
function letGo (state: RedisState, kept: ReadonlySet<Mirror<RedisState>> = new Set()): void {
  for (const mirror of state.reads) if (!kept.has(mirror)) mirror.readers.delete(state)
  state.reads = new Set()
}
