import t, { type Test } from 'tap'
import { memoryStore, type RunInput, type RunListener, type RunState, type RunStore, type SseSessionsOptions, type Store, type StoreFactory } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { IdGenerator } from '../../lib/wire/event-id.js'
import { testEachStoreFactory } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// Requirements of the contract in lib/store/run-store.ts. The tests of `test/runs` cover the rest through HTTP.

const ids = new IdGenerator()

async function createStore (t: Test, factory: StoreFactory, options: SseSessionsOptions = {}): Promise<RunStore> {
  return (await createStores(t, factory, options)).runs
}

async function createStores (t: Test, factory: StoreFactory, options: SseSessionsOptions = {}): Promise<{ store: Store, runs: RunStore }> {
  const store = await factory(resolveOptions({ closeTimeout: 100, ...options }, 0), { onBroadcast: () => {}, onExpire: async () => {}, onJoin: async () => {}, onLeave: async () => {} })
  t.teardown(() => store.close('shutdown'))
  if (store.runs === undefined) throw new Error('no runs')
  return { store, runs: store.runs }
}

const createInput = (input: Partial<RunInput> = {}): RunInput => ({ id: ids.next(), name: 'a', principal: undefined, fingerprint: undefined, keep: 60_000, ...input })

async function startRun (store: RunStore, input: Partial<RunInput> = {}): Promise<RunState> {
  const run = await store.start(createInput(input), 'running')
  if (run === undefined) throw new Error('no run')
  return run
}

/** A listener that records what it was notified of. */
function recordListener (): RunListener & { readonly calls: string[] } {
  const calls: string[] = []
  return { calls, onAppend: () => { calls.push('append') }, onEnd: () => { calls.push('end') }, onAbort: () => { calls.push('unavailable') } }
}

testEachStoreFactory(t, 'nothing can be appended to a run that has ended, and only the first end counts', async (t, connect) => {
  const store = await createStore(t, await connect())
  const run = await startRun(store)
  const listener = recordListener()
  const source = await store.follow(run, run.startPosition, listener)
  await store.append(run, { frame: 'data: 1\n\n' })
  t.equal(await store.end(run, { status: 'stopped', reason: 'user' }), true)
  t.equal(await store.end(run, { status: 'finished' }), false)
  t.strictSame(run.outcome, { status: 'stopped', reason: 'user' })
  await t.rejects(async () => { await store.append(run, { frame: 'data: 2\n\n' }) }, { code: 'FST_SSE_RUN_OVER' })
  t.equal(source?.log.length, 1)
  t.ok(run.endPosition > (source?.log.lastPosition ?? Infinity))
  t.strictSame([...new Set(listener.calls)], ['append', 'end'])
  t.equal(run.canWrite, true)
})

testEachStoreFactory(t, 'a reader that was removed is not notified any more', async (t, connect) => {
  const store = await createStore(t, await connect())
  const run = await startRun(store)
  const listener = recordListener()
  await store.follow(run, Infinity, listener)
  store.unfollow(run, listener)
  listener.calls.length = 0
  await store.append(run, { frame: 'data: 1\n\n' })
  await store.end(run, { status: 'finished' })
  t.strictSame(listener.calls, [])
})

testEachStoreFactory(t, 'a start returns the running run, or with "kept" also one that has ended, or rejects with "never"', async (t, connect) => {
  const store = await createStore(t, await connect())
  const run = await startRun(store, { principal: 'ann' })
  t.equal(await store.start(createInput({ principal: 'ann' }), 'running'), run)
  t.equal(await store.start(createInput({ principal: 'ann' }), 'kept'), run)
  await t.rejects(async () => { await store.start(createInput({ principal: 'ann' }), 'never') }, { code: 'FST_SSE_RUN_EXISTS' })
  t.not(await store.start(createInput({ principal: '' }), 'never'), run, 'another principal')
  await store.end(run, { status: 'finished' })
  t.equal(await store.start(createInput({ principal: 'ann' }), 'kept'), run)
  const next = await store.start(createInput({ principal: 'ann' }), 'never')
  t.not(next, run)
  t.match(next, { name: 'a', principal: 'ann', fingerprint: undefined, keep: 60_000, outcome: undefined, endPosition: Infinity })
})

testEachStoreFactory(t, 'a start with another fingerprint is refused', async (t, connect) => {
  const store = await createStore(t, await connect())
  const run = await store.start(createInput({ fingerprint: 'x' }), 'kept')
  t.equal(await store.start(createInput({ fingerprint: 'x' }), 'kept'), run)
  await t.rejects(async () => { await store.start(createInput({ fingerprint: 'y' }), 'kept') }, { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
})

testEachStoreFactory(t, 'a run is found by id while it is kept, also if a newer one has its name', async (t, connect, servers) => {
  // Each partition has a share of the limit; the names are those of one partition, whether there are two or three.
  const store = await createStore(t, await connect(), { maxRuns: 2 * Math.max(1, servers.length) })
  const first = await startRun(store)
  await store.end(first, { status: 'finished' })
  const second = await startRun(store)
  t.equal(await store.findById(first.id), first)
  t.equal(await store.find('a', undefined), second)
  t.equal(await store.find('a', 'ann'), undefined)
  t.equal(await store.findById('not an id'), undefined)
  await startRun(store, { name: 'f' })
  t.equal(await store.findById(first.id), undefined)
  t.equal(await store.end(first, { status: 'finished' }), false)
  t.equal(await store.findById(ids.next()), undefined)
  t.equal(await store.follow(first, 0, recordListener()), undefined)
  t.equal(await store.find('a', undefined), second)
  t.equal(await store.start(createInput({ name: 'k' }), 'running'), undefined, 'no run has ended')
})

testEachStoreFactory(t, 'a run is removed when it was kept for long enough, and its name can be used again', async (t, connect) => {
  const store = await createStore(t, await connect())
  const run = await startRun(store, { keep: 20 })
  await store.end(run, { status: 'finished' })
  const endedAt = performance.now()
  await waitUntil(async () => await store.findById(run.id) === undefined, 'the removal')
  t.ok(performance.now() - endedAt >= 19)
  t.equal(await store.find('a', undefined), undefined)
  t.not(await store.start(createInput(), 'kept'), run)
})

testEachStoreFactory(t, 'a reader starts at the beginning, after a position, or with what is appended from now on', async (t, connect) => {
  const store = await createStore(t, await connect())
  const run = await startRun(store)
  const append = async (n: number): Promise<void> => { await store.append(run, { frame: `data: ${n}\n\n` }) }
  await append(1)
  const fromStart = await store.follow(run, run.startPosition, recordListener())
  await append(2)
  const [start, first] = [run.startPosition, fromStart?.log.nextPosition(run.startPosition) ?? 0]
  const fromNow = await store.follow(run, Infinity, recordListener())
  const afterFirst = await store.follow(run, first, recordListener())
  await append(3)
  const read = (source: typeof fromStart): string[] => {
    const texts: string[] = []
    for (let index = source?.log.indexAfter(source.cursor) ?? 0; index < (source?.log.end ?? 0); index++) texts.push(/data: (\d)/.exec(source?.log.frameSuffixAt(index) ?? '')?.[1] ?? '')
    return texts
  }
  await waitUntil(() => read(fromStart).length === 3, 'the last entry')
  t.strictSame([fromStart, fromNow, afterFirst].map(read), [['1', '2', '3'], ['3'], ['2', '3']])
  t.equal(fromStart?.cursor, start)
  const beyond = await store.follow(run, Number.MAX_SAFE_INTEGER, recordListener())
  t.equal(beyond?.cursor, fromStart?.log.lastPosition, 'a cursor is at most the newest position')
})

testEachStoreFactory(t, 'the log of a run has the bounds of runLog', async (t, connect) => {
  const store = await createStore(t, await connect(), { runLog: { entries: 2, bytes: 100 } })
  const run = await startRun(store)
  const source = await store.follow(run, run.startPosition, recordListener())
  for (const n of [1, 2, 3]) await store.append(run, { frame: `data: ${n}\n\n` })
  await waitUntil(() => source?.log.trimmedPosition !== 0, 'the trim')
  t.equal(source?.log.length, 2)
  await t.rejects(async () => { await store.append(run, { frame: 'x'.repeat(101) }) }, { code: 'FST_SSE_ENTRY_TOO_LARGE' })
})

t.test('the log of a run that is removed stays until its last reader has left, and then its memory is free', async t => {
  const store = await createStore(t, memoryStore, { maxRuns: 1 })
  const run = await startRun(store)
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

testEachStoreFactory(t, 'the entries of a delivery are appended to the log of its session, until the delivery or the session ends', async (t, connect) => {
  const { store, runs } = await createStores(t, await connect(), { log: { bytes: 1000 } })
  const session = await store.open(ids.next(), undefined)
  if (session === undefined) throw new Error('no session')
  const partPrefix = 'event: part\ndata: {"message":"a",'
  const startDelivery = (name: string): Promise<RunState> => startRun(runs, { name, delivery: { sessionId: session.id, partPrefix } })
  const first = await startDelivery('first')
  const second = await startDelivery('second')
  await runs.append(first, { frame: `${partPrefix}"data":1}\n\n` })
  await runs.append(second, { frame: `${partPrefix}"data":2}\n\n` })
  await t.rejects(async () => { await runs.append(first, { frame: 'x'.repeat(2000) }) }, { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  await runs.end(first, { status: 'stopped' })
  await t.rejects(async () => { await runs.append(first, { frame: 'data: 3\n\n' }) }, { code: 'FST_SSE_RUN_OVER' })
  await store.attach(session, session.startPosition, 0)
  const frames = (): string[] => session.log?.framesBetween(0, Infinity, 10, '') ?? []
  await waitUntil(() => frames().length === 3, 'the entries')
  t.strictSame(frames(), [`${partPrefix}"data":1}\n\n`, `${partPrefix}"data":2}\n\n`, `${partPrefix}"end":{"status":"stopped"}}\n\n`])
  await store.end(session, 'over', true)
  await t.rejects(async () => { await runs.append(second, { frame: 'data: 4\n\n' }) }, { code: 'FST_SSE_SESSION_OVER' })
  t.equal(await runs.end(second, { status: 'stopped' }), true)
})

testEachStoreFactory(t, 'the start of the run of a request appends the request to the log of its session, and its end appends nothing', async (t, connect) => {
  const { store, runs } = await createStores(t, await connect(), { log: { bytes: 1000 } })
  const session = await store.open(ids.next(), undefined)
  if (session === undefined) throw new Error('no session')
  const start = async (request: string): Promise<RunState> => await startRun(runs, { name: request, delivery: { sessionId: session.id, request } })
  const [first] = await Promise.all([start('data: 1\n\n'), store.send(session, { frame: 'data: 2\n\n' })])
  await start('data: 3\n\n')
  const found = await runs.find('data: 1\n\n', undefined, session.id)
  t.equal(found, first, 'by name')
  const listener = recordListener()
  first.listeners.add(listener)
  const outcome = { status: 'finished', answer: { data: { yes: true } } } as const
  t.equal(await runs.end(first, outcome), true)
  t.equal(await runs.end(first, outcome), false)
  await waitUntil(() => first.outcome !== undefined, 'the end')
  t.strictSame(first.outcome, outcome)
  t.equal(await runs.find('data: 1\n\n', undefined, session.id), undefined)
  await t.rejects(start('x'.repeat(2000)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  await store.attach(session, session.startPosition, 0)
  const frames = (): string[] => session.log?.framesBetween(0, Infinity, 10, '') ?? []
  await waitUntil(() => frames().length === 3, 'the entries')
  t.strictSame(frames(), ['data: 1\n\n', 'data: 2\n\n', 'data: 3\n\n'])
  await store.end(session, 'over', true)
  await t.rejects(start('data: 4\n\n'), { code: 'FST_SSE_SESSION_OVER' })
  t.equal(await runs.find('data: 4\n\n', undefined, session.id), undefined)
})

testEachStoreFactory(t, 'a run that was released has one new producer, and nothing of the earlier one is added', async (t, connect) => {
  const first = await createStore(t, await connect())
  const run = await startRun(first, { restart: { producer: 'work', input: '{"n":1}' } })
  t.strictSame(run.restart, { producer: 'work', input: '{"n":1}' })
  // Only a store that several processes share restarts runs.
  if (first.handleRestarts === undefined) return
  const others = [await createStore(t, await connect()), await createStore(t, await connect())]
  const restarted: Array<{ store: RunStore, run: RunState }> = []
  for (const store of others) store.handleRestarts?.(new Set(['work']), run => { restarted.push({ store, run }) })
  const producer = recordListener()
  run.listeners.add(producer)
  await first.append(run, { frame: 'data: 1\n\n' })
  await first.release?.(run)
  t.strictSame(producer.calls, ['unavailable'])
  await waitUntil(() => restarted.length > 0, 'the restart')
  await t.rejects(async () => { await first.append(run, { frame: 'data: 2\n\n' }) }, { code: 'FST_SSE_RUN_OVER' })
  t.equal(await first.end(run, { status: 'finished' }), false)
  const [{ store, run: continued }] = restarted as [{ store: RunStore, run: RunState }]
  t.match(continued, { name: 'a', restart: { producer: 'work', input: '{"n":1}' }, outcome: undefined })
  t.equal(continued.id, run.id)
  const source = await store.follow(continued, continued.startPosition, recordListener())
  await store.append(continued, { frame: 'data: 3\n\n' })
  await waitUntil(() => source?.log.length === 2, 'the entries')
  t.equal(await store.end(continued, { status: 'finished' }), true)
  t.equal(restarted.length, 1)
  t.match(await first.find('a', undefined), { outcome: { status: 'finished' } })
})
