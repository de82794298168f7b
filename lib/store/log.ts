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

export interface Entry {
  readonly position: number
  /** What follows `id: <session>.`: the same for every reader, so that it is framed once. */
  readonly rest: string
  readonly except: string | undefined
  readonly bytes: number
  readonly appendedAt: number
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

/** An ordered, bounded record of what was sent down. */
export class Log {
  /** Position of the newest entry that the log ever had; 0 before the first. */
  last = 0
  /** Position of the newest entry that was trimmed; 0 while none was. */
  trimmed = 0
  trimmedBy: TrimReason = 'count'
  readonly bounds: LogBounds
  readonly listener: LogListener
  // Entries before #first are gone: dropping them one by one from the array's start would move all others each time.
  #entries: Array<Entry | undefined> = []
  #first = 0
  #bytes = 0

  constructor (bounds: LogBounds, listener: LogListener) {
    this.bounds = bounds
    this.listener = listener
  }

  get length (): number {
    return this.#entries.length - this.#first
  }

  get bytes (): number {
    return this.#bytes
  }

  /** Throws {@link EntryTooLarge} for a draft that could not be kept at all; returns its size. */
  measure (draft: Draft): number {
    const bytes = Buffer.byteLength(draft.frame)
    if (bytes > this.bounds.bytes) throw new EntryTooLarge(bytes, this.bounds.bytes)
    return bytes
  }

  /** Adds an entry, whose position must be above `last`, and trims what is over the bounds. */
  push (draft: Draft, position: number, bytes: number, appendedAt: number): void {
    this.expire(appendedAt)
    this.#entries.push({ position, rest: frameRest(position, draft.frame), except: draft.except, bytes, appendedAt })
    this.#bytes += bytes
    this.last = position
    while (this.length > this.bounds.entries) this.#trim('count')
    while (this.#bytes > this.bounds.bytes) this.#trim('bytes')
  }

  /** Trims what is too old at the given time. */
  expire (time: number): void {
    for (let oldest = this.#entries[this.#first]; oldest !== undefined; oldest = this.#entries[this.#first]) {
      if (time - oldest.appendedAt <= this.bounds.age) return
      this.#trim('age')
    }
  }

  /** Index of the first entry after a position, for {@link at}; valid until the log next changes. */
  indexAfter (position: number): number {
    // Readers are at the newest entries nearly always: look backwards from there before halving.
    let high = this.#entries.length
    for (let step = 0; step < 8 && high > this.#first; step++, high--) {
      if (this.#position(high - 1) <= position) return high
    }
    let low = this.#first
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#position(middle) <= position) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Whether what it has after a position takes half of what it may keep. */
  isHalfFullAfter (position: number): boolean {
    let count = 0
    let bytes = 0
    for (let index = this.indexAfter(position); index < this.#entries.length; index++) {
      count++
      bytes += (this.#entries[index] as Entry).bytes
      if (count * 2 >= this.bounds.entries || bytes * 2 >= this.bounds.bytes) return true
    }
    return false
  }

  at (index: number): Entry | undefined {
    return this.#entries[index]
  }

  /** Records a loss up to a position: a reader that has not come that far is told so, as if entries had been trimmed. */
  forget (position: number, reason: TrimReason): void {
    if (position <= this.trimmed) return
    this.trimmed = position
    this.last = Math.max(this.last, position)
    this.trimmedBy = reason
  }

  #position (index: number): number {
    return (this.#entries[index] as Entry).position
  }

  #trim (reason: TrimReason): void {
    const oldest = this.#entries[this.#first] as Entry
    this.#entries[this.#first++] = undefined
    this.#bytes -= oldest.bytes
    this.forget(oldest.position, reason)
    if (this.#first >= 32 && this.#first * 2 >= this.#entries.length) {
      this.#entries = this.#entries.slice(this.#first)
      this.#first = 0
    }
  }
}
