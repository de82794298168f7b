import t from 'tap'
import { memoryStore } from '../../lib/store/memory/memory-store.js'
import { resolveOptions } from '../../lib/options.js'
import { signal, within } from '../support/wait.js'

const callbacks = { onBroadcast: (): void => {}, onExpire: async (): Promise<void> => {} }

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
  const expired = signal()
  const otherStore = memoryStore(options, { ...callbacks, onExpire: async () => { expired.resolve() } })
  const otherSession = otherStore.open('other', undefined)
  if (otherSession !== undefined) otherStore.detach(otherSession)
  await within(expired.promise, 'the expiry in the other store')
  t.equal(session.closeReason, 'done')
  t.equal(store.find('one'), session)
  otherStore.close('done')
})
