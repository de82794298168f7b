import t from 'tap'
import { Log } from '../lib/store/log.js'
import { Offer } from '../lib/store/offer.js'
import { flushSoon, type Writer } from '../lib/turns.js'
import { turn } from './support/within.js'

t.test('an entry is offered to those as well that wait until many others have written', async t => {
  const offer = new Offer()
  const log = new Log({ entries: 1, bytes: 100, age: Infinity }, { wake: () => {} })
  const read: number[] = []
  const writers: Writer[] = Array.from({ length: 300 }, () => ({ flush: () => {} }))
  const reader: Writer = { flush: () => { read.push(log.last) } }
  for (const writer of [reader, ...writers]) flushSoon(writer)
  await turn()
  const append = (position: number): void => {
    offer.before(log, { frame: 'x' }, log.last)
    log.push({ frame: 'x' }, position, 0)
    flushSoon(reader)
  }
  append(1)
  // The others have written, and the reader has not.
  for (let i = 0; i < 2; i++) await turn()
  t.strictSame(read, [0])
  append(2)
  t.strictSame(read, [0, 1])
  await turn()
  t.strictSame(read, [0, 1, 2])
})
