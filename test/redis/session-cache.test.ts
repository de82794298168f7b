import t from 'tap'
import type { Session } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { StateCache } from '../../lib/store/redis/state-cache.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { collectGarbage, waitUntilCollected } from '../support/gc.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode, type ProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

/** Opens a session whose client disconnects before its stream starts. */
async function openUnused ({ sessions }: ProxiedNode): Promise<Session> {
  const session = await openSession(sessions)
  session[kInternals].release()
  return session
}

const createCache = (): StateCache<{ readonly id: string }, undefined> => new StateCache(id => ({ id }), () => true)

t.test('releases an unused session from memory, and loads it again', needsRedis, async t => {
  const node = await openProxiedNode(t, await startRedis(t), {}, { lease: 100 })
  let session: Session | undefined = await openUnused(node)
  const { id } = session
  await session.update({ nick: 'ann' })
  const weakSession = new WeakRef(session)
  session = undefined
  await waitUntilCollected(weakSession, 'the unused session')
  t.equal((await findSession(node.sessions, { id })).data.nick, 'ann')
})

t.test('the signal of a session aborts even if the session is no longer referenced', needsRedis, async t => {
  const node = await openProxiedNode(t, await startRedis(t), { resumeTimeout: 1000 }, { lease: 100 })
  const open = async (): Promise<AbortSignal> => (await openUnused(node)).signal
  const unused = new WeakRef(await openUnused(node))
  let aborted = false
  const listen = (signal: AbortSignal): void => { signal.addEventListener('abort', () => { aborted = true }) }
  listen(await open())
  await waitUntilCollected(unused, 'a session without a listener')
  await waitUntil(() => aborted, 'the signal to abort')
})

t.test('returns the same state while a session is in use', t => {
  const cache = createCache()
  const state = cache.getOrCreate('id', undefined)
  for (let n = 0; n < 5; n++) cache.sweep()
  t.equal(cache.get('id'), state)
  t.strictSame(cache.listOpen(), [state])
  t.end()
})

t.test('a state that is not retained is released when nothing uses it', async t => {
  const cache = new StateCache<{ readonly id: string }, undefined>(id => ({ id }), () => true, ({ id }) => id !== 'delivery')
  const retained = new WeakRef(cache.getOrCreate('other', undefined))
  await waitUntilCollected(new WeakRef(cache.getOrCreate('delivery', undefined)), 'the delivery')
  t.strictSame([cache.use('delivery'), retained.deref()?.id], [undefined, 'other'])
})

t.test('keeps no memory for 100,000 released sessions', async t => {
  const cache = createCache()
  const round = async (from: number): Promise<number> => {
    for (let n = 0; n < 10_000; n++) cache.getOrCreate(`session ${from + n}`, undefined)
    for (let n = 0; n < 3; n++) {
      cache.sweep()
      // A dereferenced WeakRef keeps its target alive until the end of the event loop tick.
      await new Promise(resolve => { setImmediate(resolve) })
      collectGarbage()
    }
    return process.memoryUsage().heapUsed
  }
  const before = await round(0)
  let after = before
  for (let from = 10_000; from <= 100_000; from += 10_000) after = await round(from)
  t.strictSame(cache.listOpen(), [])
  t.ok(after - before < 5_000_000, `${after - before} bytes more`)
})
