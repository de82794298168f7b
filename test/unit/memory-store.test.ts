import t from 'tap'
import type { MemorySession } from '../../lib/store/memory/memory-session.js'
import { memoryStore, type MemoryStore } from '../../lib/store/memory/memory-store.js'
import { resolveOptions } from '../../lib/options.js'
import { deferred, withTimeout } from '../support/wait.js'

const callbacks = { onBroadcast: (): void => {}, onExpire: async (): Promise<void> => {}, onJoin: async (): Promise<void> => {}, onLeave: async (): Promise<void> => {} }

t.test('waitForDrain does not wait for a session to which nothing was sent', async t => {
  const store = memoryStore(resolveOptions({}, 0), callbacks)
  t.equal(store.waitForDrain(), undefined)
  store.close('done')
})

t.test('a closed store does not remove sessions any more', async t => {
  const options = resolveOptions({ resumeTimeout: 1 }, 0)
  const store = memoryStore(options, callbacks)
  const session = store.open('one', undefined)
  if (session === undefined) throw new Error('there is no session')
  store.detach(session)
  t.strictSame(store.close('done'), [session])
  // A session that was detached later has expired in another store, so the timeout of this one has passed, too.
  const expired = deferred()
  const otherStore = memoryStore(options, { ...callbacks, onExpire: async () => { expired.resolve() } })
  const otherSession = otherStore.open('other', undefined)
  if (otherSession !== undefined) otherStore.detach(otherSession)
  await withTimeout(expired.promise, 'the expiry in the other store')
  t.equal(session.closeReason, 'done')
  t.equal(store.find('one'), session)
  otherStore.close('done')
})

/** Opens a session of a store, or throws if there are too many. */
function openSession (store: MemoryStore, id: string): MemorySession {
  const session = store.open(id, undefined)
  if (session === undefined) throw new Error('there is no session')
  return session
}

t.test('a session that was removed to make room cannot be attached any more', async t => {
  const store = memoryStore(resolveOptions({ maxSessions: 1 }, 0), callbacks)
  const session = openSession(store, 'one')
  t.equal(store.attach(session), 0)
  store.end(session, 'done', true)
  openSession(store, 'two')
  t.equal(store.attach(session), undefined)
  t.strictSame(store.stats(), { sessions: 1, channels: 0 })
  store.close('done')
})

t.test('channels that are kept count in maxBytes, and are removed when they are empty', async t => {
  const store = memoryStore(resolveOptions({ maxBytes: 100_000 }, 0), callbacks)
  const frame = 'x'.repeat(10_000)
  for (let n = 0; n < 50; n++) store.publish(`room ${n}`, { frame }, 60_000)
  const { channels } = store.stats()
  t.ok(channels > 5 && channels < 10, `${channels} channels`)
  t.throws(() => { store.publish('large', { frame: 'x'.repeat(2_000_000) }, 60_000) }, { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  t.equal(store.stats().channels, channels)
  store.close('done')
})

t.test('a new channel is independent of one with the same name whose former member can still read it', async t => {
  const store = memoryStore(resolveOptions({}, 0), callbacks)
  const [first, second] = [openSession(store, 'one'), openSession(store, 'two')]
  store.join(first, 'room', 0)
  store.publish('room', { frame: 'a' }, 0)
  store.leave(first, 'room')
  t.strictSame(store.join(second, 'room', 5).frames, [])
  store.publish('room', { frame: 'b' }, 60_000)
  store.end(first, 'done', false)
  t.equal(store.count('room'), 1)
  store.leave(second, 'room')
  store.end(second, 'done', false)
  t.strictSame(store.join(openSession(store, 'three'), 'room', 5).frames, ['b'])
  store.close('done')
})

t.test('a closed session keeps all that a stream has not written, and then the last 64 KiB', async t => {
  const store = memoryStore(resolveOptions({}, 0), callbacks)
  const session = openSession(store, 'one')
  const frame = 'x'.repeat(30_000)
  store.join(session, 'room', 0)
  for (let n = 0; n < 4; n++) {
    store.send(session, { frame })
    store.publish('room', { frame }, 0)
  }
  store.end(session, 'done', true)
  store.detach(session)
  t.strictSame([session.log?.length, session.ranges.length], [4, 2])
  session.cursor = Infinity
  store.detach(session)
  t.strictSame([session.log?.length, session.ranges.length], [2, 1])
  store.close('done')
})

t.test('a session that is detached after it was removed takes nothing from others', async t => {
  const store = memoryStore(resolveOptions({ maxSessions: 2 }, 0), callbacks)
  const [removed, other] = [openSession(store, 'one'), openSession(store, 'two')]
  for (const session of [removed, other]) store.join(session, 'room', 0)
  for (let n = 0; n < 4; n++) store.publish('room', { frame: 'x'.repeat(30_000) }, 0)
  store.leave(other, 'room')
  store.end(removed, 'done', true)
  openSession(store, 'three')
  t.equal(store.find('one'), undefined)
  removed.cursor = Infinity
  store.detach(removed)
  t.equal(other.ranges.at(-1)?.log.length, 4)
  store.close('done')
})
