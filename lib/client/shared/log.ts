/** What a tab has received: the id of its last event, and its place in the log of the leader, if the tab has read from that log. */
export interface Position {
  readonly cursor: string
  readonly logId?: string
  readonly index?: number
}

/** A block of the stream in the log of the leader. `id` is that of the last event up to this one. */
export interface Entry {
  readonly id: string
  readonly text: string
  /** Only the tab `owner` gets `text`, because one tab must answer; the others get `otherText`. */
  readonly owner?: string | undefined
  readonly otherText?: string
  /** Set if this is a `gap` event. */
  readonly resumedAt?: number
}

// Maximum number of characters in the log of the leader. One entry may have any size.
const MAX_LOG_SIZE = 2 ** 20

/** Returns the part of an event id before its position. */
export const sessionOf = (id: string): string => id.slice(0, id.lastIndexOf('.'))
/** Returns the position in an event id. */
export const positionOf = (id: string): number => id === 'closed' ? Infinity : parseInt(id.slice(id.lastIndexOf('.') + 1), 36)

/** The latest blocks of the stream, from which tabs read at their own pace. */
export class Log {
  readonly logId = crypto.randomUUID()
  /** The id after which the entries start. */
  start: string
  readonly #entries: Entry[] = []
  /** Number of entries that were removed. */
  #removed = 0
  #size = 0
  readonly #maxSize: number

  constructor (start: string, maxSize = MAX_LOG_SIZE) {
    this.start = start
    this.#maxSize = maxSize
  }

  get end (): string {
    return this.#entries.at(-1)?.id ?? this.start
  }

  push (entry: Entry): void {
    this.#entries.push(entry)
    this.#size += entry.text.length
    while (this.#size > this.#maxSize && this.#entries.length > 1) {
      const { id, text } = this.#entries.shift() as Entry
      this.start = id
      this.#removed++
      this.#size -= text.length
    }
  }

  isSameSession (cursor: string): boolean {
    return cursor !== '' && sessionOf(cursor) === sessionOf(this.start)
  }

  /** The index of the next entry; `undefined` if the log no longer has it, or is of another session. */
  find ({ cursor, logId, index }: Position): number | undefined {
    if (logId === this.logId && index !== undefined && index >= this.#removed) return index - this.#removed
    if (!this.isSameSession(cursor)) return undefined
    // Blocks that follow with the same id may be new to the tab.
    if (cursor === this.start) return 0
    const first = this.#entries.findIndex(({ id }) => id === cursor)
    if (first !== -1) return first + 1
    if (positionOf(cursor) < positionOf(this.start)) return undefined
    // The server may send other events than before, because a later event replaces an earlier one.
    const next = this.#entries.findIndex(({ id }) => positionOf(id) > positionOf(cursor))
    return next === -1 ? this.#entries.length : next
  }

  /** Returns what follows a position; `undefined` if there is nothing yet. */
  read (tab: string, position: Position): { text: string, position: Position } | undefined {
    const index = this.find(position)
    if (index === undefined || index >= this.#entries.length) return undefined
    // Another stream can report, before the cursor, that events after the cursor are missing.
    const gaps = position.logId === this.logId ? [] : this.#entries.slice(0, index).filter(({ resumedAt = 0 }) => resumedAt > positionOf(position.cursor))
    const texts = this.#entries.slice(index).map(({ text, owner = tab, otherText }) => owner === tab ? text : otherText)
    return {
      text: [...gaps.map(({ text }) => text.replace(/^id: .*\n/, '')), ...texts].join(''),
      position: { cursor: this.end, logId: this.logId, index: this.#removed + this.#entries.length }
    }
  }
}
