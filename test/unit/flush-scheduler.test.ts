import t from 'tap'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { turn } from '../support/wait.js'

/** Writers that note who has written. */
function writers (count: number, written: number[], then?: (n: number, writer: Flushable) => void): Flushable[] {
  return Array.from({ length: count }, (_, n) => {
    const writer: Flushable = {
      flush: () => {
        written.push(n)
        then?.(n, writer)
      }
    }
    return writer
  })
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

t.test('few write in one turn, and not before it', async t => {
  const written: number[] = []
  for (const writer of writers(128, written)) flushScheduler.schedule(writer)
  t.strictSame(written, [])
  await turn()
  t.strictSame(written, upTo(128))
})

t.test('of many, some write in a turn, in order, and the event loop goes on between', async t => {
  for (const [count, turns] of [[300, [128, 256, 300]], [2000, [500, 1000, 1500, 2000]]] as const) {
    const written: number[] = []
    for (const writer of writers(count, written)) flushScheduler.schedule(writer)
    for (const so of turns) {
      await turn()
      t.equal(written.length, so)
    }
    t.strictSame(written, upTo(count))
  }
})

t.test('those that are woken meanwhile write when the others have', async t => {
  const written: number[] = []
  const again = writers(300, written, (n, writer) => { if (n === 0 && written.length === 1) flushScheduler.schedule(writer) })
  for (const writer of again) flushScheduler.schedule(writer)
  for (let i = 0; i < 3; i++) await turn()
  t.strictSame(written, upTo(300))
  await turn()
  t.strictSame(written, [...upTo(300), 0])
})

t.test('all that wait, and those that were woken since, write at once where they are to', async t => {
  const written: number[] = []
  const later = writers(1, written)[0] as Flushable
  for (const writer of writers(300, written)) flushScheduler.schedule(writer)
  await turn()
  t.equal(written.length, 128)
  flushScheduler.schedule(later)
  flushScheduler.flushAll()
  t.strictSame(written, [...upTo(300), 0])
  await turn()
  t.equal(written.length, 301, 'nobody writes twice')
  flushScheduler.schedule(later)
  await turn()
  t.equal(written.length, 302, 'and the next is written for')
})

t.test('what writes may have all that wait write now, itself included', async t => {
  const written: number[] = []
  const [last] = writers(1, written)
  const all = writers(300, written, n => {
    if (n !== 1 || written.length !== 2) return
    flushScheduler.schedule(all[1] as Flushable)
    flushScheduler.flushAll()
  })
  for (const writer of all) flushScheduler.schedule(writer)
  await turn()
  t.strictSame(written, [...upTo(300), 1])
  flushScheduler.schedule(last as Flushable)
  await turn()
  t.strictSame(written, [...upTo(300), 1, 0])
})

t.test('what was written at once leaves no turn behind in which others would write as well', async t => {
  const written: number[] = []
  const all = writers(300, written)
  for (let i = 0; i < 2; i++) {
    flushScheduler.schedule(all[0] as Flushable)
    flushScheduler.flushAll()
  }
  written.length = 0
  for (const writer of all) flushScheduler.schedule(writer)
  await turn()
  t.strictSame(written, upTo(128))
  flushScheduler.flushAll()
})

t.test('a writer that fails does not keep the others waiting', async t => {
  const written: number[] = []
  const failures: unknown[] = []
  const onFailure = (error: unknown): void => { failures.push(error) }
  process.on('uncaughtException', onFailure)
  t.teardown(() => { process.off('uncaughtException', onFailure) })
  for (const writer of writers(2, written, n => { if (n === 0) throw new Error('it fails') })) flushScheduler.schedule(writer)
  await turn()
  await turn()
  t.strictSame(written, [0, 1])
  t.match(failures, [{ message: 'it fails' }])
})
