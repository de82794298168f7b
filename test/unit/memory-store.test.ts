import t from 'tap'
import { memoryStore } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { signal, within } from '../support/wait.js'

const alone = { onBroadcast: (): void => {}, onExpire: async (): Promise<void> => {} }

t.test('a producer does not wait for a session to which nothing was sent', async t => {
  const store = memoryStore(resolveOptions({}, 0), alone)
  t.equal(store.waitForDrain(), undefined)
  store.close('done')
})

t.test('a store that has closed forgets no session any more', async t => {
  const options = resolveOptions({ resumeTimeout: 1 }, 0)
  const store = memoryStore(options, alone)
  const session = store.open('one', undefined)
  if (session === undefined) throw new Error('there is no session')
  store.detach(session)
  t.strictSame(store.close('done'), [session])
  // As long as it waits, and longer.
  const later = signal()
  const another = memoryStore(options, { ...alone, onExpire: async () => { later.resolve() } })
  const other = another.open('another', undefined)
  if (other !== undefined) another.detach(other)
  await within(later.promise, 'the expiry in another store')
  t.equal(session.closeReason, 'done')
  t.equal(store.find('one'), session)
  another.close('done')
})
