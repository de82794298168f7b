import assert from 'node:assert/strict'
import { createParser } from 'eventsource-parser'
import type { Sink, SinkListener } from '../../lib/stream/response-sink.js'
import { parseEventId } from '../../lib/wire/event-id.js'

/** The length of the largest data that a test sends. */
export const HEAVY = 40_000

/** A response in memory. If `stalls` is true, it blocks after every write until `drain`. */
export class MemorySink implements Sink {
  listener: SinkListener | undefined
  closed = false
  stalls: boolean
  blocked = false
  text = ''

  constructor (stalls: boolean) {
    this.stalls = stalls
  }

  write (chunk: string): boolean {
    assert.ok(!this.closed && !this.blocked, 'nothing is written to a sink that is closed or blocked')
    assert.ok(chunk.length < 64 * 1024 + HEAVY + 200, 'a write has at most 64 KiB and one more message')
    this.text += chunk
    this.blocked = this.stalls
    return !this.blocked
  }

  drain (stalls: boolean): void {
    this.stalls = stalls
    this.blocked = false
    this.listener?.onDrain()
  }

  end (chunk: string): void {
    this.text += chunk
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
    this.text = ''
    return text
  }
}

export interface Received {
  readonly event: string
  readonly position: number | undefined
  readonly data: unknown
}

/** Parses the events that were written since the last call. */
export function received (sink: MemorySink | undefined): Received[] {
  const events: Received[] = []
  const parser = createParser({
    onEvent: ({ event = 'message', id = '', data }) => {
      const parsed: unknown = JSON.parse(data)
      events.push({ event, position: parseEventId(id)?.position, data: event === 'welcome' ? {} : parsed })
    }
  })
  parser.feed(sink?.read() ?? '')
  return events
}
