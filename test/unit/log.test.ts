import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { assertFits, Log, type LogBounds } from '../../lib/log/log.js'
import { NaiveLog } from '../support/naive-log.js'
import { seedOf } from '../support/random.js'

const deaf = { onAppend: (): void => {} }
const roomy: LogBounds = { entries: 1000, bytes: 1e6, age: 1000 }

function logOf (bounds: Partial<LogBounds> = {}): Log {
  return new Log({ ...roomy, ...bounds }, deaf)
}

/** Appends a frame of so many bytes. */
function push (log: Log, position: number, bytes = 1, appendedAt = 0): void {
  log.push({ frame: 'x'.repeat(bytes) }, position, appendedAt)
}

/** Positions of what the log has after a position. */
function positions (log: Log, after = 0): number[] {
  const found: number[] = []
  for (let index = log.indexAfter(after); index < log.end; index++) found.push(log.positionAt(index))
  return found
}

t.test('an empty log has nothing and has lost nothing', async t => {
  const log = logOf()
  t.match(log, { length: 0, bytes: 0, lastPosition: 0, trimmedPosition: 0 })
  t.strictSame(positions(log), [])
  log.expire(1e9)
  t.equal(log.trimmedPosition, 0)
})

t.test('entries over the count are trimmed, oldest first', async t => {
  const log = logOf({ entries: 2 })
  for (const position of [3, 5, 9, 10]) push(log, position)
  t.strictSame(positions(log), [9, 10])
  t.match(log, { length: 2, lastPosition: 10, trimmedPosition: 5, trimReason: 'count' })
})

t.test('entries over the bytes are trimmed, as many as the new one needs', async t => {
  const log = logOf({ bytes: 10 })
  for (const [index, bytes] of [4, 3, 3, 6].entries()) push(log, index + 1, bytes)
  t.strictSame(positions(log), [3, 4])
  t.match(log, { bytes: 9, trimmedPosition: 2, trimReason: 'bytes' })
  push(log, 5, 10)
  t.strictSame(positions(log), [5])
  t.match(log, { bytes: 10, trimmedPosition: 4 })
})

t.test('entries over the age are trimmed by an append and by expire, not at the age itself', async t => {
  const log = logOf({ age: 100 })
  push(log, 1, 1, 0)
  push(log, 2, 1, 50)
  log.expire(100)
  t.equal(log.length, 2)
  log.expire(101)
  t.strictSame(positions(log), [2])
  t.match(log, { trimmedPosition: 1, trimReason: 'age' })
  push(log, 3, 1, 151)
  t.strictSame(positions(log), [3])
  log.expire(1000)
  t.match(log, { length: 0, bytes: 0, lastPosition: 3, trimmedPosition: 3 })
})

t.test('an entry that the log could never keep is refused by its bytes, not its characters', async t => {
  const bounds = { ...roomy, bytes: 4 }
  assertFits({ frame: 'éé' }, bounds)
  t.throws(() => { assertFits({ frame: 'ééx' }, bounds) }, { code: 'FST_SSE_ENTRY_TOO_LARGE', message: 'An event of 5 bytes does not fit a log of 4 bytes' })
  const log = new Log(bounds, deaf)
  log.push({ frame: 'éé' }, 100, 0)
  t.match(log, { length: 1, bytes: 4 }, 'the id does not count')
})

t.test('a loss that is recorded is one up to its position, and never takes an earlier one back', async t => {
  const log = logOf({ entries: 1 })
  log.markTrimmed(5, 'age')
  t.match(log, { trimmedPosition: 5, trimReason: 'age', lastPosition: 5, length: 0 })
  log.markTrimmed(5, 'bytes')
  log.markTrimmed(4, 'bytes')
  t.match(log, { trimmedPosition: 5, trimReason: 'age' })
  push(log, 7)
  log.markTrimmed(6, 'bytes')
  t.match(log, { trimmedPosition: 6, trimReason: 'bytes', lastPosition: 7 })
  t.strictSame(positions(log), [7])
  push(log, 8)
  t.match(log, { trimmedPosition: 7, trimReason: 'count', lastPosition: 8 })
})

t.test('whom an entry excepts is kept as long as the entry', async t => {
  const log = logOf({ entries: 1 })
  log.push({ frame: 'x', except: 'me' }, 1, 0)
  t.equal(log.excludedAt(1), 'me')
  log.push({ frame: 'x' }, 2, 0)
  t.strictSame([log.excludedAt(1), log.excludedAt(2)], [undefined, undefined])
})

t.test('a trimmed entry below a recorded loss leaves that as it is', async t => {
  const log = logOf({ entries: 2 })
  push(log, 1)
  push(log, 2)
  log.markTrimmed(2, 'store')
  push(log, 3)
  t.match(log, { trimmedPosition: 2, trimReason: 'store', length: 2 })
})

t.test('through any appends and expiries a log keeps, finds and has lost what a plain array does', async t => {
  const small = { entries: 40, bytes: 200, age: 60 }
  const steps = fc.array(fc.record({
    ahead: fc.integer({ min: 1, max: 5 }),
    bytes: fc.integer({ min: 1, max: 20 }),
    wait: fc.constantFrom(0, 0, 0, 1, 2, 30, 70),
    expires: fc.boolean()
  }), { maxLength: 150, size: 'max' })
  let halved = 0
  fc.assert(fc.property(steps, steps => {
    const log = logOf(small)
    const naive = new NaiveLog(small)
    let time = 0
    let position = 0
    for (const { ahead, bytes, wait, expires } of steps) {
      time += wait
      position += ahead
      if (expires) {
        log.expire(time)
        naive.expire(time)
      }
      push(log, position, bytes, time)
      naive.push({ position, bytes, appendedAt: time })
      if (naive.kept.length > 16) halved++
      const { entry, reason } = naive.lost.at(-1) ?? {}
      assert.deepEqual([log.length, log.bytes, log.lastPosition, log.trimmedPosition], [naive.kept.length, naive.bytes, position, entry?.position ?? 0])
      if (reason !== undefined) assert.equal(log.trimReason, reason)
    }
    for (let after = 0; after <= position + 1; after++) {
      const kept = naive.kept.map(entry => entry.position).filter(kept => kept > after)
      assert.deepEqual(positions(log, after), kept)
      assert.equal(log.nextPosition(after), kept[0] ?? Infinity)
    }
  }), { seed: seedOf(t), numRuns: 300 })
  t.ok(halved > 100, 'logs were long enough to be searched by halving')
})
