import type { Test } from 'tap'

/** Has `performance.now` run ahead by as many milliseconds as the returned function was given; put right when the test ends. */
export function skewClock (t: Test): (ms: number) => void {
  const real = performance.now
  let ahead = 0
  performance.now = () => real.call(performance) + ahead
  t.teardown(() => { performance.now = real })
  return ms => { ahead += ms }
}
