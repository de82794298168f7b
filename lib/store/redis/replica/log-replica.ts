import { now } from '../../../clock.js'
import { Log, type EntryInput, type LogBounds, type LogListener, type TrimReason } from '../../../log/log.js'

/** The log of a session, of a channel, of broadcasts, or of a run. */
export type LogKind = 'session' | 'channel' | 'broadcasts' | 'run'

/** An entry as it is published. */
export interface PublishedEntry {
  /** The position of the entry before it in the same log. */
  readonly previous: number
  readonly position: number
  readonly except: readonly string[] | undefined
  readonly key: string | undefined
  readonly frame: string
}

/** Part of a log, as Redis returns it. `last`: the newest position. `trimmed`: the position up to which the log is trimmed. `record`: that of a run, or of a session if it has changed; for a channel, how long its entries are kept. */
export type LogPart = readonly [
  last: string,
  trimmed: string,
  trimReason: TrimReason,
  entries: ReadonlyArray<readonly [id: string, fields: readonly string[]]>,
  hasMore: number | string,
  record?: readonly string[]
]

/** A session or a run that reads logs. */
export interface LogReader {
  /** How many of the logs that it reads are not complete. */
  incompleteLogCount: number
  /** Increases each time that a log for which it waits becomes complete. */
  completedLogCount: number
  onAppend (): void
}

interface TimedEntry {
  readonly input: EntryInput
  readonly position: number
  readonly appendedAt: number
}

/**
 * The copy of a log in Redis, for the streams of this process. A replica is *live* if everything after its newest entry arrives as
 * publications. Otherwise, the loader has to read the rest.
 */
export class LogReplica {
  readonly kind: LogKind
  /** The name of the channel, or the id of the session or run. */
  readonly name: string
  readonly log: Log
  /** The sessions with a stream in this process that read the log; for the log of a run, the run. */
  readonly readers = new Set<LogReader>()
  /** The readers that wait until the log contains every entry after their position. */
  readonly waitingReaders = new Map<LogReader, number>()
  isLive = false
  /** The log contains every entry after this position that was not trimmed. `Infinity` before the first read. */
  completeFrom = Infinity
  /** The lowest position after which a reader needs the entries. */
  neededFrom = Infinity
  /**
   * The position of the newest entry without a key that was received; 0 if there is none. If Redis has neither this entry nor a later
   * trimmed position, Redis has lost data. For an entry with a key, this would not be true: a later one may have replaced it.
   */
  newestEntryPosition = 0
  #older: TimedEntry[] = []

  constructor (kind: LogKind, name: string, bounds: LogBounds, listener?: LogListener) {
    this.kind = kind
    this.name = name
    this.log = new Log(bounds, listener ?? { onAppend: () => { for (const reader of this.readers) reader.onAppend() } })
  }

  /** Whether the log contains what a reader needs that has read up to a position. */
  covers (position: number): boolean {
    return this.completeFrom <= position
  }

  /** Whether the log must be read. */
  get isIncomplete (): boolean {
    return !this.isLive || !this.covers(this.neededFrom)
  }

  /** The range of positions to read next: after the first and up to the second. */
  get missingRange (): readonly [after: number, through: number] {
    if (!this.isLive) return [this.completeFrom === Infinity ? this.neededFrom : this.log.lastPosition, Infinity]
    // All older entries are read, and not only those after `neededFrom`, so that this happens only once.
    return [this.#older.at(-1)?.position ?? 0, this.completeFrom]
  }

  /** Appends a published entry. Returns false if an entry before it is missing. */
  append (entry: PublishedEntry): boolean {
    const { log } = this
    if (!this.isLive || entry.position <= log.lastPosition) return true
    if (entry.previous > log.lastPosition) return false
    this.#push(entry, entry.position, now())
    log.listener.onAppend()
    return true
  }

  /** Adds what was read of the missing range after a position. `clockOffset`: the clock of Redis minus that of this process, in microseconds. */
  add ([last, trimmed, trimReason, entries, hasMore]: LogPart, after: number, clockOffset: number): void {
    const { log } = this
    const isLastPart = Number(hasMore) === 0
    const parsed = entries.map(([id, [, frame = '', , except = '', , key]]): TimedEntry => {
      const position = Number.parseInt(id)
      return { input: { frame, except: parseExcept(except), key }, position, appendedAt: Math.min((position - clockOffset) / 1000, now()) }
    })
    if (this.isLive) {
      this.#older.push(...parsed)
      if (!isLastPart) return
      // At most `completeFrom`: later entries are in the log.
      log.markTrimmed(Math.min(Number(trimmed), this.completeFrom), trimReason)
      log.prepend(this.#older)
      this.#older = []
      this.completeFrom = 0
      return
    }
    if (this.completeFrom === Infinity) this.completeFrom = after
    for (const { input, position, appendedAt } of parsed) {
      // The log was marked as trimmed meanwhile.
      if (position <= log.lastPosition) continue
      this.#push(input, position, appendedAt)
    }
    if (!isLastPart) return
    // After the entries, because a loss can be recorded after entries that were not trimmed.
    log.markTrimmed(Number(trimmed), trimReason)
    log.lastPosition = Math.max(log.lastPosition, Number(last))
    this.isLive = true
  }

  /** Publications may be missing from now on: the rest of the log has to be read, and all readers wait for it. */
  invalidate (): void {
    this.isLive = false
    this.#older = []
    for (const reader of this.readers) this.#makeWait(reader, Infinity)
  }

  /** Adds a reader. Its stream waits until the log is complete after a position. */
  addReader (reader: LogReader, position: number): void {
    this.readers.add(reader)
    if (!this.isLive || !this.covers(position)) this.#makeWait(reader, position)
  }

  removeReader (reader: LogReader): void {
    this.release(reader)
    this.readers.delete(reader)
  }

  /** The reader does not have to wait any more. */
  release (reader: LogReader): void {
    if (!this.waitingReaders.delete(reader)) return
    reader.incompleteLogCount--
    reader.completedLogCount++
  }

  #push (input: EntryInput, position: number, appendedAt: number): void {
    this.log.push(input, position, appendedAt)
    if (input.key === undefined) this.newestEntryPosition = position
  }

  #makeWait (reader: LogReader, position: number): void {
    if (!this.waitingReaders.has(reader)) reader.incompleteLogCount++
    this.waitingReaders.set(reader, Math.min(position, this.waitingReaders.get(reader) ?? Infinity))
    this.neededFrom = Math.min(this.neededFrom, position)
  }
}

/** Parses `<previous> <position> <excluded ids, with commas> <key>\n<frame>` from an index on. All three spaces are always there. */
export function parseEntry (text: string, from: number): PublishedEntry {
  // `split` would create arrays, and this runs for each entry that any node appends.
  const previousEnd = text.indexOf(' ', from)
  const positionEnd = text.indexOf(' ', previousEnd + 1)
  const exceptEnd = text.indexOf(' ', positionEnd + 1)
  const newline = text.indexOf('\n', exceptEnd + 1)
  return {
    previous: Number(text.slice(from, previousEnd)),
    position: Number(text.slice(previousEnd + 1, positionEnd)),
    except: parseExcept(text.slice(positionEnd + 1, exceptEnd)),
    key: exceptEnd + 1 === newline ? undefined : text.slice(exceptEnd + 1, newline),
    frame: text.slice(newline + 1)
  }
}

function parseExcept (ids = ''): string[] | undefined {
  return ids === '' ? undefined : ids.split(',')
}
