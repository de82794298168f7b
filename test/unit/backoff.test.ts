import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { createBackoff, setTimer } from '../../lib/client/backoff.js'

/** Replaces timers and `Math.random` until the test ends. The test sets `value`, which `Math.random` returns. */
function mockTimersAndRandom (t: Test): { value: number } {
  const originalRandom = Math.random
  const random = { value: 0 }
  Math.random = () => random.value
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => {
    Math.random = originalRandom
    mock.timers.reset()
  })
  return random
}

async function isSettled (wait: Promise<void>): Promise<boolean> {
  return await Promise.race([wait.then(() => true), new Promise<boolean>(resolve => { setImmediate(resolve, false) })])
}

/** Asserts that a wait takes exactly this time. */
async function assertDuration (t: Test, wait: Promise<void>, ms: number): Promise<void> {
  mock.timers.tick(ms - 1)
  t.equal(await isSettled(wait), false, `longer than ${ms - 1} ms`)
  mock.timers.tick(1)
  t.equal(await isSettled(wait), true, `${ms} ms`)
}

t.test('the delay is the retry delay plus jitter; the maximum of the jitter doubles up to 10 seconds', async t => {
  const random = mockTimersAndRandom(t)
  for (const value of [0, 0.5, 0.99]) {
    random.value = value
    const backoff = createBackoff({ retryDelay: 1000 })
    for (const maxJitter of [1000, 2000, 4000, 8000, 10_000, 10_000]) await assertDuration(t, backoff.wait(0), 1000 + value * maxJitter)
  }
})

t.test('a reset makes the next delay short again, and a changed retry delay applies to it', async t => {
  const random = mockTimersAndRandom(t)
  random.value = 0.5
  const settings = { retryDelay: 1000 }
  const backoff = createBackoff(settings)
  await assertDuration(t, backoff.wait(0), 1500)
  await assertDuration(t, backoff.wait(0), 2000)
  backoff.reset()
  settings.retryDelay = 100
  await assertDuration(t, backoff.wait(0), 150)
  await assertDuration(t, backoff.wait(0), 200)
})

t.test('with a retry delay of 0, delays still grow up to the maximum, after any number of failures', async t => {
  const random = mockTimersAndRandom(t)
  random.value = 0.5
  const backoff = createBackoff({ retryDelay: 0 })
  for (let n = 0; n < 1100; n++) {
    const wait = backoff.wait(0)
    mock.timers.tick(5000)
    await wait
  }
  await assertDuration(t, backoff.wait(0), 5000)
})

t.test('skip ends a delay, but not one that the server requires; stop ends both', async t => {
  mockTimersAndRandom(t)
  const backoff = createBackoff({ retryDelay: 1000 })
  const skipped = backoff.wait(0)
  backoff.retryNow()
  t.equal(await isSettled(skipped), true)
  const required = backoff.wait(5000)
  backoff.retryNow()
  await assertDuration(t, required, 5000)
  const next = backoff.wait(0)
  backoff.retryNow()
  t.equal(await isSettled(next), true, 'the requirement applies to one delay only')
  const stopped = backoff.wait(5000)
  backoff.stop()
  t.equal(await isSettled(stopped), true)
})

t.test('Retry-After is a minimum of the delay, not a maximum', async t => {
  mockTimersAndRandom(t)
  const backoff = createBackoff({ retryDelay: 1000 })
  await assertDuration(t, backoff.wait(500), 1000)
  await assertDuration(t, backoff.wait(1500), 1500)
})

t.test('a timer runs after at most the longest delay of setTimeout; with a longer delay it never runs', async t => {
  mockTimersAndRandom(t)
  const longest = 2 ** 31 - 1
  const ran: number[] = []
  for (const ms of [longest, longest + 1, Infinity]) setTimer(() => { ran.push(ms) }, ms)
  mock.timers.tick(longest - 1)
  t.strictSame(ran, [])
  mock.timers.tick(2)
  t.strictSame(ran, [longest])
})
