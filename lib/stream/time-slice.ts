import { now } from '../clock.js'

// Milliseconds. Together with the steps between two checks of the clock, a slice stays below 20 ms.
const DURATION = 10
// Reading the clock before each step would cost too much.
const STEPS_PER_CHECK = 16

/** Limits how long a loop over many streams blocks the event loop. */
export class TimeSlice {
  readonly #end = now() + DURATION
  #steps = 0

  /** Is called after each step of the loop. Returns whether the rest of the steps must wait for a later tick. */
  isOver (): boolean {
    return ++this.#steps % STEPS_PER_CHECK === 0 && now() >= this.#end
  }
}
