import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { Backoff, setTimer } from '../../lib/client/backoff.js'

/** Stops the clock and chance: what `Math.random` gives from now on is the result's to set. */
function still (t: Test): { chance: number } {
  const real = Math.random
  const set = { chance: 0 }
  Math.random = () => set.chance
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => {
    Math.random = real
    mock.timers.reset()
  })
  return set
}

/** Whether a wait is over. */
async function isOver (wait: Promise<void>): Promise<boolean> {
  return await Promise.race([wait.then(() => true), new Promise<boolean>(resolve => { setImmediate(resolve, false) })])
}

/** Asserts that a wait takes so many milliseconds to the last. */
async function takes (t: Test, wait: Promise<void>, ms: number): Promise<void> {
  mock.timers.tick(ms - 1)
  t.equal(await isOver(wait), false, `longer than ${ms - 1} ms`)
  mock.timers.tick(1)
  t.equal(await isOver(wait), true, `${ms} ms`)
}

t.test('a wait is the floor, and a random part of a span that doubles from the floor up to 30 seconds', async t => {
  const set = still(t)
  for (const chance of [0, 0.5, 0.99]) {
    set.chance = chance
    const backoff = new Backoff({ retryDelay: 1000 })
    for (const span of [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) await takes(t, backoff.wait(), 1000 + chance * span)
  }
})

t.test('the span is the first again when things went well; the floor is what it is at the time', async t => {
  const set = still(t)
  set.chance = 0.5
  const settings = { retryDelay: 1000 }
  const backoff = new Backoff(settings)
  await takes(t, backoff.wait(), 1500)
  await takes(t, backoff.wait(), 2000)
  backoff.reset()
  settings.retryDelay = 100
  await takes(t, backoff.wait(), 150)
  await takes(t, backoff.wait(), 200)
})

t.test('without a floor the waits grow still, and have no end', async t => {
  const set = still(t)
  set.chance = 0.5
  const backoff = new Backoff({ retryDelay: 0 })
  for (let n = 0; n < 1100; n++) {
    const wait = backoff.wait()
    mock.timers.tick(15_000)
    await wait
  }
  await takes(t, backoff.wait(), 15_000)
})

t.test('a wait is ended by what wakes it; one that an answer asked for is not, only stopped', async t => {
  still(t)
  const backoff = new Backoff({ retryDelay: 1000 })
  const short = backoff.wait()
  backoff.skip()
  t.equal(await isOver(short), true)
  const asked = backoff.wait(5000)
  backoff.skip()
  await takes(t, asked, 5000)
  const again = backoff.wait()
  backoff.skip()
  t.equal(await isOver(again), true, 'it holds for one wait')
  const stopped = backoff.wait(5000)
  backoff.stop()
  t.equal(await isOver(stopped), true)
})

t.test('what an answer asks for is the least to wait, not the most', async t => {
  still(t)
  const backoff = new Backoff({ retryDelay: 1000 })
  await takes(t, backoff.wait(500), 1000)
  await takes(t, backoff.wait(1500), 1500)
})

t.test('a timer runs after as long as a timer can count; one of more does not run at all', async t => {
  still(t)
  const longest = 2 ** 31 - 1
  const ran: number[] = []
  for (const ms of [longest, longest + 1, Infinity]) setTimer(() => { ran.push(ms) }, ms)
  mock.timers.tick(longest - 1)
  t.strictSame(ran, [])
  mock.timers.tick(2)
  t.strictSame(ran, [longest])
})
