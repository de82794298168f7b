import t from 'tap'
import { Log, type LogPosition } from '../../lib/client/shared/log.js'
import { chooseSeed, createRandom } from '../support/random.js'

const createId = (position: number): string => `session.${position.toString(36)}`

const readText = (log: Log, position: LogPosition): string | undefined => log.read(position)?.entries.map(({ text }) => text).join('')

t.test('each tab reads every event once and in order, or is behind the log', t => {
  const next = createRandom(chooseSeed(t))
  const randomBelow = (limit: number): number => Math.floor(next() * limit)
  let readCount = 0
  let missingCount = 0
  const problems: string[] = []
  for (let history = 0; history < 200; history++) {
    const maxSize = 10 ** (1 + randomBelow(3))
    const log = new Log(createId(0), maxSize)
    /** The sizes of the blocks that the log still has, with the numbers of the events; 0 for a block that is not an event. */
    const kept: Array<{ size: number, event: number }> = []
    let lastSent = 0
    const tabs = Array.from({ length: 3 }, () => ({ position: { cursor: log.start } as LogPosition, lastRead: 0 }))
    for (let step = 0; step < 40; step++) {
      if (randomBelow(2) === 0) {
        // A block that is not an event has the id of the event before it.
        const event = randomBelow(4) === 0 ? 0 : ++lastSent
        const text = `<${event}>${'x'.repeat(randomBelow(20))}`
        log.push({ cursorAfter: createId(lastSent), text })
        kept.push({ size: text.length, event })
        // Until the log is trimmed, it has all blocks.
        if (randomBelow(2) === 0) continue
        log.trim()
        while (kept.length > 1 && kept.reduce((sum, { size }) => sum + size, 0) > maxSize) kept.shift()
        continue
      }
      const tab = tabs[randomBelow(tabs.length)] as typeof tabs[number]
      // A tab that reconnects has only the id of its last event.
      if (randomBelow(4) === 0) tab.position = { cursor: tab.position.cursor }
      if (log.isBehindLog(tab.position)) {
        if (kept.some(({ event }) => event === tab.lastRead + 1)) problems.push(`event ${tab.lastRead + 1} is not missing`)
        missingCount++
        Object.assign(tab, { position: { cursor: log.end }, lastRead: lastSent })
        continue
      }
      const result = log.read(tab.position)
      const events = [...(result?.entries ?? []).map(({ text }) => text).join('').matchAll(/<(\d+)>/g)].map(([, event]) => Number(event)).filter(event => event !== 0)
      const expected = Array.from({ length: lastSent - tab.lastRead }, (_, index) => tab.lastRead + 1 + index)
      if (events.join() !== expected.join()) problems.push(`read ${events.join()} instead of ${expected.join()}`)
      tab.position = result?.position ?? tab.position
      tab.lastRead = lastSent
      readCount++
    }
  }
  t.strictSame(problems.slice(0, 5), [])
  t.ok(readCount > 500 && missingCount > 20, `${readCount} reads, ${missingCount} times events were missing`)
  t.end()
})

t.test('a tab reads what follows its cursor, whatever stream it has received it from', t => {
  const log = new Log(createId(10))
  log.push({ cursorAfter: createId(10), text: 'block' })
  for (const position of [12, 14]) log.push({ cursorAfter: createId(position), text: String(position) })
  const read = (cursor: string): string | undefined => readText(log, { cursor })
  t.equal(read(createId(9)), undefined, 'it is older than the log')
  t.ok(log.isBehindLog({ cursor: createId(9) }))
  t.equal(read(createId(10)), 'block1214', 'the block after the event may be new')
  t.equal(read(createId(11)), '1214', 'the event at the cursor was replaced by a later one')
  t.equal(read(createId(12)), '14')
  t.equal(read(createId(14)), undefined, 'nothing is new')
  t.equal(read(createId(20)), undefined, 'the log is a replay')
  t.notOk(log.isBehindLog({ cursor: createId(20) }))
  for (const cursor of ['other.c', '']) {
    t.equal(read(cursor), undefined, 'it is of another session')
    t.notOk(log.isBehindLog({ cursor }))
  }
  t.equal(readText(log, { cursor: createId(12), logId: 'other', sequence: 0 }), '14', 'a sequence number of another log does not count')
  t.end()
})

t.test('a gap is replayed to tabs that have not read it from this log', t => {
  const log = new Log(createId(4))
  log.push({ cursorAfter: createId(5), text: `id: ${createId(5)}\n[gap to 7]`, gapEnd: 7 })
  log.push({ cursorAfter: createId(6), text: '6' })
  log.push({ cursorAfter: createId(8), text: '8' })
  t.equal(readText(log, { cursor: createId(6) }), '[gap to 7]8')
  t.equal(readText(log, { cursor: createId(8) }), undefined, 'the gap ends before the cursor')
  t.equal(readText(log, { cursor: createId(6), logId: log.logId, sequence: 2 }), '8', 'it has read the gap from this log')
  t.end()
})

t.test('after a rollback of the store, a tab with a repeated id has read the latest event with it', t => {
  const log = new Log(createId(4))
  for (const position of [5, 6, 7, 8]) log.push({ cursorAfter: createId(position), text: `old${position} ` })
  log.push({ cursorAfter: createId(5), text: 'gap ', gapEnd: 5 })
  for (const position of [6, 7]) log.push({ cursorAfter: createId(position), text: `new${position} ` })
  t.equal(readText(log, { cursor: createId(6) }), 'new7 ')
  t.equal(readText(log, { cursor: createId(8) }), 'gap new6 new7 ')
  t.end()
})

t.test('a cursor inside a gap that was removed is behind the log', t => {
  const log = new Log(createId(4), 10)
  log.push({ cursorAfter: createId(5), text: '5' })
  const position = { cursor: createId(5), logId: log.logId, sequence: 1 }
  log.push({ cursorAfter: createId(5), text: '[gap to 8]', gapEnd: 8 })
  log.push({ cursorAfter: createId(9), text: 'the event 9' })
  t.notOk(log.isBehindLog(position), 'it is not trimmed yet')
  log.trim()
  t.equal(log.start, createId(5))
  t.ok(log.isBehindLog(position))
  t.ok(log.isBehindLog({ cursor: createId(7) }))
  t.equal(readText(log, position), undefined)
  t.equal(readText(log, { cursor: createId(8) }), 'the event 9')
  t.end()
})

t.test('the position after the close is higher than all others', t => {
  const log = new Log(createId(1))
  log.push({ cursorAfter: 'closed', text: 'close' })
  t.equal(log.end, 'closed')
  t.equal(readText(log, { cursor: createId(1) }), 'close')
  t.equal(readText(log, { cursor: createId(3) }), 'close')
  t.end()
})
