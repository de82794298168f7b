import { TimeSlice } from './time-slice.js'

export interface Flushable {
  /** Writes everything that can be written now. */
  flush (): void
}

// A tick flushes at most this many streams, or a quarter of the batch if that is more.
const STREAMS_PER_TICK = 128
const TICKS_PER_BATCH = 4

/**
 * Decides when streams write. A stream that has something to write is flushed in a later tick of the event loop, together
 * with all others that were scheduled until then. If there are many, each tick flushes only a part of them, for a limited time.
 * So the event loop can do other work between the ticks, and a stream that is flushed later also writes the events that were
 * appended meanwhile.
 */
export class FlushScheduler {
  /** The streams that are being flushed; those before `#next` are done. */
  #batch: Flushable[] = []
  #next = 0
  /** The streams that were scheduled after the batch began. */
  #waiting: Flushable[] = []
  #isTickScheduled = false

  /** Flushes a stream in a later tick. */
  schedule (stream: Flushable): void {
    this.#waiting.push(stream)
    this.#scheduleTick()
  }

  /** Flushes all scheduled streams now. */
  flushAll (): void {
    // The first call flushes the rest of the current batch, the second one the streams that were scheduled after it began.
    this.#flush(Infinity)
    this.#flush(Infinity)
  }

  #scheduleTick (): void {
    if (this.#isTickScheduled) return
    this.#isTickScheduled = true
    setImmediate(this.#tick)
  }

  readonly #tick = (): void => {
    this.#isTickScheduled = false
    try {
      this.#flush(STREAMS_PER_TICK)
    } finally {
      // The next tick is scheduled also after an error, so that one stream that fails does not stop the others.
      if (this.#batch.length > 0 || this.#waiting.length > 0) this.#scheduleTick()
    }
  }

  /** Flushes the next streams of the batch until a slice of time is over: at most `count`, or a quarter of the batch if that is more. `Infinity` flushes the whole batch. */
  #flush (count: number): void {
    if (this.#batch.length === 0) {
      this.#batch = this.#waiting
      this.#waiting = []
    }
    const batch = this.#batch
    const end = Math.min(batch.length, this.#next + Math.max(count, Math.ceil(batch.length / TICKS_PER_BATCH)))
    const slice = count === Infinity ? undefined : new TimeSlice()
    while (this.#next < end) {
      (batch[this.#next++] as Flushable).flush()
      // A stream may have called `flushAll` while it was flushed.
      if (this.#batch !== batch) return
      if (slice?.isOver() === true) break
    }
    if (this.#next < batch.length) return
    this.#batch = []
    this.#next = 0
  }
}

/** The scheduler of this process: there is one event loop, so there is one scheduler. */
export const flushScheduler = new FlushScheduler()
