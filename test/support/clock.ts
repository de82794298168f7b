import type { Test } from 'tap'

/** Lets a test advance a clock, `performance` or `Date`. The returned function adds so many milliseconds. The clock is restored when the test ends. */
export function skewClock (t: Test, clock: { now: () => number } = performance): (ms: number) => void {
  const real = clock.now
  let ahead = 0
  clock.now = () => real.call(clock) + ahead
  t.teardown(() => { clock.now = real })
  return ms => { ahead += ms }
}

/** Stops `performance` until the test ends, so that the test does not depend on how fast it runs. The returned function adds so many milliseconds. */
export function freezeClock (t: Test): (ms: number) => void {
  const { now } = performance
  // An integer, because differences of other numbers are not exact.
  let time = Math.round(performance.now())
  performance.now = () => time
  t.teardown(() => { performance.now = now })
  return ms => { time += ms }
}
