import { TimeSlice } from './time-slice.js'
import type { StreamWriter } from './stream-writer.js'

// The last write can be just before a check, so the heartbeat can be up to a fifth of the interval too early.
const CHECKS_PER_INTERVAL = 5

/** Writes to idle streams, so that proxies do not close their connections. It uses one timer for all streams, and slices of time, so that many heartbeats do not block the event loop. */
export class Heartbeat {
  readonly #streams: Iterable<StreamWriter>
  readonly #frame: string
  readonly #timer: NodeJS.Timeout | undefined
  /** The next slice, if the last check has not reached all streams yet. */
  #nextSlice: NodeJS.Immediate | undefined

  /** `interval` in milliseconds; `false` turns heartbeats off. */
  constructor (interval: number | false, frame: string, streams: Iterable<StreamWriter>) {
    this.#frame = frame
    this.#streams = streams
    if (interval !== false) this.#timer = setInterval(this.#startCheck, interval / CHECKS_PER_INTERVAL).unref()
  }

  stop (): void {
    clearInterval(this.#timer)
    clearImmediate(this.#nextSlice)
  }

  readonly #startCheck = (): void => {
    if (this.#nextSlice === undefined) this.#check(this.#streams[Symbol.iterator]())
  }

  /** Checks streams until all are checked or the slice of time is over. */
  #check (streams: Iterator<StreamWriter>): void {
    const slice = new TimeSlice()
    for (let next = streams.next(); next.done !== true; next = streams.next()) {
      const stream = next.value
      if (++stream.idleChecks >= CHECKS_PER_INTERVAL) stream.writeHeartbeat(this.#frame)
      if (!slice.isOver()) continue
      this.#nextSlice = setImmediate(() => {
        this.#nextSlice = undefined
        this.#check(streams)
      })
      return
    }
  }
}
