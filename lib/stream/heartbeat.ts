import type { StreamWriter } from './stream-writer.js'

// The first heartbeat after another write is at most a fifth of the interval too early.
const TICKS_PER_INTERVAL = 5

/** Writes to idle streams, so that proxies do not close their connections. It uses one timer for all streams. */
export class Heartbeat {
  readonly #streams: Iterable<StreamWriter>
  readonly #frame: string
  readonly #timer: NodeJS.Timeout | undefined

  /** `interval` in milliseconds; `false` turns heartbeats off. */
  constructor (interval: number | false, frame: string, streams: Iterable<StreamWriter>) {
    this.#frame = frame
    this.#streams = streams
    if (interval !== false) this.#timer = setInterval(this.#tick, interval / TICKS_PER_INTERVAL).unref()
  }

  stop (): void {
    clearInterval(this.#timer)
  }

  readonly #tick = (): void => {
    for (const stream of this.#streams) {
      if (++stream.idleTicks >= TICKS_PER_INTERVAL) stream.writeHeartbeat(this.#frame)
    }
  }
}
