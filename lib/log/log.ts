import { EntryTooLarge } from '../errors.js'
import { frameSuffix } from '../wire/frame.js'

/** Why a log lost entries: one of its bounds, or `store`, a store that was restored to an earlier state. */
export type TrimReason = 'count' | 'bytes' | 'age' | 'store'

/** How much a log keeps. Above any of the three bounds it drops its oldest entries. */
export interface LogBounds {
  /** Maximum number of entries. */
  readonly entries: number
  /** Maximum size of all framed entries, in bytes. */
  readonly bytes: number
  /** Maximum age of an entry, in milliseconds. */
  readonly age: number
}

/** What is appended to a log: one framed event without its id. */
export interface EntryInput {
  readonly frame: string
  /** Id of the one session that does not receive this entry. */
  readonly except?: string | undefined
}

/** Is called after each append to a log. */
export interface LogListener {
  onAppend (): void
}

/** The clock for ages and deadlines, in milliseconds. It never runs backwards. */
export const now = (): number => performance.now()

const MAX_BYTES_PER_CHARACTER = 3

/** Throws {@link EntryTooLarge} if a log with these bounds could never keep the entry. */
export function assertFits ({ frame }: EntryInput, { bytes: maxBytes }: LogBounds): void {
  // A UTF-16 code unit takes at most three bytes in UTF-8, so most frames need not be measured.
  if (frame.length * MAX_BYTES_PER_CHARACTER <= maxBytes) return
  const bytes = Buffer.byteLength(frame)
  if (bytes > maxBytes) throw new EntryTooLarge(bytes, maxBytes)
}

/**
 * An ordered, bounded list of framed events. Each entry has a position; positions increase, but need not be consecutive,
 * because all logs of a store share one counter.
 */
export class Log {
  /** Position of the newest entry that was ever appended; 0 before the first one. */
  lastPosition = 0
  /** Position of the newest entry that was trimmed; 0 if none was. */
  trimmedPosition = 0
  trimReason: TrimReason = 'count'
  readonly bounds: LogBounds
  readonly listener: LogListener
  // Parallel arrays, because one object per entry would add work for the garbage collector. Entries before #first are
  // trimmed; removing them one by one from the start of the arrays would move all others each time.
  #positions: number[] = []
  #suffixes: string[] = []
  #sizes: number[] = []
  #times: number[] = []
  /** Position of an entry → id of the session that does not receive it. */
  #excluded: Map<number, string> | undefined
  #first = 0
  #bytes = 0

  constructor (bounds: LogBounds, listener: LogListener) {
    this.bounds = bounds
    this.listener = listener
  }

  get length (): number {
    return this.end - this.#first
  }

  get bytes (): number {
    return this.#bytes
  }

  /** Index after the newest entry. */
  get end (): number {
    return this.#positions.length
  }

  /** Position of the newest entry that appending this one may trim; 0 if none. Overestimates the size of the frame, which is cheaper than measuring it. */
  evictionPosition ({ frame }: EntryInput): number {
    let excess = this.#bytes + frame.length * MAX_BYTES_PER_CHARACTER - this.bounds.bytes
    let index = this.#first + (this.length < this.bounds.entries ? 0 : 1)
    if (index > this.#first) excess -= this.#sizes[this.#first] as number
    while (excess > 0 && index < this.end) excess -= this.#sizes[index++] as number
    return index === this.#first ? 0 : this.positionAt(index - 1)
  }

  /** Appends an entry, whose position must be above `lastPosition`, and trims what exceeds the bounds. */
  push ({ frame, except }: EntryInput, position: number, appendedAt: number): void {
    this.expire(appendedAt)
    const suffix = frameSuffix(position, frame)
    // Measuring the suffix, not the frame, also makes the engine flatten the string that streams write later.
    const bytes = Buffer.byteLength(suffix) - (suffix.length - frame.length)
    this.#positions.push(position)
    this.#suffixes.push(suffix)
    this.#sizes.push(bytes)
    this.#times.push(appendedAt)
    if (except !== undefined) (this.#excluded ??= new Map()).set(position, except)
    this.#bytes += bytes
    this.lastPosition = position
    while (this.length > this.bounds.entries) this.#trim('count')
    while (this.#bytes > this.bounds.bytes) this.#trim('bytes')
  }

  /** Trims entries that are older than `bounds.age` at the given time. */
  expire (time: number): void {
    while (this.#first < this.end && time - (this.#times[this.#first] as number) > this.bounds.age) this.#trim('age')
  }

  /** Position of the first entry after a position; `Infinity` if there is none. */
  nextPosition (position: number): number {
    if (this.lastPosition <= position) return Infinity
    return this.#positions[this.indexAfter(position)] ?? Infinity
  }

  /** Index of the first entry after a position; valid until the log changes. */
  indexAfter (position: number): number {
    // Most readers are near the newest entry, so try the last few entries before the binary search.
    let high = this.end
    for (let step = 0; step < 8 && high > this.#first; step++, high--) {
      if (this.positionAt(high - 1) <= position) return high
    }
    let low = this.#first
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.positionAt(middle) <= position) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Whether the entries after a position fill at least half of the log's bounds. */
  isHalfFullAfter (position: number): boolean {
    let count = 0
    let bytes = 0
    for (let index = this.indexAfter(position); index < this.end; index++) {
      count++
      bytes += this.#sizes[index] as number
      if (count * 2 >= this.bounds.entries || bytes * 2 >= this.bounds.bytes) return true
    }
    return false
  }

  positionAt (index: number): number {
    return this.#positions[index] as number
  }

  /** The part of a framed entry after `id: <session id>.`. It is the same for every session, so it is framed once. */
  frameSuffixAt (index: number): string {
    return this.#suffixes[index] as string
  }

  /** Id of the session that does not receive the entry at a position, if there is one. */
  excludedAt (position: number): string | undefined {
    return this.#excluded?.get(position)
  }

  /** Records that entries up to a position are lost. A reader whose cursor is before it reports a gap, as after trimming. */
  markTrimmed (position: number, reason: TrimReason): void {
    if (position <= this.trimmedPosition) return
    this.trimmedPosition = position
    this.lastPosition = Math.max(this.lastPosition, position)
    this.trimReason = reason
  }

  #trim (reason: TrimReason): void {
    const oldest = this.positionAt(this.#first)
    this.#bytes -= this.#sizes[this.#first] as number
    this.#suffixes[this.#first++] = ''
    this.#excluded?.delete(oldest)
    this.markTrimmed(oldest, reason)
    if (this.#first >= 32 && this.#first * 2 >= this.end) {
      this.#positions = this.#positions.slice(this.#first)
      this.#suffixes = this.#suffixes.slice(this.#first)
      this.#sizes = this.#sizes.slice(this.#first)
      this.#times = this.#times.slice(this.#first)
      this.#first = 0
    }
  }
}
