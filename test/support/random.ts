import type { Test } from 'tap'

/** Numbers from 0 to below 1, the same for the same seed (mulberry32). */
export function random (seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The seed of a random test: `SEED` of the environment, or the clock's; printed, so that a failure can be had again. */
export function seedOf (t: Test): number {
  const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)
  t.comment(`seed ${seed}; repeat with SEED=${seed}`)
  return seed
}
