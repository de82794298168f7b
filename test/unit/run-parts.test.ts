import t from 'tap'
import { Log } from '../../lib/log/log.js'
import { readParts } from '../../lib/runs/run-parts.js'
import { RunState, type RunListener } from '../../lib/store/run-state.js'
import type { RunStore } from '../../lib/store/run-store.js'
import { withTimeout } from '../support/wait.js'

class TestRun extends RunState {
  isWritable = true
  override get canWrite (): boolean { return this.isWritable }
}

/** A run whose store a test controls. */
function createRun (cursor: number): { run: TestRun, log: Log, store: RunStore, listeners: Set<RunListener> } {
  const run = new TestRun({ id: 'r'.repeat(24), name: 'a', principal: undefined, fingerprint: undefined, keep: 0 }, 0)
  const log = new Log({ entries: 10, bytes: 1000, age: 60_000 }, run)
  const { listeners } = run
  const store: Pick<RunStore, 'follow' | 'unfollow'> = {
    follow: (_run, _cursor, listener) => {
      listeners.add(listener)
      return { log, cursor }
    },
    unfollow: (_run, listener) => { listeners.delete(listener) }
  }
  return { run, log, store: store as RunStore, listeners }
}

const push = (log: Log, position: number): void => { log.push({ frame: `data: ${position}\n\n` }, position, performance.now()) }

t.test('positions that the store has lost are a gap', async t => {
  const { run, log, store, listeners } = createRun(3)
  push(log, 4)
  run.outcome = { status: 'finished' }
  const items: string[] = []
  for await (const item of readParts(run, store, 7, new AbortController().signal)) items.push(item)
  t.strictSame(items, ['"position":3,"gap":{"after":7,"resumedAt":3,"reason":"store"}', '"position":4,"data":4'])
  t.equal(listeners.size, 0)
})

t.test('nothing is read while the log may be incomplete', async t => {
  const { run, log, store } = createRun(0)
  run.isWritable = false
  push(log, 1)
  const items = readParts(run, store, 0, new AbortController().signal)
  const first = items.next()
  run.onAppend()
  await new Promise(resolve => { setImmediate(resolve) })
  run.isWritable = true
  run.onAppend()
  t.strictSame(await withTimeout(first, 'the item'), { value: '"position":1,"data":1', done: false })
})

t.test('a follower fails if its process loses the store', async t => {
  const { run, store, listeners } = createRun(0)
  const next = readParts(run, store, 0, new AbortController().signal).next()
  await new Promise(resolve => { setImmediate(resolve) })
  for (const listener of listeners) listener.onAbort()
  await t.rejects(withTimeout(next, 'the failure'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.equal(listeners.size, 0)
})

t.test('a follower that waits ends when its signal aborts', async t => {
  const { run, store, listeners } = createRun(0)
  const controller = new AbortController()
  const next = readParts(run, store, 0, controller.signal).next()
  await new Promise(resolve => { setImmediate(resolve) })
  controller.abort()
  t.strictSame(await withTimeout(next, 'the end'), { value: undefined, done: true })
  t.equal(listeners.size, 0)
})
