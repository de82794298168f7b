import type { FastifyBaseLogger } from 'fastify'
import { now, type Log, type TrimReason } from '../store/log.js'
import { frameGap, frameId, type Gap } from '../wire/frame.js'
import type { Sink, SinkListener } from './transport.js'

/** A log that a stream reads, from after one position up to and including another. */
export interface Source {
  readonly log: Log
  readonly from: number
  to: number
}

/** Who a stream reports to. */
export interface DownstreamOwner {
  /** The cursor has moved. */
  advanced (): void
  /** The client was told of a hole. */
  gapped (gap: Gap): void
  /** The response is over, and so is the stream. */
  ended (stream: Downstream): void
}

// A write this large makes the socket report whether it keeps up, well before a log's worth is queued behind it.
const BATCH_CHARACTERS = 64 * 1024

let woken: Downstream[] = []

/** Once a turn of the event loop, each woken stream writes all it has as one chunk. */
function flushWoken (): void {
  const streams = woken
  woken = []
  for (const stream of streams) stream.flush()
}

/**
 * A cursor that moves over a merge of logs, writing each entry it passes to a response while that takes them.
 * Live delivery, replay and catching up are this one thing. It holds no entries: what a slow client has not taken is
 * in the logs, and what the logs had to drop meanwhile is told as a gap.
 */
export class Downstream implements SinkListener {
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
  readonly #sources: readonly Source[]
  readonly #owner: DownstreamOwner
  readonly #sink: Sink
  #state: 'idle' | 'woken' | 'blocked' | 'over' = 'idle'
  #toldThrough = 0
  #last: string | undefined

  /** The sources may grow while the stream lives; `reader` marks the ids of its events, and which entries except it. */
  constructor (reader: string, sources: readonly Source[], cursor: number, sink: Sink, owner: DownstreamOwner, log: FastifyBaseLogger) {
    this.#reader = reader
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
    if (woken.push(this) === 1) setImmediate(flushWoken)
  }

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
    this.#owner.ended(this)
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

  destroy (): void {
    this.#sink.destroy()
  }

  #write (opening: string): void {
    for (let chunk = opening + this.#collect(); chunk !== ''; chunk = this.#collect()) {
      if (!this.#sink.write(chunk)) {
        this.#state = 'blocked'
        break
      }
    }
    this.idleTicks = 0
    if (this.#state === 'idle' && this.#last !== undefined) this.#end(this.#last)
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
    const heads: Head[] = []
    let lostThrough = 0
    let lostBy: TrimReason = 'count'
    for (const source of this.#sources) {
      const after = Math.max(this.cursor, source.from)
      if (after >= source.to || source.log.last <= after) continue
      const trimmed = Math.min(source.log.trimmed, source.to)
      if (trimmed > after && trimmed > lostThrough) {
        lostThrough = trimmed
        lostBy = source.log.trimmedBy
      }
      const head = { source, index: source.log.indexAfter(after), position: 0 }
      if (settle(head)) heads.push(head)
    }
    let chunk = lostThrough > this.#toldThrough ? this.#tell(lostThrough, lostBy, heads) : ''
    while (chunk.length < BATCH_CHARACTERS) {
      const head = earliest(heads)
      const entry = head?.source.log.at(head.index)
      if (head === undefined || entry === undefined) break
      if (entry.except !== this.#reader) chunk += frameId(this.#reader, entry.position) + entry.frame
      this.cursor = entry.position
      head.index++
      if (!settle(head)) heads.splice(heads.indexOf(head), 1)
    }
    return chunk
  }

  /**
   * Tells a hole. Its id is as far as nothing but the hole lies: a client that comes back with it is not told again,
   * unless other logs still hold entries from before the hole's end.
   */
  #tell (resumedAt: number, reason: TrimReason, heads: readonly Head[]): string {
    const gap: Gap = { after: this.cursor, resumedAt, reason }
    this.#toldThrough = resumedAt
    this.cursor = Math.min(resumedAt, (earliest(heads)?.position ?? Infinity) - 1)
    // Later: a hook may send, which changes the logs that are being read.
    queueMicrotask(() => { this.#owner.gapped(gap) })
    return frameGap(this.#reader, this.cursor, gap)
  }
}

/** Where a stream stands in one of its sources. */
interface Head {
  readonly source: Source
  index: number
  position: number
}

/** Notes the position of the entry that a head points at; false where the source has none left. */
function settle (head: Head): boolean {
  const entry = head.source.log.at(head.index)
  if (entry === undefined || entry.position > head.source.to) return false
  head.position = entry.position
  return true
}

function earliest (heads: readonly Head[]): Head | undefined {
  let first = heads[0]
  for (const head of heads) {
    if (first === undefined || head.position < first.position) first = head
  }
  return first
}
