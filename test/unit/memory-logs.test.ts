import t from 'tap'
import { MemoryLogs } from '../../lib/store/memory/memory-logs.js'
import { Log, type LogBounds } from '../../lib/log/log.js'
import { collectGarbage, waitUntilCollected } from '../support/gc.js'
import { waitUntil } from '../support/wait.js'

const ignoreAppends = { onAppend: (): void => {} }
const LARGE_BOUNDS: LogBounds = { entries: 1000, bytes: 1e9, age: 300_000 }
const LARGE_SIZE = 50 * 1024 * 1024

function measureHeap (): number {
  collectGarbage()
  return process.memoryUsage().heapUsed
}

t.test('all logs share one counter of positions, and a rejected entry does not increment it', async t => {
  const logs = new MemoryLogs()
  t.equal(logs.newestPosition, 0)
  const one = new Log(LARGE_BOUNDS, ignoreAppends)
  const two = new Log({ ...LARGE_BOUNDS, bytes: 3 }, ignoreAppends)
  logs.append(one, { frame: 'abc' })
  t.equal(logs.newestPosition, 1)
  logs.append(two, { frame: 'abc' })
  t.equal(logs.newestPosition, 2)
  t.throws(() => logs.append(two, { frame: 'abcd' }), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  logs.append(one, { frame: 'abc', except: ['excluded'] })
  t.equal(logs.newestPosition, 3)
  t.equal(logs.newestPosition, 3)
  t.equal(one.nextPosition(1), 3)
  t.equal(one.frameSuffixAt(one.indexAfter(1)), '3\nabc')
  t.strictSame([one.isExcluded(1, 'excluded'), one.isExcluded(3, 'excluded')], [false, true])
  t.equal(one.bytes, 6)
  t.match([one.lastPosition, two.lastPosition], [3, 2])
  logs.close()
})

t.test('each append calls the listener, when the entry is in the log', async t => {
  const logs = new MemoryLogs()
  const notified: number[] = []
  const log: Log = new Log(LARGE_BOUNDS, { onAppend: () => { notified.push(log.lastPosition) } })
  for (const frame of ['a', 'b']) logs.append(log, { frame })
  t.strictSame(notified, [1, 2])
  logs.close()
})

t.test('the sweep trims old entries of a log that nobody uses', async t => {
  const logs = new MemoryLogs()
  const first = new Log({ ...LARGE_BOUNDS, age: 10 }, ignoreAppends)
  const second = new Log({ ...LARGE_BOUNDS, age: 10 }, ignoreAppends)
  logs.append(first, { frame: 'a' })
  await waitUntil(() => first.length === 0, 'the sweep')
  t.match(first, { trimmedPosition: 1, trimReason: 'age', bytes: 0 })
  // The sweep stopped when all logs were empty. It starts again with the next entry, and runs until all are trimmed.
  logs.append(second, { frame: 'b' })
  logs.append(first, { frame: 'c' })
  await waitUntil(() => second.length === 0 && first.length === 0, 'the next sweep')
  t.match([second.trimmedPosition, first.trimmedPosition], [2, 3])
  logs.close()
})

t.test('the sweep applies the maximum age of each log, even if another log keeps its entries much longer', async t => {
  const logs = new MemoryLogs()
  const long = new Log(LARGE_BOUNDS, ignoreAppends)
  const short = new Log({ ...LARGE_BOUNDS, age: 10 }, ignoreAppends)
  logs.append(long, { frame: 'a' })
  logs.append(short, { frame: 'b' })
  await waitUntil(() => short.length === 0, 'the sweep')
  logs.append(short, { frame: 'c' })
  await waitUntil(() => short.length === 0, 'the next sweep')
  t.equal(long.length, 1)
  logs.close()
})

t.test('a trimmed entry is garbage-collected while its log is still in use', async t => {
  const logs = new MemoryLogs()
  const log = new Log({ ...LARGE_BOUNDS, entries: 2 }, ignoreAppends)
  const before = measureHeap()
  logs.append(log, { frame: 'a'.repeat(LARGE_SIZE) })
  t.ok(measureHeap() - before > LARGE_SIZE / 2, 'the entry is in memory')
  for (const frame of ['b', 'c']) logs.append(log, { frame })
  t.ok(measureHeap() - before < LARGE_SIZE / 2, 'the entry is collected')
  t.equal(log.length, 2)
  logs.close()
})

t.test('a released log that nobody reads is garbage-collected while the other logs are still in use', async () => {
  const logs = new MemoryLogs()
  const reference = (() => {
    const log = new Log(LARGE_BOUNDS, ignoreAppends)
    logs.append(log, { frame: 'a' })
    logs.release(log)
    return new WeakRef(log)
  })()
  await waitUntilCollected(reference, 'the released log')
  logs.close()
})
