import t from 'tap'
import { MemoryLogs } from '../../lib/store/memory/memory-logs.js'
import { Log, type LogBounds } from '../../lib/log/log.js'
import { collect, collected } from '../support/gc.js'
import { until } from '../support/wait.js'

const deaf = { onAppend: (): void => {} }
const roomy: LogBounds = { entries: 1000, bytes: 1e9, age: 300_000 }
const LARGE = 50 * 1024 * 1024

function heap (): number {
  collect()
  return process.memoryUsage().heapUsed
}

t.test('positions are taken from one counter for all logs, which a refused entry does not move', async t => {
  const logs = new MemoryLogs()
  t.equal(logs.head, 0)
  const one = new Log(roomy, deaf)
  const two = new Log({ ...roomy, bytes: 3 }, deaf)
  logs.append(one, { frame: 'abc' })
  t.equal(logs.head, 1)
  logs.append(two, { frame: 'abc' })
  t.equal(logs.head, 2)
  t.throws(() => logs.append(two, { frame: 'abcd' }), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  logs.append(one, { frame: 'abc', except: 'me' })
  t.equal(logs.head, 3)
  t.equal(logs.head, 3)
  t.equal(one.nextPosition(1), 3)
  t.equal(one.frameSuffixAt(one.indexAfter(1)), '3\nabc')
  t.strictSame([one.excludedAt(1), one.excludedAt(3)], [undefined, 'me'])
  t.equal(one.bytes, 6)
  t.match([one.lastPosition, two.lastPosition], [3, 2])
  logs.close()
})

t.test('the listener is woken by every append, after the entry is in the log', async t => {
  const logs = new MemoryLogs()
  const seen: number[] = []
  const log: Log = new Log(roomy, { onAppend: () => { seen.push(log.lastPosition) } })
  for (const frame of ['a', 'b']) logs.append(log, { frame })
  t.strictSame(seen, [1, 2])
  logs.close()
})

t.test('a log that is neither appended to nor read is emptied when its entries are too old', async t => {
  const logs = new MemoryLogs()
  const idle = new Log({ ...roomy, age: 10 }, deaf)
  const later = new Log({ ...roomy, age: 10 }, deaf)
  logs.append(idle, { frame: 'a' })
  await until(() => idle.length === 0, 'the sweep')
  t.match(idle, { trimmedPosition: 1, trimReason: 'age', bytes: 0 })
  // The sweep has stopped, and starts again with the next entry; one that is young outlives a round.
  logs.append(later, { frame: 'b' })
  logs.append(idle, { frame: 'c' })
  await until(() => later.length === 0 && idle.length === 0, 'the next sweep')
  t.match([later.trimmedPosition, idle.trimmedPosition], [2, 3])
  logs.close()
})

t.test('a log is swept by its own age where another keeps its entries far longer', async t => {
  const logs = new MemoryLogs()
  const long = new Log(roomy, deaf)
  const short = new Log({ ...roomy, age: 10 }, deaf)
  logs.append(long, { frame: 'a' })
  logs.append(short, { frame: 'b' })
  await until(() => short.length === 0, 'the sweep')
  logs.append(short, { frame: 'c' })
  await until(() => short.length === 0, 'the next sweep')
  t.equal(long.length, 1)
  logs.close()
})

t.test('what is trimmed is garbage, also while the log lives', async t => {
  const logs = new MemoryLogs()
  const log = new Log({ ...roomy, entries: 2 }, deaf)
  const before = heap()
  logs.append(log, { frame: 'a'.repeat(LARGE) })
  t.ok(heap() - before > LARGE / 2, 'it is kept')
  for (const frame of ['b', 'c']) logs.append(log, { frame })
  t.ok(heap() - before < LARGE / 2, 'and gone')
  t.equal(log.length, 2)
  logs.close()
})

t.test('a released log is garbage when nobody reads it, while the others live', async () => {
  const logs = new MemoryLogs()
  const reference = (() => {
    const log = new Log(roomy, deaf)
    logs.append(log, { frame: 'a' })
    logs.release(log)
    return new WeakRef(log)
  })()
  await collected(reference, 'a released log')
  logs.close()
})
