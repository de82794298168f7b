import { EntryTooLarge } from '../errors.js'
import { frameRest } from '../wire/frame.js'

/** Why entries left a log before every reader had them. `store` is a store that went back to an earlier state. */
export type TrimReason = 'count' | 'bytes' | 'age' | 'store'

/** How much a log keeps. What is over any of the three bounds goes, oldest first. */
export interface LogBounds {
  /** Entries kept at most. */
  readonly entries: number
  /** Bytes of framed entries kept at most. */
  readonly bytes: number
  /** Milliseconds for which an entry is kept at most. */
  readonly age: number
}

/** What is appended: one framed event, without its id. */
export interface Draft {
  readonly frame: string
  /** The one reader that does not get this entry. */
  readonly except?: string | undefined
}

/** A part of a log: from after one position up to and including another. */
export interface Source {
  readonly log: Log
  readonly from: number
  to: number
}

/** Told when a log has grown. */
export interface LogListener {
  wake (): void
}

/** The time that ages are measured by, in milliseconds; it never goes back. */
export const now = (): number => performance.now()

/** Throws {@link EntryTooLarge} for a draft that a log of such bounds could not keep at all. */
export function demandRoom ({ frame }: Draft, { bytes: most }: LogBounds): void {
  // A character takes three bytes at most: most frames need not be measured.
  if (frame.length * 3 <= most) return
  const bytes = Buffer.byteLength(frame)
  if (bytes > most) throw new EntryTooLarge(bytes, most)
}

/** An ordered, bounded record of what was sent down. */
export class Log {
  /** Position of the newest entry that the log ever had; 0 before the first. */
  last = 0
  /** Position of the newest entry that was trimmed; 0 while none was. */
  trimmed = 0
  trimmedBy: TrimReason = 'count'
  readonly bounds: LogBounds
  readonly listener: LogListener
  // Of each entry: an object for each would be one more for the garbage collector to move and to mark. Those before
  // #first are gone: dropping them one by one from the arrays' start would move all others each time.
  #positions: number[] = []
  #rests: string[] = []
  #sizes: number[] = []
  #times: number[] = []
  /** By position, those who do not get an entry. */
  #excepts: Map<number, string> | undefined
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

  /** Index behind the newest entry. */
  get end (): number {
    return this.#positions.length
  }

  /** Position of the newest entry that a draft will push out; 0 where there is room. */
  pushedOutBy ({ frame }: Draft): number {
    // At most: a character takes three bytes.
    let over = this.#bytes + frame.length * 3 - this.bounds.bytes
    let index = this.#first + (this.length < this.bounds.entries ? 0 : 1)
    if (index > this.#first) over -= this.#sizes[this.#first] as number
    while (over > 0 && index < this.end) over -= this.#sizes[index++] as number
    return index === this.#first ? 0 : this.positionAt(index - 1)
  }

  /** Adds an entry, whose position must be above `last`, and trims what is over the bounds. */
  push ({ frame, except }: Draft, position: number, appendedAt: number): void {
    this.expire(appendedAt)
    const rest = frameRest(position, frame)
    // Of the whole and not of the frame, though the id does not count: what is measured is one string from then on, not many.
    const bytes = Buffer.byteLength(rest) - (rest.length - frame.length)
    this.#positions.push(position)
    this.#rests.push(rest)
    this.#sizes.push(bytes)
    this.#times.push(appendedAt)
    if (except !== undefined) (this.#excepts ??= new Map()).set(position, except)
    this.#bytes += bytes
    this.last = position
    while (this.length > this.bounds.entries) this.#trim('count')
    while (this.#bytes > this.bounds.bytes) this.#trim('bytes')
  }

  /** Trims what is too old at the given time. */
  expire (time: number): void {
    while (this.#first < this.end && time - (this.#times[this.#first] as number) > this.bounds.age) this.#trim('age')
  }

  /** Position of the first entry after a position; Infinity where there is none. */
  next (position: number): number {
    if (this.last <= position) return Infinity
    return this.#positions[this.indexAfter(position)] ?? Infinity
  }

  /** Index of the first entry after a position; valid until the log next changes. */
  indexAfter (position: number): number {
    // Readers are at the newest entries nearly always: look backwards from there before halving.
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

  /** Whether what it has after a position takes half of what it may keep. */
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

  /** What follows `id: <session>.`: the same for every reader, so that it is framed once. */
  restAt (index: number): string {
    return this.#rests[index] as string
  }

  /** The one reader that does not get the entry at a position. */
  exceptedFrom (position: number): string | undefined {
    return this.#excepts?.get(position)
  }

  /** Records a loss up to a position: a reader that has not come that far is told so, as if entries had been trimmed. */
  forget (position: number, reason: TrimReason): void {
    if (position <= this.trimmed) return
    this.trimmed = position
    this.last = Math.max(this.last, position)
    this.trimmedBy = reason
  }

  #trim (reason: TrimReason): void {
    const oldest = this.positionAt(this.#first)
    this.#bytes -= this.#sizes[this.#first] as number
    this.#rests[this.#first++] = ''
    this.#excepts?.delete(oldest)
    this.forget(oldest, reason)
    if (this.#first >= 32 && this.#first * 2 >= this.end) {
      this.#positions = this.#positions.slice(this.#first)
      this.#rests = this.#rests.slice(this.#first)
      this.#sizes = this.#sizes.slice(this.#first)
      this.#times = this.#times.slice(this.#first)
      this.#first = 0
    }
  }
}
