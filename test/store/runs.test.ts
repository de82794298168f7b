import t from 'tap'
import { memoryStore, type RunInput, type RunListener, type RunStore, type SseSessionsOptions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'

// Requirements of the contract in lib/store/run-store.ts. The tests of `test/runs` cover the rest through HTTP.

const createStore = (options: SseSessionsOptions = {}): RunStore => memoryStore(resolveOptions(options, 0), { onBroadcast: () => {}, onExpire: async () => {} }).runs

const createInput = (input: Partial<RunInput> = {}): RunInput => ({ id: `run ${Math.random()}`, name: 'a', principal: undefined, fingerprint: undefined, keep: 60_000, ...input })

/** A listener that records what it was notified of. */
function recordListener (): RunListener & { readonly calls: string[] } {
  const calls: string[] = []
  return { calls, onAppend: () => { calls.push('append') }, onEnd: () => { calls.push('end') } }
}

t.test('nothing can be appended to a run that has ended, and only the first end counts', async t => {
  const store = createStore()
  const run = await store.start(createInput(), 'running')
  if (run === undefined) throw new Error('no run')
  const listener = recordListener()
  const source = await store.follow(run, run.startPosition, listener)
  await store.append(run, { frame: 'data: 1\n\n' })
  t.equal(await store.end(run, { status: 'stopped', reason: 'user' }), true)
  t.equal(await store.end(run, { status: 'finished' }), false)
  t.strictSame(run.outcome, { status: 'stopped', reason: 'user' })
  t.throws(() => store.append(run, { frame: 'data: 2\n\n' }), { code: 'FST_SSE_RUN_OVER' })
  t.equal(source?.log.length, 1)
  t.ok(run.endPosition > (source?.log.lastPosition ?? Infinity))
  t.strictSame(listener.calls, ['append', 'end'])
  t.equal(run.canWrite, true)
})

t.test('a reader that was removed is not notified any more', async t => {
  const store = createStore()
  const run = await store.start(createInput(), 'running')
  if (run === undefined) throw new Error('no run')
  const listener = recordListener()
  await store.follow(run, Infinity, listener)
  store.unfollow(run, listener)
  await store.append(run, { frame: 'data: 1\n\n' })
  await store.end(run, { status: 'finished' })
  t.strictSame(listener.calls, [])
})

t.test('a start with another fingerprint is refused', async t => {
  const store = createStore()
  const run = await store.start(createInput({ fingerprint: 'x' }), 'kept')
  t.equal(await store.start(createInput({ fingerprint: 'x' }), 'kept'), run)
  t.throws(() => store.start(createInput({ fingerprint: 'y' }), 'kept'), { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
})

t.test('a run is found by id while it is kept, also if a newer one has its name', async t => {
  const store = createStore({ maxRuns: 2 })
  const first = await store.start(createInput({ id: 'first' }), 'running')
  if (first === undefined) throw new Error('no run')
  await store.end(first, { status: 'finished' })
  const second = await store.start(createInput({ id: 'second' }), 'running')
  t.equal(await store.findById('first'), first)
  t.equal(await store.find('a', undefined), second)
  t.equal(await store.find('a', 'ann'), undefined)
  await store.start(createInput({ name: 'b' }), 'running')
  t.equal(await store.findById('first'), undefined)
  t.equal(await store.follow(first, 0, recordListener()), undefined)
  t.equal(await store.find('a', undefined), second)
})

t.test('the log of a run that is removed stays until its last reader has left, and then its memory is free', async t => {
  const store = createStore({ maxRuns: 1 })
  const run = await store.start(createInput(), 'running')
  if (run === undefined) throw new Error('no run')
  const [one, two] = [recordListener(), recordListener()]
  const source = await store.follow(run, 0, one)
  await store.follow(run, 0, two)
  await store.append(run, { frame: 'data: 1\n\n' })
  await store.end(run, { status: 'finished' })
  await store.start(createInput({ name: 'b' }), 'running')
  store.unfollow(run, one)
  t.equal(source?.log.length, 1)
  store.unfollow(run, two)
  t.equal(source?.log.length, 0)
})
