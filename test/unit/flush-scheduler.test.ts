import t from 'tap'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { freezeClock } from '../support/clock.js'
import { matchList } from '../support/match-list.js'
import { nextEventLoopTick } from '../support/wait.js'

/** Creates streams that add their index to `flushed` when they are flushed, and then call `onFlush`. */
function createStreams (count: number, flushed: number[], onFlush?: (index: number, stream: Flushable) => void): Flushable[] {
  return Array.from({ length: count }, (_, index) => {
    const stream: Flushable = {
      flush: () => {
        flushed.push(index)
        onFlush?.(index, stream)
      }
    }
    return stream
  })
}

const range = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

t.test('a small batch is flushed in the next tick, and not before', async t => {
  freezeClock(t)
  const flushed: number[] = []
  for (const stream of createStreams(128, flushed)) flushScheduler.schedule(stream)
  t.strictSame(flushed, [])
  await nextEventLoopTick()
  t.strictSame(flushed, range(128))
})

t.test('a large batch is flushed in parts, in order, one part in each tick of the event loop', async t => {
  freezeClock(t)
  for (const [count, flushedAfterTicks] of [[300, [128, 256, 300]], [2000, [500, 1000, 1500, 2000]]] as const) {
    const flushed: number[] = []
    for (const stream of createStreams(count, flushed)) flushScheduler.schedule(stream)
    for (const length of flushedAfterTicks) {
      await nextEventLoopTick()
      t.equal(flushed.length, length)
    }
    t.strictSame(flushed, range(count))
  }
})

t.test('a tick flushes no more streams when its slice of time is over', async t => {
  const advance = freezeClock(t)
  const flushed: number[] = []
  for (const stream of createStreams(100, flushed, () => { advance(1) })) flushScheduler.schedule(stream)
  for (const length of [16, 32, 48]) {
    await nextEventLoopTick()
    t.equal(flushed.length, length)
  }
  flushScheduler.flushAll()
  t.strictSame(flushed, range(100), 'flushAll has no limit of time')
})

t.test('a stream that is scheduled during a batch is flushed after that batch', async t => {
  freezeClock(t)
  const flushed: number[] = []
  const streams = createStreams(300, flushed, (index, stream) => { if (index === 0 && flushed.length === 1) flushScheduler.schedule(stream) })
  for (const stream of streams) flushScheduler.schedule(stream)
  for (let i = 0; i < 3; i++) await nextEventLoopTick()
  t.strictSame(flushed, range(300))
  await nextEventLoopTick()
  t.strictSame(flushed, [...range(300), 0])
})

t.test('flushAll flushes the rest of the batch and the streams that were scheduled since', async t => {
  freezeClock(t)
  const flushed: number[] = []
  const later = createStreams(1, flushed)[0] as Flushable
  for (const stream of createStreams(300, flushed)) flushScheduler.schedule(stream)
  await nextEventLoopTick()
  t.equal(flushed.length, 128)
  flushScheduler.schedule(later)
  flushScheduler.flushAll()
  t.strictSame(flushed, [...range(300), 0])
  await nextEventLoopTick()
  t.equal(flushed.length, 301, 'no stream is flushed twice')
  flushScheduler.schedule(later)
  await nextEventLoopTick()
  t.equal(flushed.length, 302, 'a stream that is scheduled later is flushed')
})

t.test('a stream may call flushAll while it is flushed, even if it is scheduled again itself', async t => {
  freezeClock(t)
  const flushed: number[] = []
  const [later] = createStreams(1, flushed)
  const streams = createStreams(300, flushed, index => {
    if (index !== 1 || flushed.length !== 2) return
    flushScheduler.schedule(streams[1] as Flushable)
    flushScheduler.flushAll()
  })
  for (const stream of streams) flushScheduler.schedule(stream)
  await nextEventLoopTick()
  t.strictSame(flushed, [...range(300), 1])
  flushScheduler.schedule(later as Flushable)
  await nextEventLoopTick()
  t.strictSame(flushed, [...range(300), 1, 0])
})

t.test('flushAll leaves no extra tick behind', async t => {
  freezeClock(t)
  const flushed: number[] = []
  const streams = createStreams(300, flushed)
  for (let i = 0; i < 2; i++) {
    flushScheduler.schedule(streams[0] as Flushable)
    flushScheduler.flushAll()
  }
  flushed.length = 0
  for (const stream of streams) flushScheduler.schedule(stream)
  await nextEventLoopTick()
  t.strictSame(flushed, range(128))
  flushScheduler.flushAll()
})

t.test('a stream that throws does not stop the others', async t => {
  freezeClock(t)
  const flushed: number[] = []
  const failures: unknown[] = []
  const onFailure = (error: unknown): void => { failures.push(error) }
  process.on('uncaughtException', onFailure)
  t.teardown(() => { process.off('uncaughtException', onFailure) })
  for (const stream of createStreams(2, flushed, index => { if (index === 0) throw new Error('flush failed') })) flushScheduler.schedule(stream)
  await nextEventLoopTick()
  await nextEventLoopTick()
  t.strictSame(flushed, [0, 1])
  matchList(t, failures, [{ message: 'flush failed' }])
})
