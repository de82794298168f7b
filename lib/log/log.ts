import { noop } from '../awaitable.js'
import { EntryTooLarge } from '../errors.js'
import { frameSuffix } from '../wire/frame.js'

/** Why a log lost entries: because of one of its bounds, or `store` if the store was restored to an earlier state. */
export type TrimReason = 'count' | 'bytes' | 'age' | 'store'

/** The bounds of a log. A log above any of them trims entries, the oldest first. */
export interface LogBounds {
  /** Maximum number of entries. */
  readonly entries: number
  /** Maximum size of all frames together, in bytes. */
  readonly bytes: number
  /** Maximum age of an entry, in milliseconds. */
  readonly age: number
}

/** What is appended to a log. */
export interface EntryInput {
  /** One event in the format of SSE, without its id. */
  readonly frame: string
  /** Ids of the sessions that do not receive this entry. */
  readonly except?: readonly string[] | undefined
  /** If set, this entry replaces the earlier entry of the log with the same key. A stream that has not written the earlier one skips it, and reports no gap. */
  readonly key?: string | undefined
}

type Attributes = Pick<EntryInput, 'except' | 'key'>

/** The listener of a log. The store calls it. */
export interface LogListener {
  /** Is called after each append to a log. */
  onAppend (): void
}

// The memory that an entry takes in addition to its text.
const ENTRY_OVERHEAD = 100
// The memory that the id of an excluded session takes.
const EXCLUDED_ID_BYTES = 50
// The memory that a key takes in addition to its text.
const KEY_OVERHEAD = 200

// A UTF-16 code unit takes at most three bytes in UTF-8.
const MAX_BYTES_PER_CHARACTER = 3

/** Throws {@link EntryTooLarge} if a log with these bounds could never keep the entry. */
export function assertFits ({ frame }: EntryInput, { bytes: maxBytes }: LogBounds): void {
  // Most frames are so short that they need not be measured.
  if (frame.length * MAX_BYTES_PER_CHARACTER <= maxBytes) return
  const bytes = Buffer.byteLength(frame)
  if (bytes > maxBytes) throw new EntryTooLarge(bytes, maxBytes)
}

/**
 * An ordered, bounded list of entries. An entry is a framed event with a position. Positions increase, but are not always
 * consecutive, because all logs of a store share one counter.
 */
export class Log {
  /** Position of the newest entry that was ever appended; 0 before the first one. */
  lastPosition = 0
  /** Position of the newest entry that was trimmed; 0 if none was. */
  trimmedPosition = 0
  /** Why that entry was trimmed. */
  trimReason: TrimReason = 'count'
  /** Size of all entries that were ever appended, in bytes. */
  appendedBytes = 0
  /** A store may replace them. They apply from the next append or {@link expire} on. */
  bounds: LogBounds
  /** Compressed streams compress entries together with earlier ones of the same scope, which is the name of a channel, or empty for broadcasts. `undefined`: they are not compressed. */
  compressionScope: string | undefined
  readonly listener: LogListener
  readonly #onResize: (log: Log) => void
  // Parallel arrays, because one object per entry would add work for the garbage collector.
  #positions: number[] = []
  #suffixes: string[] = []
  #sizes: number[] = []
  #times: number[] = []
  #attributesByPosition: Map<number, Attributes> | undefined
  /** About how much memory the attributes take, in bytes. */
  #attributesWeight = 0
  #positionByKey: Map<string, number> | undefined
  /** Index of the oldest entry. Those before it are trimmed, but stay in the arrays for a while, because removing the first element of an array moves all others. */
  #first = 0
  #bytes = 0

  /** `onResize` is called when `weight` may have changed. */
  constructor (bounds: LogBounds, listener: LogListener, onResize: (log: Log) => void = noop) {
    this.bounds = bounds
    this.listener = listener
    this.#onResize = onResize
  }

  /** Number of entries. */
  get length (): number {
    return this.end - this.#first
  }

  /** Size of all entries, in bytes. */
  get bytes (): number {
    return this.#bytes
  }

  /** About how much memory the entries take, in bytes. */
  get weight (): number {
    return this.#bytes + this.length * ENTRY_OVERHEAD + this.#attributesWeight
  }

  /** Index after the newest entry. */
  get end (): number {
    return this.#positions.length
  }

  /** Returns the position of the newest entry that the bounds `entries` and `bytes` may trim when an entry is appended; 0 if none. Overestimates the size of the frame, because measuring it costs more. */
  evictionPosition ({ frame }: EntryInput): number {
    let excess = this.#bytes + frame.length * MAX_BYTES_PER_CHARACTER - this.bounds.bytes
    let index = this.#first + (this.length < this.bounds.entries ? 0 : 1)
    if (index > this.#first) excess -= this.#sizes[this.#first] as number
    while (excess > 0 && index < this.end) excess -= this.#sizes[index++] as number
    return index === this.#first ? 0 : this.positionAt(index - 1)
  }

  /** Appends an entry, whose position must be higher than `lastPosition`. Removes the one that it replaces, and trims what exceeds the bounds. */
  push (input: EntryInput, position: number, appendedAt: number): void {
    this.#expire(appendedAt)
    this.#add(input, position, appendedAt)
    this.lastPosition = position
    this.#trimToBounds()
    this.#onResize(this)
  }

  /** Adds entries before the oldest one. */
  prepend (entries: ReadonlyArray<{ readonly input: EntryInput, readonly position: number, readonly appendedAt: number }>): void {
    const older = new Log(this.bounds, this.listener)
    for (const { input, position, appendedAt } of entries) older.#add(input, position, appendedAt)
    for (const [key, position] of older.#positionByKey ?? []) {
      // A newer entry has replaced it while the older ones were read.
      if (this.#positionByKey?.has(key) === true) older.#remove(older.#indexOf(position))
    }
    const concat = <T>(olderItems: readonly T[], items: readonly T[]): T[] => [...olderItems.slice(older.#first), ...items.slice(this.#first)]
    this.#positions = concat(older.#positions, this.#positions)
    this.#suffixes = concat(older.#suffixes, this.#suffixes)
    this.#sizes = concat(older.#sizes, this.#sizes)
    this.#times = concat(older.#times, this.#times)
    this.#attributesByPosition = new Map([...older.#attributesByPosition ?? [], ...this.#attributesByPosition ?? []])
    this.#attributesWeight += older.#attributesWeight
    this.#positionByKey = new Map([...older.#positionByKey ?? [], ...this.#positionByKey ?? []])
    this.#first = 0
    this.#bytes += older.#bytes
    this.#trimToBounds()
    this.#onResize(this)
  }

  /** Trims entries that are older than `bounds.age` at the given time. */
  expire (time: number): void {
    const { length } = this
    this.#expire(time)
    if (this.length < length) this.#onResize(this)
  }

  /** Trims the oldest entries until the others have at most so many bytes. */
  shrink (maxBytes: number): void {
    while (this.#bytes > maxBytes) this.#trim('bytes')
    this.#onResize(this)
  }

  /** Trims the oldest entry, because the memory is needed for something else. */
  dropOldest (): void {
    this.#trim('bytes')
    this.#onResize(this)
  }

  /** Returns the position of the first entry after a position; `Infinity` if there is none. */
  nextPosition (position: number): number {
    if (this.lastPosition <= position) return Infinity
    return this.#positions[this.indexAfter(position)] ?? Infinity
  }

  /** Returns the index of the first entry after a position. An index is valid until the log changes. */
  indexAfter (position: number): number {
    // Most readers are close to the newest entry, so the last entries are checked before the binary search.
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

  /** Returns the part of a framed entry after `id: <session id>.`. It is the same for every session, so it is framed once. */
  frameSuffixAt (index: number): string {
    return this.#suffixes[index] as string
  }

  /** Returns the frame of an entry, without an id. */
  frameAt (index: number): string {
    const suffix = this.frameSuffixAt(index)
    return suffix.slice(suffix.indexOf('\n') + 1)
  }

  /** Returns the frames of the newest entries after one position and up to another, the oldest first: at most `count`, without those that a session does not receive. */
  framesBetween (after: number, through: number, count: number, sessionId: string): string[] {
    const frames: string[] = []
    const first = this.indexAfter(after)
    for (let index = this.indexAfter(through) - 1; index >= first && frames.length < count; index--) {
      if (!this.isExcluded(this.positionAt(index), sessionId)) frames.push(this.frameAt(index))
    }
    return frames.reverse()
  }

  /** Whether a session does not receive the entry at a position. */
  isExcluded (position: number, sessionId: string): boolean {
    return this.#attributesByPosition?.get(position)?.except?.includes(sessionId) === true
  }

  /** Records that all entries up to a position are lost. A stream whose cursor is before the position reports a gap. */
  markTrimmed (position: number, reason: TrimReason): void {
    if (position <= this.trimmedPosition) return
    this.trimmedPosition = position
    this.lastPosition = Math.max(this.lastPosition, position)
    this.trimReason = reason
  }

  #add ({ frame, except, key }: EntryInput, position: number, appendedAt: number): void {
    const replaced = key === undefined ? undefined : this.#positionByKey?.get(key)
    if (replaced !== undefined) this.#remove(this.#indexOf(replaced))
    const suffix = frameSuffix(position, frame)
    // The suffix is measured, not the frame, because this also makes V8 flatten the string that streams write later.
    const bytes = Buffer.byteLength(suffix) - (suffix.length - frame.length)
    this.#positions.push(position)
    this.#suffixes.push(suffix)
    this.#sizes.push(bytes)
    this.#times.push(appendedAt)
    if (except !== undefined || key !== undefined) {
      const attributes = { except, key };
      (this.#attributesByPosition ??= new Map()).set(position, attributes)
      this.#attributesWeight += weighAttributes(attributes)
    }
    if (key !== undefined) (this.#positionByKey ??= new Map()).set(key, position)
    this.#bytes += bytes
    this.appendedBytes += bytes
  }

  #trimToBounds (): void {
    while (this.length > this.bounds.entries) this.#trim('count')
    while (this.#bytes > this.bounds.bytes) this.#trim('bytes')
  }

  #expire (time: number): void {
    while (this.#first < this.end && time - (this.#times[this.#first] as number) > this.bounds.age) this.#trim('age')
  }

  #trim (reason: TrimReason): void {
    const oldest = this.positionAt(this.#first)
    this.#remove(this.#first)
    this.markTrimmed(oldest, reason)
  }

  /** Returns the index of the entry at a position. */
  #indexOf (position: number): number {
    return this.indexAfter(position) - 1
  }

  /** Removes an entry, and records no loss. */
  #remove (index: number): void {
    this.#removeAttributes(this.positionAt(index))
    this.#bytes -= this.#sizes[index] as number
    if (index > this.#first) {
      for (const items of [this.#positions, this.#suffixes, this.#sizes, this.#times]) items.splice(index, 1)
      return
    }
    this.#suffixes[this.#first++] = ''
    // Copies the arrays only when at least half of them is removed, so that each entry costs a constant amount of work.
    if (this.#first >= 32 && this.#first * 2 >= this.end) {
      this.#positions = this.#positions.slice(this.#first)
      this.#suffixes = this.#suffixes.slice(this.#first)
      this.#sizes = this.#sizes.slice(this.#first)
      this.#times = this.#times.slice(this.#first)
      this.#first = 0
    }
  }

  #removeAttributes (position: number): void {
    const attributes = this.#attributesByPosition?.get(position)
    if (attributes === undefined) return
    this.#attributesByPosition?.delete(position)
    this.#attributesWeight -= weighAttributes(attributes)
    if (attributes.key !== undefined) this.#positionByKey?.delete(attributes.key)
  }
}

function weighAttributes ({ except = [], key }: Attributes): number {
  return except.length * EXCLUDED_ID_BYTES + (key === undefined ? 0 : KEY_OVERHEAD + key.length)
}
