import type { LogBounds, TrimReason } from '../../lib/log/log.js'

export interface ReferenceEntry {
  readonly position: number
  readonly bytes: number
  readonly appendedAt: number
  readonly key?: string | undefined
}

/** A simple and slow model of what a log keeps and trims. Tests compare the real log with it. */
export class ReferenceLog<Entry extends ReferenceEntry = ReferenceEntry> {
  readonly kept: Entry[] = []
  /** Entries that were replaced, each with the one that has replaced it. */
  readonly replaced = new Map<Entry, Entry>()
  readonly trimmed: Array<{ entry: Entry, reason: TrimReason }> = []
  readonly #bounds: LogBounds

  constructor (bounds: LogBounds) {
    this.#bounds = bounds
  }

  get bytes (): number {
    return this.kept.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  append (entry: Entry): void {
    this.expire(entry.appendedAt)
    const index = this.kept.findIndex(({ key }) => key !== undefined && key === entry.key)
    if (index !== -1) for (const replaced of this.kept.splice(index, 1)) this.replaced.set(replaced, entry)
    this.kept.push(entry)
    while (this.kept.length > this.#bounds.entries) this.#trimOldest('count')
    while (this.bytes > this.#bounds.bytes) this.#trimOldest('bytes')
  }

  expire (time: number): void {
    while (this.kept.some(entry => time - entry.appendedAt > this.#bounds.age)) this.#trimOldest('age')
  }

  #trimOldest (reason: TrimReason): void {
    for (const entry of this.kept.splice(0, 1)) this.trimmed.push({ entry, reason })
  }
}
