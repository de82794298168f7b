/** The id of the last event that a tab has received, and the next entry of a log, if the tab has read from that log. */
export interface LogPosition {
  readonly cursor: string
  readonly logId?: string
  readonly sequence?: number
}

/** A block of the stream. */
export interface Entry {
  /** The id of the last event up to this block. */
  readonly cursorAfter: string
  readonly text: string
  /** Only the tab with this id gets `text`, because one tab must answer. The others get `otherText`. */
  readonly ownerId?: string
  readonly otherText?: string
  /** The last position whose event is missing. Set if this is a `gap` event. */
  readonly gapEnd?: number
}

// Maximum number of characters in a log. One entry may have any size.
const MAX_LOG_SIZE = 2 ** 20

/** Returns the part of an event id before its position. */
export const parseSessionId = (id: string): string => id.slice(0, Math.max(0, id.lastIndexOf('.')))
/** Returns the position in an event id. */
export const parsePosition = (id: string): number => id === 'closed' ? Infinity : parseInt(id.slice(id.lastIndexOf('.') + 1), 36)
/** Whether the first of two event ids of one session has the higher position. */
export const isAfter = (id: string, other: string): boolean => parseSessionId(id) === parseSessionId(other) && parsePosition(id) > parsePosition(other)

/** The latest blocks of the stream of one session, from which tabs read at their own pace. */
export class Log {
  readonly logId = crypto.randomUUID()
  /** The id after which the entries start. */
  start: string
  readonly #entries: Entry[] = []
  /** Number of entries that were removed. */
  #removed = 0
  /** The last position that a removed `gap` event reports as missing. */
  #removedGapEnd = 0
  #size = 0
  readonly #maxSize: number

  constructor (start: string, maxSize = MAX_LOG_SIZE) {
    this.start = start
    this.#maxSize = maxSize
  }

  /** The id of the last event. */
  get end (): string {
    return this.#entries.at(-1)?.cursorAfter ?? this.start
  }

  get endPosition (): LogPosition {
    return { cursor: this.end, logId: this.logId, sequence: this.#removed + this.#entries.length }
  }

  /** Adds an entry. Call `trim` when the tabs have had the time to read it. */
  push (entry: Entry): void {
    this.#entries.push(entry)
    this.#size += entry.text.length
  }

  /** Removes the oldest entries if the log is too large. */
  trim (): void {
    while (this.#size > this.#maxSize && this.#entries.length > 1) {
      const { cursorAfter, text, gapEnd = 0 } = this.#entries.shift() as Entry
      this.start = cursorAfter
      this.#removed++
      this.#removedGapEnd = Math.max(this.#removedGapEnd, gapEnd)
      this.#size -= text.length
    }
  }

  isSameSession (cursor: string): boolean {
    return cursor !== '' && parseSessionId(cursor) === parseSessionId(this.start)
  }

  /** Whether a position is in the session of the log, and the log no longer contains all blocks after it. */
  isBehindLog (position: LogPosition): boolean {
    return this.isSameSession(position.cursor) && this.#findIndex(position) === undefined
  }

  /** Returns the entries after a position; `undefined` if there are none yet, or if the log does not contain all of them. */
  read (position: LogPosition): { entries: Entry[], position: LogPosition } | undefined {
    const index = this.isSameSession(position.cursor) ? this.#findIndex(position) : undefined
    if (index === undefined || index === this.#entries.length) return undefined
    // A tab with a cursor from another log also needs a `gap` event before the cursor if the gap ends after the cursor.
    const gaps = position.logId === this.logId ? [] : this.#entries.slice(0, index).filter(({ gapEnd = 0 }) => gapEnd > parsePosition(position.cursor))
    return {
      // Without its id, which would move the tab's cursor back.
      entries: [...gaps.map(({ text, ...entry }) => ({ ...entry, text: text.replace(/^id: .*\n/, '') })), ...this.#entries.slice(index)],
      position: this.endPosition
    }
  }

  /** Finds the first entry after a position in this session. */
  #findIndex ({ cursor, logId, sequence }: LogPosition): number | undefined {
    if (logId === this.logId && sequence !== undefined && sequence >= this.#removed) return sequence - this.#removed
    if (parsePosition(cursor) < Math.max(parsePosition(this.start), this.#removedGapEnd)) return undefined
    // A tab with the cursor at the start may not have received the blocks that follow with the same id. After a rollback of the store,
    // ids occur twice, and a tab has most likely received the latest event.
    const isKnown = ({ cursorAfter }: Entry): boolean => cursor !== this.start && cursorAfter === cursor
    const known = this.#entries.findLastIndex(isKnown)
    if (known !== -1) return known + 1
    // The event at the cursor can be absent, because the server has replaced it by a later one.
    const next = this.#entries.findIndex(({ cursorAfter }) => cursor === this.start || parsePosition(cursorAfter) > parsePosition(cursor))
    return next === -1 ? this.#entries.length : next
  }
}
