import t from 'tap'
import { MemoryStore } from '../lib/store/memory.js'
import type { Log, LogBounds } from '../lib/store/log.js'
import { collected } from './support/garbage.js'
import { until } from './support/within.js'

const deaf = { wake: (): void => {} }
const roomy: LogBounds = { entries: 1000, bytes: 1e9, age: 300_000 }

t.test('positions are taken from one counter for all logs, which a refused entry does not move', async t => {
  const store = new MemoryStore()
  t.equal(store.head(), 0)
  const one = store.log('one', roomy, deaf)
  const two = store.log('two', { ...roomy, bytes: 3 }, deaf)
  t.equal(store.append(one, { frame: 'abc' }), 1)
  t.equal(store.append(two, { frame: 'abc' }), 2)
  t.throws(() => store.append(two, { frame: 'abcd' }), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  t.equal(store.append(one, { frame: 'abc', except: 'me' }), 3)
  t.equal(store.head(), 3)
  t.match(one.at(one.indexAfter(1)), { position: 3, rest: '3\nabc', except: 'me', bytes: 3 })
  t.match([one.last, two.last], [3, 2])
  store.close()
})

t.test('the listener is woken by every append, after the entry is in the log', async t => {
  const store = new MemoryStore()
  const seen: number[] = []
  const log: Log = store.log('one', roomy, { wake: () => { seen.push(log.last) } })
  for (const frame of ['a', 'b']) store.append(log, { frame })
  t.strictSame(seen, [1, 2])
  store.close()
})

t.test('a log that is neither appended to nor read is emptied when its entries are too old', async t => {
  const store = new MemoryStore()
  const idle = store.log('idle', { ...roomy, age: 10 }, deaf)
  const later = store.log('later', { ...roomy, age: 10 }, deaf)
  store.append(idle, { frame: 'a' })
  await until(() => idle.length === 0, 'the sweep')
  t.match(idle, { trimmed: 1, trimmedBy: 'age', bytes: 0 })
  // The sweep has stopped, and starts again with the next entry; one that is young outlives a round.
  store.append(later, { frame: 'b' })
  store.append(idle, { frame: 'c' })
  await until(() => later.length === 0 && idle.length === 0, 'the next sweep')
  t.match([later.trimmed, idle.trimmed], [2, 3])
  store.close()
})

t.test('a log is swept by its own age where another keeps its entries far longer', async t => {
  const store = new MemoryStore()
  const long = store.log('long', roomy, deaf)
  const short = store.log('short', { ...roomy, age: 10 }, deaf)
  store.append(long, { frame: 'a' })
  store.append(short, { frame: 'b' })
  await until(() => short.length === 0, 'the sweep')
  store.append(short, { frame: 'c' })
  await until(() => short.length === 0, 'the next sweep')
  t.equal(long.length, 1)
  store.close()
})

t.test('what is trimmed is garbage, also while the log lives', async t => {
  const store = new MemoryStore()
  const log = store.log('one', { ...roomy, entries: 2 }, deaf)
  store.append(log, { frame: 'a' })
  const reference = new WeakRef(log.at(0) ?? {})
  for (const frame of ['b', 'c']) store.append(log, { frame })
  await collected(reference, 'a trimmed entry')
  t.equal(log.length, 2)
  store.close()
})

t.test('a released log is garbage when nobody reads it, while the store lives', async t => {
  const store = new MemoryStore()
  const reference = (() => {
    const log = store.log('one', roomy, deaf)
    store.append(log, { frame: 'a' })
    store.release(log)
    return new WeakRef(log)
  })()
  await collected(reference, 'a released log')
  t.equal(store.append(store.log('one', roomy, deaf), { frame: 'a' }), 2, 'and its name can be given out again')
  store.close()
})
