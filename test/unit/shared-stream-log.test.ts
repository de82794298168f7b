import t from 'tap'
import { Log, type Position } from '../../lib/client/shared/log.js'
import { chooseSeed, createRandom } from '../support/random.js'

const createId = (position: number): string => `session.${position.toString(36)}`

t.test('each tab reads every event once and in order, or learns that events are missing', t => {
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
    let last = 0
    const tabs = Array.from({ length: 3 }, () => ({ position: { cursor: log.start } as Position, last: 0 }))
    for (let step = 0; step < 40; step++) {
      if (randomBelow(2) === 0) {
        // A block that is not an event has the id of the event before it.
        const event = randomBelow(4) === 0 ? 0 : ++last
        const text = `<${event}>${'x'.repeat(randomBelow(20))}`
        log.push({ id: createId(last), text })
        kept.push({ size: text.length, event })
        while (kept.length > 1 && kept.reduce((sum, { size }) => sum + size, 0) > maxSize) kept.shift()
        continue
      }
      const tab = tabs[randomBelow(tabs.length)] as typeof tabs[number]
      // A page that was loaded again knows only the id of its last event.
      if (randomBelow(4) === 0) tab.position = { cursor: tab.position.cursor }
      if (log.find(tab.position) === undefined) {
        if (kept.some(({ event }) => event === tab.last + 1)) problems.push(`event ${tab.last + 1} is not missing`)
        missingCount++
        Object.assign(tab, { position: { cursor: log.end }, last })
        continue
      }
      const result = log.read('tab', tab.position)
      const events = [...(result?.text ?? '').matchAll(/<(\d+)>/g)].map(([, event]) => Number(event)).filter(event => event !== 0)
      const expected = Array.from({ length: last - tab.last }, (_, index) => tab.last + 1 + index)
      if (events.join() !== expected.join()) problems.push(`read ${events.join()} instead of ${expected.join()}`)
      tab.position = result?.position ?? tab.position
      tab.last = last
      readCount++
    }
  }
  t.strictSame(problems.slice(0, 5), [])
  t.ok(readCount > 500 && missingCount > 20, `${readCount} reads, ${missingCount} times events were missing`)
  t.end()
})

t.test('a tab reads what follows its cursor, whatever stream it has received it from', t => {
  const log = new Log(createId(10))
  log.push({ id: createId(10), text: 'block' })
  for (const position of [12, 14]) log.push({ id: createId(position), text: String(position) })
  const read = (cursor: string): string | undefined => log.read('tab', { cursor })?.text
  t.equal(read(createId(9)), undefined, 'it is older than the log')
  t.equal(log.find({ cursor: createId(9) }), undefined)
  t.equal(read(createId(10)), 'block1214', 'the block after the event may be new')
  t.equal(read(createId(11)), '1214', 'the event at the cursor was replaced by a later one')
  t.equal(read(createId(12)), '14')
  t.equal(read(createId(14)), undefined, 'nothing is new')
  t.equal(log.find({ cursor: createId(20) }), 3)
  t.equal(log.find({ cursor: 'other.c' }), undefined, 'it is of another session')
  t.equal(log.find({ cursor: '' }), undefined)
  t.equal(log.find({ cursor: createId(12), logId: 'other', index: 0 }), 2, 'a place in another log does not count')
  t.end()
})

t.test('only one tab reads what has to be answered; a gap is repeated to tabs that need it', t => {
  const log = new Log(createId(4))
  log.push({ id: createId(8), text: `id: ${createId(8)}\ngap`, resumedAt: 8 })
  log.push({ id: createId(9), text: 'request', owner: 'a', otherText: 'id' })
  const position = { cursor: createId(8) }
  t.equal(log.read('a', position)?.text, 'request')
  t.equal(log.read('b', position)?.text, 'id')
  const older = new Log(createId(4))
  older.push({ id: createId(5), text: `id: ${createId(5)}\n[gap to 7]`, resumedAt: 7 })
  older.push({ id: createId(6), text: '6' })
  older.push({ id: createId(8), text: '8' })
  t.equal(older.read('a', { cursor: createId(6) })?.text, '[gap to 7]8')
  t.equal(older.read('a', { cursor: createId(6), logId: older.logId, index: 2 })?.text, '8', 'it has read the gap from this log')
  t.end()
})

t.test('the position after the close is behind all others', t => {
  const log = new Log(createId(1))
  log.push({ id: 'closed', text: 'close' })
  t.equal(log.end, 'closed')
  t.equal(log.read('tab', { cursor: createId(1) })?.text, 'close')
  t.end()
})
