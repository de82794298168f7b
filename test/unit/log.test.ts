import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { assertFits, Log, type LogBounds } from '../../lib/log/log.js'
import { ReferenceLog } from '../support/reference-log.js'
import { chooseSeed } from '../support/random.js'

const ignoreAppends = { onAppend: (): void => {} }
const LARGE_BOUNDS: LogBounds = { entries: 1000, bytes: 1e6, age: 1000 }

function createLog (bounds: Partial<LogBounds> = {}): Log {
  return new Log({ ...LARGE_BOUNDS, ...bounds }, ignoreAppends)
}

/** Appends a frame of this size. */
function push (log: Log, position: number, bytes = 1, appendedAt = 0): void {
  log.push({ frame: 'x'.repeat(bytes) }, position, appendedAt)
}

/** Lists the positions of all entries after a position. */
function listPositions (log: Log, after = 0): number[] {
  const positions: number[] = []
  for (let index = log.indexAfter(after); index < log.end; index++) positions.push(log.positionAt(index))
  return positions
}

t.test('an empty log has no entries, and none were trimmed', async t => {
  const log = createLog()
  t.match(log, { length: 0, bytes: 0, lastPosition: 0, trimmedPosition: 0 })
  t.strictSame(listPositions(log), [])
  log.expire(1e9)
  t.equal(log.trimmedPosition, 0)
})

t.test('a log above its maximum number of entries trims the oldest first', async t => {
  const log = createLog({ entries: 2 })
  for (const position of [3, 5, 9, 10]) push(log, position)
  t.strictSame(listPositions(log), [9, 10])
  t.match(log, { length: 2, lastPosition: 10, trimmedPosition: 5, trimReason: 'count' })
})

t.test('a log above its maximum size in bytes trims as many entries as the new one needs', async t => {
  const log = createLog({ bytes: 10 })
  for (const [index, bytes] of [4, 3, 3, 6].entries()) push(log, index + 1, bytes)
  t.strictSame(listPositions(log), [3, 4])
  t.match(log, { bytes: 9, trimmedPosition: 2, trimReason: 'bytes' })
  push(log, 5, 10)
  t.strictSame(listPositions(log), [5])
  t.match(log, { bytes: 10, trimmedPosition: 4 })
})

t.test('entries older than the maximum age are trimmed by an append and by expire, but not at exactly that age', async t => {
  const log = createLog({ age: 100 })
  push(log, 1, 1, 0)
  push(log, 2, 1, 50)
  log.expire(100)
  t.equal(log.length, 2)
  log.expire(101)
  t.strictSame(listPositions(log), [2])
  t.match(log, { trimmedPosition: 1, trimReason: 'age' })
  push(log, 3, 1, 151)
  t.strictSame(listPositions(log), [3])
  log.expire(1000)
  t.match(log, { length: 0, bytes: 0, lastPosition: 3, trimmedPosition: 3 })
})

t.test('an entry larger than the whole log is rejected; its size is counted in bytes, not characters', async t => {
  const bounds = { ...LARGE_BOUNDS, bytes: 4 }
  assertFits({ frame: 'éé' }, bounds)
  t.throws(() => { assertFits({ frame: 'ééx' }, bounds) }, { code: 'FST_SSE_ENTRY_TOO_LARGE', message: 'An event of 5 bytes does not fit a log of 4 bytes' })
  const log = new Log(bounds, ignoreAppends)
  log.push({ frame: 'éé' }, 100, 0)
  t.match(log, { length: 1, bytes: 4 }, 'the size does not include the id')
})

t.test('markTrimmed records a loss up to a position, and never moves that position back', async t => {
  const log = createLog({ entries: 1 })
  log.markTrimmed(5, 'age')
  t.match(log, { trimmedPosition: 5, trimReason: 'age', lastPosition: 5, length: 0 })
  log.markTrimmed(5, 'bytes')
  log.markTrimmed(4, 'bytes')
  t.match(log, { trimmedPosition: 5, trimReason: 'age' })
  push(log, 7)
  log.markTrimmed(6, 'bytes')
  t.match(log, { trimmedPosition: 6, trimReason: 'bytes', lastPosition: 7 })
  t.strictSame(listPositions(log), [7])
  push(log, 8)
  t.match(log, { trimmedPosition: 7, trimReason: 'count', lastPosition: 8 })
})

t.test('the excluded sessions of an entry are kept, and count as memory, as long as the entry', async t => {
  const log = createLog({ entries: 1 })
  const isExcluded = (): boolean[] => [log.isExcluded(1, 'one'), log.isExcluded(1, 'two'), log.isExcluded(1, 'three'), log.isExcluded(2, 'one')]
  log.push({ frame: 'x', except: ['one', 'two'] }, 1, 0)
  t.strictSame(isExcluded(), [true, true, false, false])
  t.equal(log.weight, 201)
  log.push({ frame: 'x' }, 2, 0)
  t.strictSame(isExcluded(), [false, false, false, false])
  t.equal(log.weight, 101)
})

t.test('trimming an entry before the trimmed position does not change that position or its reason', async t => {
  const log = createLog({ entries: 2 })
  push(log, 1)
  push(log, 2)
  log.markTrimmed(2, 'store')
  push(log, 3)
  t.match(log, { trimmedPosition: 2, trimReason: 'store', length: 2 })
})

t.test('an entry replaces the one with the same key, which does not count as trimmed', async t => {
  const log = createLog({ entries: 3 })
  for (const [index, key] of [undefined, 'a', 'b', 'a', 'a'].entries()) log.push({ frame: 'xx', key }, index + 1, 0)
  t.strictSame(listPositions(log), [1, 3, 5])
  t.match(log, { length: 3, bytes: 6, lastPosition: 5, trimmedPosition: 0 })
  push(log, 6)
  push(log, 7)
  t.match(log, { length: 3, trimmedPosition: 3 })
  log.push({ frame: 'xx', key: 'b' }, 8, 0)
  t.strictSame(listPositions(log), [6, 7, 8], 'the key of a trimmed entry is free')
  log.push({ frame: 'xx', key: 'b' }, 9, 0)
  t.match(log, { length: 3, trimmedPosition: 5 })
})

t.test('keys that are not used any more take no memory', async t => {
  const log = createLog({ entries: 10 })
  for (let position = 1; position <= 1000; position++) log.push({ frame: 'x', key: `key ${position}` }, position, 0)
  t.ok(log.weight < 10 * 400, String(log.weight))
  log.expire(1e9)
  t.equal(log.weight, 0)
})

t.test('an older entry that was replaced is not added', async t => {
  const log = createLog()
  for (const [key, position] of [['a', 5], ['c', 6]] as const) log.push({ frame: 'x', key }, position, 0)
  log.prepend([['a', 1], [undefined, 2], ['b', 3]].map(([key, position]) => ({ input: { frame: 'x', key: key as string | undefined }, position: Number(position), appendedAt: 0 })))
  t.strictSame(listPositions(log), [2, 3, 5, 6])
  t.match(log, { length: 4, bytes: 4 })
  for (const [index, key] of ['a', 'b', 'c'].entries()) log.push({ frame: 'x', key }, 7 + index, 0)
  t.strictSame(listPositions(log), [2, 7, 8, 9])
})

t.test('after random appends and expiries a log keeps, finds and trims the same entries as a plain array', async t => {
  const bounds = { entries: 40, bytes: 200, age: 60 }
  const steps = fc.array(fc.record({
    skipped: fc.integer({ min: 1, max: 5 }),
    bytes: fc.integer({ min: 1, max: 20 }),
    elapsed: fc.constantFrom(0, 0, 0, 1, 2, 30, 70),
    callsExpire: fc.boolean(),
    key: fc.constantFrom(...Array.from({ length: 40 }, () => undefined), 'a', 'b')
  }), { maxLength: 150, size: 'max' })
  let longLogs = 0
  fc.assert(fc.property(steps, steps => {
    const log = createLog(bounds)
    const naive = new ReferenceLog(bounds)
    let time = 0
    let position = 0
    for (const { skipped, bytes, elapsed, callsExpire, key } of steps) {
      time += elapsed
      position += skipped
      if (callsExpire) {
        log.expire(time)
        naive.expire(time)
      }
      log.push({ frame: 'x'.repeat(bytes), key }, position, time)
      naive.append({ position, bytes, appendedAt: time, key })
      if (naive.kept.length > 16) longLogs++
      const { entry, reason } = naive.trimmed.at(-1) ?? {}
      assert.deepEqual([log.length, log.bytes, log.lastPosition, log.trimmedPosition], [naive.kept.length, naive.bytes, position, entry?.position ?? 0])
      if (reason !== undefined) assert.equal(log.trimReason, reason)
    }
    for (let after = 0; after <= position + 1; after++) {
      const kept = naive.kept.map(entry => entry.position).filter(kept => kept > after)
      assert.deepEqual(listPositions(log, after), kept)
      assert.equal(log.nextPosition(after), kept[0] ?? Infinity)
    }
  }), { seed: chooseSeed(t), numRuns: 300 })
  t.ok(longLogs > 100, 'logs were long enough for the binary search')
})
