import t from 'tap'
import { Log } from '../../lib/log/log.js'
import { TrimGuard } from '../../lib/store/trim-guard.js'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { nextEventLoopTick } from '../support/wait.js'

/** Creates a log and a stream of it. `flushedAt` lists the last position of the log at each flush of the stream. */
function createLogWithStream (entries: number): { stream: Flushable, flushedAt: number[], append: (position: number) => void } {
  const trimGuard = new TrimGuard()
  const log = new Log({ entries, bytes: 100, age: Infinity }, { onAppend: () => {} })
  const flushedAt: number[] = []
  const stream: Flushable = { flush: () => { flushedAt.push(log.lastPosition) } }
  return {
    stream,
    flushedAt,
    append: position => {
      trimGuard.beforeAppend(log, { frame: 'x' }, log.lastPosition)
      log.push({ frame: 'x' }, position, 0)
      flushScheduler.schedule(stream)
    }
  }
}

t.test('flushes a stream that still waits for many others before the log trims an entry', async t => {
  const { stream, flushedAt, append } = createLogWithStream(1)
  const others: Flushable[] = Array.from({ length: 300 }, () => ({ flush: () => {} }))
  for (const flushable of [stream, ...others]) flushScheduler.schedule(flushable)
  await nextEventLoopTick()
  append(1)
  // These ticks flush the others, but not the stream.
  for (let i = 0; i < 2; i++) await nextEventLoopTick()
  t.strictSame(flushedAt, [0])
  append(2)
  t.strictSame(flushedAt, [0, 1])
  await nextEventLoopTick()
  t.strictSame(flushedAt, [0, 1, 2])
})

t.test('does not flush before the next tick if the log trims only entries that were flushed', async t => {
  const { flushedAt, append } = createLogWithStream(4)
  for (const position of [1, 2, 3, 4]) append(position)
  await nextEventLoopTick()
  flushedAt.length = 0
  for (const position of [5, 6, 7, 8]) append(position)
  t.strictSame(flushedAt, [])
  append(9)
  t.strictSame(flushedAt.slice(0, 1), [8])
})
