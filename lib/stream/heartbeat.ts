import type { Downstream } from './downstream.js'

// A stream idle for an interval is found within a fifth of it.
const TICKS = 5

/** Keeps idle streams alive through intermediaries, with one timer for all of them. */
export class Heartbeat {
  readonly #streams: Iterable<Downstream>
  readonly #frame: string
  readonly #timer: NodeJS.Timeout | undefined

  /** `interval` in milliseconds; `false` for no heartbeat. */
  constructor (interval: number | false, frame: string, streams: Iterable<Downstream>) {
    this.#frame = frame
    this.#streams = streams
    if (interval !== false) this.#timer = setInterval(this.#beat, interval / TICKS).unref()
  }

  stop (): void {
    clearInterval(this.#timer)
  }

  readonly #beat = (): void => {
    for (const stream of this.#streams) {
      if (++stream.idleTicks >= TICKS) stream.beat(this.#frame)
    }
  }
}
