import { Log, now, type EntryInput, type LogBounds, type LogListener, type TrimReason } from '../../log/log.js'
import type { SessionState } from '../session-state.js'

/** What is published of an entry, or read of a log: where it stands, and behind what. */
export interface Published {
  readonly previous: number
  readonly position: number
  readonly except: string | undefined
  readonly frame: string
}

/** The rest of a log, as operations answer with it: newest position, how far it is trimmed and why, entries, and the version of a session. */
export type Rest = readonly [last: string, trimmed: string, by: TrimReason, entries: ReadonlyArray<readonly [id: string, fields: readonly string[]]>, version?: string]

/** What there is of a log in Redis, kept here for the streams of this process. */
export class Mirror<Reader extends SessionState> {
  readonly log: Log
  /** Those whose streams read it. */
  readonly readers = new Set<Reader>()
  /** Position of the newest entry that it was given. */
  newest = 0
  /** The position of the store when it was loaded. */
  loadedAt = 0
  /** How often the others had been compared with Redis when its loading began. */
  readonly compared: number
  /** Resolves when it is loaded. */
  loaded: Promise<void> | undefined
  #early: Published[] | undefined = []

  constructor (bounds: LogBounds, compared: number, listener?: LogListener) {
    this.compared = compared
    this.log = new Log(bounds, listener ?? { onAppend: () => { for (const reader of this.readers) reader.onAppend() } })
  }

  get loading (): boolean {
    return this.#early !== undefined
  }

  /** Takes an entry that was published. False where one before it is missing. */
  take (entry: Published): boolean {
    const { log } = this
    if (this.#early !== undefined) this.#early.push(entry)
    else if (entry.position > log.lastPosition) {
      if (entry.previous > log.lastPosition) return false
      this.#push(entry, entry.position, now())
      log.listener.onAppend()
    }
    return true
  }

  /** Takes what was read of a log, up to a position: what is beyond comes by publication. `ahead` is how far the store's clock, in microseconds, is ahead of ours. */
  fill ([last, trimmed, by, entries]: Rest, through: number, ahead: number): void {
    const { log } = this
    for (const [id, [, frame = '', , except]] of entries) {
      const position = Number.parseInt(id)
      if (position > through) break
      if (position <= log.lastPosition) continue
      this.#push({ frame, except }, position, Math.min((position - ahead) / 1000, now()))
    }
    // After the entries: a loss may have been recorded beyond some that are left.
    log.markTrimmed(Math.min(Number(trimmed), through), by)
    log.lastPosition = Math.max(log.lastPosition, Math.min(Number(last), through))
  }

  /** It is filled: what was published meanwhile follows. False where something between is missing. */
  open (): boolean {
    const early = this.#early as Published[]
    this.#early = undefined
    let whole = true
    for (const entry of early) whole = this.take(entry) && whole
    return whole
  }

  #push (draft: EntryInput, position: number, appendedAt: number): void {
    this.log.push(draft, position, appendedAt)
    this.newest = position
  }
}

/** Reads `<previous> <position>[ <except>]\n<frame>`, from an index on. */
export function parsePublished (text: string, from: number): Published {
  const space = text.indexOf(' ', from)
  const line = text.indexOf('\n', space)
  const end = text.indexOf(' ', space + 1)
  const hasExcept = end !== -1 && end < line
  return {
    previous: Number(text.slice(from, space)),
    position: Number(text.slice(space + 1, hasExcept ? end : line)),
    except: hasExcept && end + 1 < line ? text.slice(end + 1, line) : undefined,
    frame: text.slice(line + 1)
  }
}
