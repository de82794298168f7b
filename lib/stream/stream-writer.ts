import type { FastifyBaseLogger } from 'fastify'
import { now } from '../clock.js'
import type { TrimReason } from '../log/log.js'
import { nextPositionIn, type LogRange } from '../log/log-range.js'
import { logSafely } from '../safe-log.js'
import { frameGap, framePrefix, type Gap } from '../wire/frame.js'
import { flushScheduler, type Flushable } from './flush-scheduler.js'
import type { Sink, SinkListener } from './response-sink.js'
import type { StreamEncoder } from './shared-compression.js'

/** What a stream belongs to: a session, or a reader of a run. */
export interface StreamOwner {
  /** Whether entries may be written now. When this becomes true again, the owner calls `onAppend`. */
  readonly canWrite: boolean
  /** The cursor may have moved. */
  onProgress (): void
  /** A `gap` event was written. */
  onGap (gap: Gap): void
  /** The response is closed. */
  onStreamClose (stream: StreamWriter): void
}

export interface StreamWriterOptions {
  /** The first part of the id of each event. Entries that exclude the session with this id are skipped. */
  readonly readerId: string
  /** What the stream reads. The array may grow while the stream is open. */
  readonly ranges: readonly LogRange[]
  /** The position after which the stream starts to read. */
  readonly cursor: number
  readonly sink: Sink
  readonly owner: StreamOwner
  /** The logger of the request that opened the stream. */
  readonly logger: FastifyBaseLogger
  /** Compresses the stream. Default: none. */
  readonly encoder?: StreamEncoder | undefined
  /** Formats a `gap` event, whose id contains the cursor. Default: {@link frameGap}. */
  readonly formatGap?: (readerId: string, cursor: number, gap: Gap) => string
}

export interface EndOptions {
  /** The last bytes that the client receives, or a function that returns them. If it returns `undefined`, the response ends incomplete, so that its client sees an error. */
  readonly finalFrame: string | (() => string | undefined)
  /** Why the stream ends, for the logger. */
  readonly reason: string
  /** Whether to write everything that the logs contain before the final frame. Otherwise the stream ends at once. */
  readonly drain: boolean
}

// After a write of this size, the socket reports backpressure, long before it has buffered a whole log.
const CHUNK_CHARACTERS = 64 * 1024

/**
 * Moves a cursor over several logs, in order of position, and writes each entry that it passes, while the sink accepts
 * more. Live delivery, replay after a reconnect and catching up after a slow period are this same operation. The writer
 * buffers nothing: what the sink has not accepted stays in the logs. If a log trims such entries, the client gets a `gap` event.
 */
export class StreamWriter implements SinkListener, Flushable {
  /** The position up to which everything is written or reported as a gap. */
  cursor: number
  /** Why the stream ends. The initial value applies if the client or the network closes the connection. */
  reason = 'lost'
  /** Number of checks of `Heartbeat` since the last write. */
  idleChecks = 0
  readonly openedAt = now()
  readonly owner: StreamOwner
  readonly logger: FastifyBaseLogger
  readonly #readerId: string
  readonly #prefix: string
  readonly #ranges: readonly LogRange[]
  readonly #sink: Sink
  readonly #formatGap: (readerId: string, cursor: number, gap: Gap) => string
  readonly #encoder: StreamEncoder | undefined
  #state: 'idle' | 'scheduled' | 'blocked' | 'closed' = 'idle'
  /** The last position of the newest gap that was reported. */
  #gapReportedThrough = 0
  #finalFrame: EndOptions['finalFrame'] | undefined

  constructor ({ readerId, ranges, cursor, sink, owner, logger, encoder, formatGap = frameGap }: StreamWriterOptions) {
    this.#readerId = readerId
    this.#prefix = framePrefix(readerId)
    this.#formatGap = formatGap
    this.#encoder = encoder
    this.#ranges = ranges
    this.cursor = cursor
    this.#sink = sink
    this.owner = owner
    this.logger = logger
  }

  get canWrite (): boolean {
    return this.owner.canWrite
  }

  /** Writes the first frames and, in the same chunk, what the logs contain after the cursor. */
  start (preamble: string): void {
    this.#sink.listener = this
    this.#trimExpired()
    this.#write(this.#encoder === undefined ? preamble : this.#encoder.encodeStart(preamble))
  }

  /** There is more to read, or the owner may write again. */
  onAppend (): void {
    this.#schedule()
  }

  /** Writes what the logs contain after the cursor, while the sink accepts more. */
  flush (): void {
    if (this.#state !== 'scheduled') return
    this.#state = 'idle'
    this.#write('')
  }

  onDrain (): void {
    if (this.#state !== 'blocked') return
    this.#state = 'idle'
    this.#trimExpired()
    this.#write('')
  }

  onClose (): void {
    this.#state = 'closed'
    this.owner.onStreamClose(this)
  }

  onError (error: unknown): void {
    logSafely(this.logger, 'error', { err: error }, 'an event stream ends because of an error of its response')
  }

  /** Writes a heartbeat, unless something else is about to be written. */
  writeHeartbeat (frame: string): void {
    if (this.#state !== 'idle') return
    this.idleChecks = 0
    if (!this.#sink.write(this.#encode(frame), this.#encoding)) this.#state = 'blocked'
  }

  /** Ends the response. Without `drain`, a client that does not accept more at the moment is disconnected without the final frame. */
  end ({ finalFrame, reason, drain }: EndOptions): void {
    this.reason = reason
    if (drain) {
      this.#finalFrame ??= finalFrame
      this.#schedule()
    } else if (this.#state === 'blocked') {
      this.abort()
    } else if (this.#state !== 'closed') {
      this.#endSink(finalFrame)
    }
  }

  /** Closes the connection. */
  abort (): void {
    this.#sink.destroy()
  }

  #schedule (): void {
    if (this.#state !== 'idle') return
    this.#state = 'scheduled'
    flushScheduler.schedule(this)
  }

  #write (preamble: string): void {
    let chunk = preamble + this.#readChunk()
    while (chunk !== '') {
      if (!this.#sink.write(chunk, this.#encoding)) {
        this.#state = 'blocked'
        break
      }
      chunk = chunk.length < CHUNK_CHARACTERS ? '' : this.#readChunk()
    }
    this.idleChecks = 0
    if (this.#state === 'idle' && this.#finalFrame !== undefined && this.canWrite) this.#endSink(this.#finalFrame)
    this.owner.onProgress()
  }

  #endSink (finalFrame: EndOptions['finalFrame']): void {
    this.#state = 'closed'
    const frame = typeof finalFrame === 'string' ? finalFrame : finalFrame()
    if (frame === undefined) this.#sink.destroy(true)
    else this.#sink.end(this.#encode(frame), this.#encoding)
  }

  /** The encoding of the chunks; `undefined` if they are text. */
  get #encoding (): 'latin1' | undefined {
    return this.#encoder === undefined ? undefined : 'latin1'
  }

  #encode (frame: string): string {
    return this.#encoder === undefined ? frame : this.#encoder.encodeFrames(frame)
  }

  #trimExpired (): void {
    const time = now()
    for (const { log } of this.#ranges) log.expire(time)
  }

  /** Reads the next entries of all logs in order of position, at most one chunk, and moves the cursor past them. */
  #readChunk (): string {
    if (!this.canWrite) return ''
    let chunk = this.#encode(this.#reportGap())
    let limit: number
    do {
      // Find the range with the earliest entry, and the earliest position in the other ranges.
      let next: LogRange | undefined
      let earliest = Infinity
      limit = Infinity
      for (const range of this.#ranges) {
        const position = nextPositionIn(range, this.cursor)
        if (position < earliest) {
          limit = earliest
          earliest = position
          next = range
        } else if (position < limit) {
          limit = position
        }
      }
      if (next === undefined) break
      // `Math.max` prevents an endless loop if a store violates its contract and uses a position twice.
      chunk = this.#readRange(chunk, next, Math.min(Math.max(earliest, limit - 1), next.to))
    } while (limit < Infinity && chunk.length < CHUNK_CHARACTERS)
    return chunk
  }

  /** Adds the entries of one range up to a position to a chunk. */
  #readRange (chunk: string, { log, from }: LogRange, through: number): string {
    for (let index = log.indexAfter(Math.max(this.cursor, from)); index < log.end && chunk.length < CHUNK_CHARACTERS; index++) {
      const position = log.positionAt(index)
      if (position > through) break
      if (!log.isExcluded(position, this.#readerId)) {
        chunk += this.#encoder === undefined ? this.#prefix + log.frameSuffixAt(index) : this.#encoder.encodeEntry(log, index, this.#prefix)
      }
      this.cursor = position
    }
    return chunk
  }

  /**
   * Returns the frame of a `gap` event if entries after the cursor were trimmed, otherwise an empty string. Moves the cursor
   * to the end of the gap, so that a client that resumes there does not get the gap again. If another log still has entries
   * within the gap, moves it only to just before the first of them.
   */
  #reportGap (): string {
    let resumedAt = this.#gapReportedThrough
    let reason: TrimReason | undefined
    for (const { log, from, to } of this.#ranges) {
      const trimmed = Math.min(log.trimmedPosition, to)
      if (trimmed <= resumedAt || trimmed <= this.cursor || trimmed <= from) continue
      resumedAt = trimmed
      reason = log.trimReason
    }
    if (reason === undefined) return ''
    // The client may have received events that other processes have sent after those that the store has lost.
    const after = reason === 'store' ? Math.min(this.cursor, ...this.#ranges.map(({ from }) => from)) : this.cursor
    const gap: Gap = { after, resumedAt, reason }
    this.#gapReportedThrough = resumedAt
    this.cursor = Math.min(resumedAt, ...this.#ranges.map(range => nextPositionIn(range, this.cursor) - 1))
    // `onGap` is called in a microtask, because a hook may send events, which changes the logs while they are read.
    queueMicrotask(() => { this.owner.onGap(gap) })
    return this.#formatGap(this.#readerId, this.cursor, gap)
  }
}
