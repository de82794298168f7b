import type { Test } from 'tap'

/** Has a clock, `performance` or `Date`, run ahead by as many milliseconds as the returned function was given; put right when the test ends. */
export function skewClock (t: Test, clock: { now: () => number } = performance): (ms: number) => void {
  const real = clock.now
  let ahead = 0
  clock.now = () => real.call(clock) + ahead
  t.teardown(() => { clock.now = real })
  return ms => { ahead += ms }
}
