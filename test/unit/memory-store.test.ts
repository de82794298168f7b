import t from 'tap'
import { memoryStore } from '../../lib/index.js'
import { settle } from '../../lib/options.js'
import { signal, within } from '../support/wait.js'

const alone = { broadcast: (): void => {}, expired: async (): Promise<void> => {} }

t.test('a producer does not wait for a session to which nothing was sent', async t => {
  const store = memoryStore(settle({}, 0), alone)
  t.equal(store.drained(), undefined)
  store.close('done')
})

t.test('a store that has closed forgets no session any more', async t => {
  const options = settle({ resumeTimeout: 1 }, 0)
  const store = memoryStore(options, alone)
  const session = store.open('one', undefined)
  if (session === undefined) throw new Error('there is no session')
  store.detach(session)
  t.strictSame(store.close('done'), [session])
  // As long as it waits, and longer.
  const later = signal()
  const another = memoryStore(options, { ...alone, expired: async () => { later.resolve() } })
  const other = another.open('another', undefined)
  if (other !== undefined) another.detach(other)
  await within(later.promise, 'the expiry in another store')
  t.equal(session.endedBy, 'done')
  t.equal(store.find('one'), session)
  another.close('done')
})
