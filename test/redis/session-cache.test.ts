import t from 'tap'
import type { Session } from '../../lib/index.js'
import { States } from '../../lib/store/redis/states.js'
import { handleOf, openSession } from '../support/memory-client.js'
import { collect, collected } from '../support/gc.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

t.test('a session that nobody uses is let go of, and found again', needsRedis, async t => {
  const { sessions } = await farProcess(t, await startRedis(t), {}, { lease: 100 })
  let session: Session | undefined = await openSession(sessions)
  const { id } = session
  await session.update({ nick: 'ann' })
  const known = new WeakRef(session)
  session = undefined
  await collected(known, 'it')
  t.equal((await handleOf(sessions, { id })).data.nick, 'ann')
})

t.test('a session\'s signal aborts, though nobody uses the session any more', needsRedis, async t => {
  const { sessions } = await farProcess(t, await startRedis(t), { resumeTimeout: 1000 }, { lease: 100 })
  const open = async (): Promise<AbortSignal> => (await openSession(sessions)).signal
  const unused = new WeakRef(await openSession(sessions))
  let aborted = false
  const listen = (signal: AbortSignal): void => { signal.addEventListener('abort', () => { aborted = true }) }
  listen(await open())
  await collected(unused, 'a session that nobody waits for')
  await until(() => aborted, 'the signal to abort')
})

t.test('a session that is in use is the same for all who ask, however long ago it was asked for', t => {
  const states = new States({ fenced: false })
  const state = states.of('id', { principal: undefined, openedAt: 0 })
  for (let n = 0; n < 5; n++) states.sweep()
  t.equal(states.at('id'), state)
  t.strictSame(states.living(), [state])
  t.end()
})

t.test('nothing is left of 100,000 sessions that were let go of', async t => {
  const states = new States({ fenced: false })
  const round = async (from: number): Promise<number> => {
    for (let n = 0; n < 10_000; n++) states.of(`session ${from + n}`, { principal: undefined, openedAt: 0 })
    for (let n = 0; n < 3; n++) {
      states.sweep()
      // What was looked at is not garbage before the turn is over.
      await new Promise(resolve => { setImmediate(resolve) })
      collect()
    }
    return process.memoryUsage().heapUsed
  }
  const before = await round(0)
  let after = before
  for (let from = 10_000; from <= 100_000; from += 10_000) after = await round(from)
  t.strictSame(states.living(), [])
  t.ok(after - before < 5_000_000, `${after - before} bytes more`)
})
