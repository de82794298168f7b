import type { FastifyBaseLogger } from 'fastify'
import { now, type Source, type TrimReason } from '../store/log.js'
import { flushSoon, type Writer } from '../turns.js'
import { frameGap, frameStart, type Gap } from '../wire/frame.js'
import type { Sink, SinkListener } from './transport.js'

/** Who a stream reports to. */
export interface DownstreamOwner {
  /** Whether entries may be written now; it wakes the stream when they may be again. */
  readonly mayWrite: boolean
  /** The cursor has moved. */
  advanced (): void
  /** The client was told of a hole. */
  gapped (gap: Gap): void
  /** The response is over, and so is the stream. */
  streamEnded (stream: Downstream): void
}

// A write this large makes the socket report whether it keeps up, well before a log's worth is queued behind it.
const BATCH_CHARACTERS = 64 * 1024

/**
 * A cursor that moves over a merge of logs, writing each entry it passes to a response while that takes them.
 * Live delivery, replay and catching up are this one thing. It holds no entries: what a slow client has not taken is
 * in the logs, and what the logs had to drop meanwhile is told as a gap.
 */
export class Downstream implements SinkListener, Writer {
  /** The position up to which everything was written, or told as lost. */
  cursor: number
  /** Why the stream ends: `lost` is a connection that the other side, or the network, closed. */
  reason = 'lost'
  /** The heartbeat's count of turns in which nothing was written. */
  idleTicks = 0
  readonly openedAt = now()
  /** Where its owner tells of it. */
  readonly log: FastifyBaseLogger
  readonly #reader: string
  readonly #start: string
  readonly #sources: readonly Source[]
  readonly #owner: DownstreamOwner
  readonly #sink: Sink
  #state: 'idle' | 'woken' | 'blocked' | 'over' = 'idle'
  #toldThrough = 0
  #last: string | undefined

  /** The sources may grow while the stream lives; `reader` marks the ids of its events, and which entries except it. */
  constructor (reader: string, sources: readonly Source[], cursor: number, sink: Sink, owner: DownstreamOwner, log: FastifyBaseLogger) {
    this.#reader = reader
    this.#start = frameStart(reader)
    this.#sources = sources
    this.cursor = cursor
    this.#sink = sink
    this.#owner = owner
    this.log = log
  }

  /** Writes the opening and, at once behind it, what the logs hold after the cursor. */
  start (opening: string): void {
    this.#sink.listener = this
    this.#expire()
    this.#write(opening)
  }

  /** A log has grown. */
  wake (): void {
    if (this.#state !== 'idle') return
    this.#state = 'woken'
    flushSoon(this)
  }

  /** Writes all it has as one chunk. */
  flush (): void {
    if (this.#state !== 'woken') return
    this.#state = 'idle'
    this.#write('')
  }

  drained (): void {
    if (this.#state !== 'blocked') return
    this.#state = 'idle'
    this.#expire()
    this.#write('')
  }

  closed (): void {
    this.#state = 'over'
    this.#owner.streamEnded(this)
  }

  /** Writes a heartbeat, unless the client is behind: it has bytes to come anyway. */
  beat (frame: string): void {
    if (this.#state !== 'idle') return
    this.idleTicks = 0
    if (!this.#sink.write(frame)) this.#state = 'blocked'
  }

  /** Ends the stream with a last frame, once everything before it is written. */
  finish (last: string, reason: string): void {
    this.#last ??= last
    this.reason = reason
    this.wake()
  }

  /** Ends the stream now, with a last frame for a client that keeps up. */
  cut (last: string, reason: string): void {
    this.reason = reason
    if (this.#state === 'blocked') this.#sink.destroy()
    else if (this.#state !== 'over') this.#end(last)
  }

  /** As `finish`, for a client that is to come back: what may not be written now, it gets then. */
  leave (last: string, reason: string): void {
    if (this.#owner.mayWrite) this.finish(last, reason)
    else this.cut(last, reason)
  }

  destroy (): void {
    this.#sink.destroy()
  }

  #write (opening: string): void {
    let chunk = opening + this.#collect()
    while (chunk !== '') {
      if (!this.#sink.write(chunk)) {
        this.#state = 'blocked'
        break
      }
      chunk = chunk.length < BATCH_CHARACTERS ? '' : this.#collect()
    }
    this.idleTicks = 0
    if (this.#state === 'idle' && this.#last !== undefined && this.#owner.mayWrite) this.#end(this.#last)
    this.#owner.advanced()
  }

  #end (last: string): void {
    this.#state = 'over'
    this.#sink.end(last)
  }

  #expire (): void {
    const time = now()
    for (const { log } of this.#sources) log.expire(time)
  }

  /** Takes the next entries of all sources in order of position, a batch at most, and moves the cursor past them. */
  #collect (): string {
    if (!this.#owner.mayWrite) return ''
    let chunk = this.#tellLoss()
    let limit: number
    do {
      // The source with the earliest entry, and the position at which another takes over.
      let source: Source | undefined
      let earliest = Infinity
      limit = Infinity
      for (const candidate of this.#sources) {
        const position = nextPosition(candidate, this.cursor)
        if (position < earliest) {
          limit = earliest
          earliest = position
          source = candidate
        } else if (position < limit) {
          limit = position
        }
      }
      if (source === undefined) break
      // A store that gives a position twice breaks its contract; that must not end in a loop.
      chunk = this.#take(chunk, source, Math.min(Math.max(earliest, limit - 1), source.to))
    } while (limit < Infinity && chunk.length < BATCH_CHARACTERS)
    return chunk
  }

  /** Adds the entries of one source, up to a position, to a chunk. */
  #take (chunk: string, { log, from }: Source, through: number): string {
    for (let index = log.indexAfter(Math.max(this.cursor, from)); index < log.end && chunk.length < BATCH_CHARACTERS; index++) {
      const position = log.positionAt(index)
      if (position > through) break
      if (log.exceptedFrom(position) !== this.#reader) chunk += this.#start + log.restAt(index)
      this.cursor = position
    }
    return chunk
  }

  /**
   * Tells a hole, if there is one. Its id is as far as nothing but the hole lies: a client that comes back with it is
   * not told again, unless other logs still hold entries from before the hole's end.
   */
  #tellLoss (): string {
    let resumedAt = this.#toldThrough
    let reason: TrimReason | undefined
    for (const { log, from, to } of this.#sources) {
      const trimmed = Math.min(log.trimmed, to)
      if (trimmed <= resumedAt || trimmed <= this.cursor || trimmed <= from) continue
      resumedAt = trimmed
      reason = log.trimmedBy
    }
    if (reason === undefined) return ''
    const gap: Gap = { after: this.cursor, resumedAt, reason }
    this.#toldThrough = resumedAt
    this.cursor = Math.min(resumedAt, ...this.#sources.map(source => nextPosition(source, this.cursor) - 1))
    // Later: a hook may send, which changes the logs that are being read.
    queueMicrotask(() => { this.#owner.gapped(gap) })
    return frameGap(this.#reader, this.cursor, gap)
  }
}

/** Position of the first entry that a source has after a cursor; Infinity where it has none. */
function nextPosition ({ log, from, to }: Source, cursor: number): number {
  const position = log.next(Math.max(cursor, from))
  return position <= to ? position : Infinity
}
