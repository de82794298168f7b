import t from 'tap'
import { Log } from '../../lib/log/log.js'
import { TrimGuard } from '../../lib/store/trim-guard.js'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { turn } from '../support/wait.js'

/** A log with a reader that notes how far the log is as it reads. */
function follow (entries: number): { reader: Flushable, read: number[], append: (position: number) => void } {
  const offer = new TrimGuard()
  const log = new Log({ entries, bytes: 100, age: Infinity }, { onAppend: () => {} })
  const read: number[] = []
  const reader: Flushable = { flush: () => { read.push(log.lastPosition) } }
  return {
    reader,
    read,
    append: position => {
      offer.beforeAppend(log, { frame: 'x' }, log.lastPosition)
      log.push({ frame: 'x' }, position, 0)
      flushScheduler.schedule(reader)
    }
  }
}

t.test('an entry is offered to those as well that wait until many others have written', async t => {
  const { reader, read, append } = follow(1)
  const writers: Flushable[] = Array.from({ length: 300 }, () => ({ flush: () => {} }))
  for (const writer of [reader, ...writers]) flushScheduler.schedule(writer)
  await turn()
  append(1)
  // The others have written, and the reader has not.
  for (let i = 0; i < 2; i++) await turn()
  t.strictSame(read, [0])
  append(2)
  t.strictSame(read, [0, 1])
  await turn()
  t.strictSame(read, [0, 1, 2])
})

t.test('a log that drops what was offered before has nobody write before their turn', async t => {
  const { read, append } = follow(4)
  for (const position of [1, 2, 3, 4]) append(position)
  await turn()
  read.length = 0
  for (const position of [5, 6, 7, 8]) append(position)
  t.strictSame(read, [])
  append(9)
  t.strictSame(read.slice(0, 1), [8])
})
