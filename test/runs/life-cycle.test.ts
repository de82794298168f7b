import t from 'tap'
import { RunOver } from '../../lib/errors.js'
import { memoryStore, type RunStore, type StartRunOptions, type StoreFactory } from '../../lib/index.js'
import { FlakyStore } from '../support/flaky-store.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { createFeed } from './support/feed.js'
import { dataOf, follow } from './support/run-client.js'
import { serveRuns } from './support/serve-runs.js'

const finalData = (events: ReadonlyArray<{ event: string, data: string }>): unknown => JSON.parse(events.find(({ event }) => event === 'end')?.data ?? 'null')

t.test('a run finishes when its producer ends, and the response ends with the outcome', async t => {
  const { runs, feed, runUrl } = await serveRuns(t)
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add('one', { two: 2 }, 3, null)
  await response.waitFor('null')
  t.equal((await runs.find('a'))?.status, 'running')
  feed.end()
  t.equal(await response.isComplete, true)
  t.strictSame(dataOf(response), ['"one"', '{"two":2}', '3', 'null'])
  t.strictSame(finalData(response.events), { status: 'finished' })
  const run = await runs.find('a')
  t.match(run, { name: 'a', principal: undefined, status: 'finished', reason: undefined })
  t.equal(response.events[0]?.id?.startsWith(`${run?.id}.`), true)
})

t.test('stop() aborts the signal of the producer, closes it, and all readers receive the reason', async t => {
  const { runs, feed, runUrl, logged } = await serveRuns(t)
  const readers = [await follow(t, runUrl, { method: 'POST' }), await follow(t, runUrl)]
  feed.add('one')
  for (const reader of readers) await reader.waitFor('"one"')
  t.equal((await fetch(runUrl, { method: 'DELETE' })).status, 204)
  for (const reader of readers) {
    t.equal(await reader.isComplete, true)
    t.strictSame(finalData(reader.events), { status: 'stopped', reason: 'user' })
  }
  t.match(feed.signal()?.reason, { code: 'FST_SSE_RUN_OVER' })
  await withTimeout(feed.closed, 'the end of the producer')
  feed.add('late')
  const run = await runs.find('a')
  await run?.stop('again')
  t.match(run, { status: 'stopped', reason: 'user' })
  const late = await follow(t, runUrl)
  await late.isComplete
  t.strictSame(dataOf(late), ['"one"'])
  t.strictSame(logged().filter(({ level }) => level > 30), [], 'a stop is not an error')
})

t.test('an error of a producer after its run was stopped is logged', async t => {
  const { runs, logged } = await serveRuns(t)
  const run = await runs.start('b', {}, async function * ({ signal }) {
    try {
      await new Promise(resolve => { signal.addEventListener('abort', resolve) })
      yield 1
    } finally {
      await Promise.reject(new Error('in the finally block'))
    }
  })
  await run.stop()
  await waitUntil(() => logged().some(({ err }) => err?.message === 'in the finally block'), 'the log')
  t.match(logged().filter(({ level }) => level > 30), [{ level: 40, msg: 'a producer failed after its run had ended' }])
  t.equal(run.status, 'stopped')
})

t.test('a producer that is stopped while it produces without a pause adds nothing more', async t => {
  const { runs } = (await serve(t)).sessions
  let produced = 0
  await runs.start('a', {}, function * () { for (;;) yield produced++ })
  const run = await runs.find('a')
  await run?.stop()
  t.equal(run?.status, 'stopped')
  const atStop = produced
  await new Promise(resolve => { setImmediate(resolve) })
  await new Promise(resolve => { setImmediate(resolve) })
  t.ok(produced <= atStop + 1, 'the producer is not called any more')
})

t.test('a run fails when its producer throws: readers do not receive the error, and the log does', async t => {
  const { feed, runUrl, logged } = await serveRuns(t)
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add('one')
  feed.end(new Error('secret of the database'))
  t.equal(await response.isComplete, true)
  t.strictSame(dataOf(response), ['"one"'])
  t.strictSame(finalData(response.events), { status: 'failed' })
  t.notMatch(response.text(), 'secret')
  matchList(t, logged().filter(({ level }) => level > 30), [{ msg: 'a run has failed', err: { message: 'secret of the database' } }])
})

for (const [title, producer, message] of [
  ['throws instead of returning an iterable', () => { throw new Error('no model') }, /no model/],
  ['returns no iterable', () => 7 as never, /must be an iterable/],
  ['yields an event with a reserved name', () => [{ event: 'gap', data: 1 }], /"gap" is invalid/],
  ['yields an event named end', () => [{ event: 'end' }], /"end" is invalid/],
  ['yields something that has no JSON form', () => [() => {}], /cannot be serialized/],
  ['yields a promise that rejects', () => [Promise.reject(new Error('no tool'))], /no tool/],
  ['yields more than the log can hold', () => ['x'.repeat(1001)], /runLog/]
] as const) {
  t.test(`a run fails when its producer ${title}`, async t => {
    const { runs, runUrl, logged } = await serveRuns(t, { plugin: { runLog: { bytes: 1000 } } })
    await runs.start('a', {}, producer)
    const response = await follow(t, runUrl)
    await response.isComplete
    t.strictSame(finalData(response.events), { status: 'failed' })
    matchList(t, logged().filter(({ level }) => level > 30), [{ msg: 'a run has failed', err: { message } }])
  })
}

t.test('the items of an array can be promises', async t => {
  const { runs, runUrl } = await serveRuns(t)
  await runs.start('a', {}, () => [Promise.resolve(1), 2])
  const response = await follow(t, runUrl)
  await response.isComplete
  t.strictSame(dataOf(response), ['1', '2'])
})

t.test('the producer of a run that was stopped by another process before it could start is not called', async t => {
  const store: StoreFactory = (settings, callbacks) => {
    const memory = memoryStore(settings, callbacks)
    const runs: RunStore = memory.runs
    const start: RunStore['start'] = async (input, reuse) => {
      const run = await runs.start(input, reuse)
      if (run !== undefined) await runs.end(run, { status: 'stopped' })
      return run
    }
    return Object.assign(memory, { runs: new Proxy(runs, { get: (target, name) => name === 'start' ? start : Reflect.get(target, name)?.bind(target) }) })
  }
  const { runs } = (await serve(t, { store })).sessions
  const feed = createFeed()
  t.equal((await runs.start('a', {}, feed.producer)).status, 'stopped')
  t.equal(feed.startCount(), 0)
})

t.test('the signal of a producer also aborts if an append rejects before this process has received the end, and if the run fails', async t => {
  const store: StoreFactory = (settings, callbacks) => {
    const memory = memoryStore(settings, callbacks)
    const runs: RunStore = memory.runs
    const append: RunStore['append'] = async (run, entry) => {
      if (run.name === 'stopped') throw new RunOver()
      await runs.append(run, entry)
    }
    return Object.assign(memory, { runs: new Proxy(runs, { get: (target, name) => name === 'append' ? append : Reflect.get(target, name)?.bind(target) }) })
  }
  const { runs } = (await serve(t, { store })).sessions
  for (const [name, item] of [['stopped', 1], ['failed', { event: 'end', data: 1 }]] as const) {
    const feed = createFeed()
    await runs.start(name, {}, feed.producer)
    feed.add(item)
    await withTimeout(feed.closed, 'the end of the producer')
    t.match(feed.signal()?.reason, { code: 'FST_SSE_RUN_OVER' }, name)
  }
})

t.test('a run continues without readers', async t => {
  const { feed, runUrl } = await serveRuns(t)
  const first = await follow(t, runUrl, { method: 'POST' })
  feed.add('one')
  await first.waitFor('"one"')
  first.abort()
  await first.isComplete
  feed.add('two')
  feed.end()
  await withTimeout(feed.closed, 'the end of the producer')
  t.equal(feed.signal()?.aborted, false)
  const second = await follow(t, runUrl)
  await second.isComplete
  t.strictSame(dataOf(second), ['"one"', '"two"'])
})

t.test('a start returns the running run with its name, and starts a new one after its end', async t => {
  const { runs } = (await serve(t)).sessions
  const [first, second, third] = [createFeed(), createFeed(), createFeed()]
  const run = await runs.start('a', {}, first.producer)
  t.equal((await runs.start('a', {}, second.producer)).id, run.id)
  t.equal(second.startCount(), 0)
  t.not((await runs.start('b', {}, second.producer)).id, run.id)
  await run.stop()
  const newer = await runs.start('a', {}, third.producer)
  t.not(newer.id, run.id)
  t.equal((await runs.find('a'))?.id, newer.id)
  t.equal(third.startCount(), 1)
})

t.test('with reuse "kept", a start also returns a run that has ended; with "never", it rejects if one is running', async t => {
  const { runs } = (await serve(t)).sessions
  const run = await runs.start('a', { reuse: 'kept' }, () => [1])
  await waitUntil(() => run.status === 'finished', 'the end of the run')
  t.equal((await runs.start('a', { reuse: 'kept' }, () => [2])).id, run.id)
  const newer = await runs.start('a', { reuse: 'never' }, createFeed().producer)
  t.not(newer.id, run.id)
  await t.rejects(runs.start('a', { reuse: 'never' }, () => [3]), { code: 'FST_SSE_RUN_EXISTS', statusCode: 409 })
})

t.test('a run belongs to its principal: others can neither find nor stop it, and have runs of their own with the same name', async t => {
  const { runs, feed, runUrl } = await serveRuns(t)
  const ann = { 'x-user': 'ann' }
  const eve = { 'x-user': 'eve' }
  const response = await follow(t, runUrl, { method: 'POST', headers: ann })
  feed.add('secret')
  await response.waitFor('"secret"')
  const lastEventId = response.lastEventId()
  for (const headers of [eve, {}]) {
    t.equal((await fetch(runUrl, { headers })).status, 404)
    t.equal((await fetch(runUrl, { method: 'DELETE', headers })).status, 404)
  }
  const ownFeed = createFeed()
  await runs.start('a', { principal: 'eve' }, ownFeed.producer)
  ownFeed.add('for eve')
  const foreign = await follow(t, runUrl, { method: 'POST', headers: eve })
  await foreign.waitFor('"for eve"')
  t.notMatch(foreign.text(), 'secret')
  t.equal((await fetch(runUrl, { method: 'POST', headers: { ...eve, 'last-event-id': lastEventId } })).status, 404, 'the id of an event of the run is not enough')
  t.equal((await runs.find('a', { principal: 'ann' }))?.status, 'running')
  t.equal((await fetch(runUrl, { method: 'DELETE', headers: ann })).status, 204)
  t.strictSame([await runs.find('a', { principal: 'ann' }), await runs.find('a', { principal: 'eve' })].map(run => run?.status), ['stopped', 'running'])
})

t.test('a run is kept for "keep" milliseconds after its end', async t => {
  const { runs } = (await serve(t)).sessions
  const run = await runs.start('a', { keep: 20 }, () => [1])
  const long = await runs.start('b', { keep: 60_000 }, () => [1])
  await waitUntil(() => run.status === 'finished' && long.status === 'finished', 'the end of the runs')
  await waitUntil(async () => await runs.find('a') === undefined, 'the removal of the run')
  t.equal((await runs.find('b'))?.id, long.id)
})

t.test('a reader that is connected receives the rest of a run that is not kept, and nobody else does', async t => {
  const { runs, runUrl } = await serveRuns(t)
  const feed = createFeed()
  const run = await runs.start('a', { keep: 0 }, feed.producer)
  const response = await follow(t, runUrl)
  feed.add('one')
  feed.end()
  t.equal(await response.isComplete, true)
  t.strictSame(dataOf(response), ['"one"'])
  await waitUntil(async () => await runs.find('a') === undefined, 'the removal of the run')
  t.equal(run.status, 'finished')
  t.equal((await fetch(runUrl)).status, 404)
})

t.test('above maxRuns, the run that ended first is removed, and without one no run can start', async t => {
  const { runs } = (await serve(t, { maxRuns: 2 })).sessions
  const first = await runs.start('1', {}, createFeed().producer)
  const second = await runs.start('2', {}, createFeed().producer)
  await t.rejects(runs.start('3', {}, createFeed().producer), { code: 'FST_SSE_TOO_MANY_RUNS', statusCode: 503 })
  await second.stop()
  await first.stop()
  await runs.start('3', {}, createFeed().producer)
  t.strictSame((await Promise.all(['1', '2', '3'].map(name => runs.find(name)))).map(run => run?.status), ['stopped', undefined, 'running'])
})

t.test('invalid arguments are rejected, and the error names them', async t => {
  const { runs } = (await serve(t)).sessions
  const code = 'FST_SSE_RUN_INVALID'
  const producer = (): number[] => []
  for (const name of ['', 7, undefined, null, '\ud800']) {
    await t.rejects(runs.start(name as string, {}, producer), { code, message: /name/ })
    await t.rejects(runs.find(name as string), { code, message: /name/ })
  }
  for (const [options, message] of [
    [null, /object/], ['a', /object|"0"/], [{ kept: 1 }, /"kept"/], [{ fingerprint: 'x' }, /"fingerprint"/], [{ principal: 7 }, /"principal"/], [{ principal: null }, /"principal"/],
    [{ keep: -1 }, /"keep".*-1/], [{ keep: 0.5 }, /"keep"/], [{ keep: Infinity }, /"keep"/], [{ keep: 2 ** 31 }, /"keep"/], [{ keep: '1' }, /"keep"/],
    [{ reuse: true }, /"reuse"/], [{ reuse: 'always' }, /"reuse".*"always"/], [{ encode: 'json' }, /"encode"/]
  ] as const) await t.rejects(runs.start('a', options as StartRunOptions, producer), { code, message })
  await t.rejects(runs.find('a', { keep: 1 } as object), { code, message: /"keep"/ })
  for (const producer of [undefined, [1], 'text']) await t.rejects(runs.start('a', {}, producer as never), { code, message: /producer/ })
  t.equal(await runs.find('a'), undefined)
})

t.test('with a store that does not support runs, each call rejects with an error that says so', async t => {
  const store: StoreFactory = (settings, callbacks) => Object.assign(memoryStore(settings, callbacks), { runs: undefined })
  const { runs } = (await serve(t, { store })).sessions
  const expected = { code: 'FST_SSE_RUNS_UNSUPPORTED', statusCode: 501 }
  await t.rejects(runs.start('a', {}, () => [1]), expected)
  await t.rejects(runs.find('a'), expected)
})

t.test('while the store is unavailable, calls reject, a run fails, and its end is reported in the log', async t => {
  const store = new FlakyStore()
  const { runs, runUrl, feed, logged } = await serveRuns(t, { plugin: { store: store.createStore } })
  const response = await follow(t, runUrl, { method: 'POST' })
  const run = await runs.find('a')
  feed.add('one')
  await response.waitFor('"one"')
  store.isDown = true
  const unavailable = { code: 'FST_SSE_STORE_UNAVAILABLE' }
  await t.rejects(runs.find('a'), unavailable)
  await t.rejects(runs.start('b', {}, () => [1]), unavailable)
  if (run === undefined) throw new Error('no run')
  await t.rejects(run.stop(), unavailable)
  run.stop()
  const rejected = (): string[] => logged().filter(({ level }) => level > 30).map(({ msg }) => msg)
  await waitUntil(() => rejected().length === 1, 'the log line')
  feed.add('two')
  await withTimeout(feed.closed, 'the end of the producer')
  await waitUntil(() => rejected().length === 3, 'the log lines')
  t.strictSame(rejected(), ['run.stop has failed, and nothing handles its rejected promise', 'a run has failed', 'the end of a run could not be stored'])
  t.equal((await fetch(runUrl)).status, 503)
})

t.test('a producer that fails with the error of another run fails its own run', async t => {
  const { runs } = await serveRuns(t)
  const failing = await runs.start('failing', {}, async function * () {
    yield 1
    throw new RunOver()
  })
  await waitUntil(() => failing.status !== 'running', 'the end of the run', 5000)
  t.equal(failing.status, 'failed')
})
