import type { Log } from './log.js'

/** The part of a log that a stream reads: the entries after position `from`, up to and including position `to`. */
export interface LogRange {
  readonly log: Log
  readonly from: number
  /** `Infinity` while the session receives new entries; a fixed position after it has left the channel or was closed. */
  to: number
}

/** Returns the position of the first entry of a range after a cursor; `Infinity` if there is none. */
export function nextPositionIn ({ log, from, to }: LogRange, cursor: number): number {
  const position = log.nextPosition(Math.max(cursor, from))
  return position <= to ? position : Infinity
}
