import assert from 'node:assert/strict'
import { createParser } from 'eventsource-parser'
import type { Sink, SinkListener } from '../../lib/stream/response-sink.js'
import { parseEventId } from '../../lib/wire/event-id.js'

/** The length of the largest data that a test sends. */
export const LARGE_DATA_LENGTH = 40_000

/** A response in memory. If `stalls` is true, it blocks after every write until `drain`. `maxDataLength` is the length of the largest data that the test sends. */
export class MemorySink implements Sink {
  listener: SinkListener | undefined
  closed = false
  stalls: boolean
  blocked = false
  /** What was written since the last call of `read`. The chunks of a compressed stream have one character per byte. */
  chunks: string[] = []
  readonly #maxLength: number

  constructor (stalls: boolean, maxDataLength = LARGE_DATA_LENGTH) {
    this.stalls = stalls
    this.#maxLength = 64 * 1024 + maxDataLength + 200
  }

  get text (): string {
    return this.chunks.join('')
  }

  write (chunk: string): boolean {
    assert.ok(!this.closed && !this.blocked, 'nothing is written to a sink that is closed or blocked')
    assert.ok(chunk.length < this.#maxLength, 'a write has at most 64 KiB and one more message')
    this.chunks.push(chunk)
    this.blocked = this.stalls
    return !this.blocked
  }

  drain (stalls: boolean): void {
    this.stalls = stalls
    this.blocked = false
    this.listener?.onDrain()
  }

  end (chunk: string): void {
    this.chunks.push(chunk)
    this.destroy()
  }

  destroy (): void {
    if (this.closed) return
    this.closed = true
    queueMicrotask(() => this.listener?.onClose())
  }

  /** Returns what was written since the last call. */
  read (): string {
    const { text } = this
    this.chunks = []
    return text
  }
}

export interface ReceivedEvent {
  readonly event: string
  readonly position: number | undefined
  readonly data: unknown
}

/** Parses the events that were written since the last call. */
export function readEvents (sink: MemorySink | undefined): ReceivedEvent[] {
  const events: ReceivedEvent[] = []
  const parser = createParser({
    onEvent: ({ event = 'message', id = '', data }) => {
      const parsed: unknown = JSON.parse(data)
      events.push({ event, position: parseEventId(id)?.position, data: event === 'welcome' ? {} : parsed })
    }
  })
  parser.feed(sink?.read() ?? '')
  return events
}
