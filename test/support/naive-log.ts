import type { LogBounds, TrimReason } from '../../lib/log/log.js'

export interface NaiveEntry {
  readonly position: number
  readonly bytes: number
  readonly appendedAt: number
}

/** A simple and slow model of what a log keeps and trims. Tests compare the real log with it. */
export class NaiveLog<Entry extends NaiveEntry = NaiveEntry> {
  readonly kept: Entry[] = []
  readonly lost: Array<{ entry: Entry, reason: TrimReason }> = []
  readonly #bounds: LogBounds

  constructor (bounds: LogBounds) {
    this.#bounds = bounds
  }

  get bytes (): number {
    return this.kept.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  push (entry: Entry): void {
    this.expire(entry.appendedAt)
    this.kept.push(entry)
    while (this.kept.length > this.#bounds.entries) this.#lose('count')
    while (this.bytes > this.#bounds.bytes) this.#lose('bytes')
  }

  expire (time: number): void {
    while (this.kept.some(entry => time - entry.appendedAt > this.#bounds.age)) this.#lose('age')
  }

  #lose (reason: TrimReason): void {
    for (const entry of this.kept.splice(0, 1)) this.lost.push({ entry, reason })
  }
}
