import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import type { Session, SseSessionsOptions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { eventSources } from '../support/event-sources.js'
import { FlakyStore } from '../support/flaky-store.js'
import { collectGarbage } from '../support/gc.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream, type ClientStream } from '../support/http-client.js'
import { collectProcessWarnings } from '../support/process-warnings.js'
import { PADDING, waitForStreams, openRawClient, type RawClient } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { follow } from './support/follower.js'

/** Serves the plugin and opens a session. */
async function serveProducerSession (t: Test, options: SseSessionsOptions = {}): Promise<TestServer & { session: Session, stream: ClientStream }> {
  const served = await serve(t, options)
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('No session')
  return { ...served, session, stream }
}

/** Waits until a count has not changed twenty times in a row. */
async function waitUntilStable (count: () => number): Promise<number> {
  for (let unchanged = 0, before = -1; unchanged < 20; unchanged++) {
    if (count() !== before) unchanged = 0
    before = count()
    await new Promise(resolve => { setTimeout(resolve, 1) })
  }
  return count()
}

const numbersOf = ({ events }: ClientStream): unknown[] => events.filter(({ event }) => event === 'n').map(({ data }) => data)
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

t.test('sends the items of every kind of iterable in order as the named event', async t => {
  const { session, stream } = await serveProducerSession(t)
  function * generator (): Generator<number> { yield * [0, 1] }
  async function * asyncGenerator (): AsyncGenerator<number> { yield * [6, 7] }
  await session.stream('n', generator())
  await session.stream('n', [2, 3])
  await session.stream('n', new Set([4, 5]))
  await session.stream('n', asyncGenerator())
  await session.stream('n', [])
  await session.stream('letter', 'ab')
  await stream.waitFor(({ data }) => data === 'b')
  t.strictSame(numbersOf(stream), upTo(8))
})

t.test('twenty producers of one session cause no listener leak warning of Node', async t => {
  const { session } = await serveProducerSession(t)
  const warned = collectProcessWarnings(t)
  const end = deferred()
  async function * producer (): AsyncGenerator<number> { await end.promise }
  const streams = Array.from({ length: 20 }, () => session.stream('n', producer()))
  end.resolve()
  await withTimeout(Promise.all(streams), 'the streams')
  await nextEventLoopTick()
  t.strictSame(warned, [])
})

t.test('a producer is paused half a log ahead of a disconnected client, and continues when the client resumes', async t => {
  for (const log of [{ entries: 100 }, { bytes: 100 * Buffer.byteLength('event: n\ndata: 00\n\n') }]) {
    const { session, stream, url } = await serveProducerSession(t, { log })
    stream.destroy()
    await waitUntil(() => !session.connected, 'the loss of the stream')
    let requested = 0
    let returned = false
    async function * numbers (): AsyncGenerator<number> {
      try {
        for (; requested < 100; requested++) yield 100 - requested
      } finally {
        returned = true
      }
    }
    const streaming = session.stream('n', numbers())
    // All numbers except the first have the same number of digits.
    t.equal(await waitUntilStable(() => requested), 50 - 1)
    t.notOk(returned)
    const resumed = await openStream(t, url, { headers: { 'x-session-id': session.id } })
    await withTimeout(streaming, 'the stream')
    t.ok(returned)
    await resumed.waitFor(({ data }) => data === 1)
    t.strictSame(numbersOf(resumed), upTo(100).map(n => 100 - n))
    t.notOk(resumed.events.some(({ event }) => event === 'gap'))
  }
})

t.test('a producer is paused at half of the bytes of a log, if these are reached before half of its entries', async t => {
  const { sessions, session, stream } = await serveProducerSession(t, { log: { bytes: 2000 } })
  stream.destroy()
  await waitForStreams(sessions, 0)
  let produced = 0
  function * items (): Generator<string> {
    for (;;) {
      produced++
      yield 'x'.repeat(90)
    }
  }
  // With `data: ""` and two line feeds, each frame has 100 bytes.
  const streaming = session.stream('message', items())
  t.equal(await waitUntilStable(() => produced), 10)
  await session.close()
  await t.rejects(streaming, { code: 'FST_SSE_SESSION_OVER' })
})

t.test('a producer is never more than half a log ahead of what the connection accepts', async t => {
  const { sessions, port } = await serve(t, { log: { entries: 20, bytes: 2 ** 26 } })
  let session: Session | undefined
  sessions.addHook('onOpen', opened => { session = opened })
  const client: RawClient = openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  const start = session?.[kInternals].cursor ?? NaN
  let produced = 0
  let furthest = 0
  function * numbers (): Generator<object> {
    for (; produced < 400; produced++) {
      furthest = Math.max(furthest, produced - ((session?.[kInternals].cursor ?? NaN) - start))
      yield { n: produced, padding: PADDING }
    }
  }
  const streaming = session?.stream('message', numbers())
  const stoppedAt = await waitUntilStable(() => produced)
  t.ok(stoppedAt < 400, `the producer was paused at ${stoppedAt}, because the client does not read`)
  client.read()
  await withTimeout(streaming ?? Promise.reject(new Error('No session')), 'stream() to settle', 20_000)
  await waitUntil(() => client.numbers().length === 400, 'all messages')
  t.equal(furthest, 9)
  t.strictSame(client.numbers(), upTo(400))
  t.notMatch(client.text(), 'event: gap')
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} receives all items in order over connections that break`, async t => {
    const next = createRandom(chooseSeed(t))
    const { sessions, port } = await serve(t, { retry: 1, log: { bytes: 2 ** 23, entries: 20_000 } })
    const proxy = await startFaultProxy(t, port, n => n < 12 ? { fault: next() < 0.5 ? 'cut' : 'reset', afterBytes: 1000 + Math.floor(next() * 60_000) } : undefined)
    const follower = follow(open(t, `${proxy.url}/downward`))
    const session = await sessions.find(await follower.welcomed)
    async function * numbers (): AsyncGenerator<object> {
      for (let n = 1; n <= 20_000; n++) yield { n, text: 'some words of an answer' }
    }
    await withTimeout(session?.stream('message', numbers()) ?? Promise.reject(new Error('No session')), 'the stream', 30_000)
    await follower.reached(20_000)
    t.strictSame(follower.problems, [])
    t.equal(follower.numbers.length, 20_000)
    t.ok(proxy.connections.length > 12, 'every planned fault happened')
  })
}

t.test('calls return() of the iterable and rejects when the session is closed, in whatever state the iterable is', async t => {
  const sessionOver = { code: 'FST_SSE_SESSION_OVER' }
  const never = new Promise<never>(() => {})
  // These two wait for the client.
  const returned: string[] = []
  const disconnected = await serveProducerSession(t, { log: { entries: 10 } })
  disconnected.stream.destroy()
  await waitUntil(() => !disconnected.session.connected, 'the loss of the stream')
  let produced = 0
  function * endless (): Generator<number> {
    try {
      for (;;) yield produced++
    } finally {
      returned.push('sync')
    }
  }
  async function * asyncEndless (): AsyncGenerator<number> {
    try {
      for (;;) yield produced++
    } finally {
      returned.push('async')
    }
  }
  // These wait for an item that never comes. A running generator does not execute return(); an iterator does.
  async function * waiting (): AsyncGenerator<number> {
    yield await never
  }
  const iterable = {
    [Symbol.asyncIterator]: () => ({
      next: () => never,
      return: async () => {
        returned.push('iterator')
        return { done: true as const, value: undefined }
      }
    })
  }
  const withoutReturn = { [Symbol.asyncIterator]: () => ({ next: () => never }) }
  const streaming = [endless(), asyncEndless(), waiting(), iterable, withoutReturn].map(items => disconnected.session.stream('n', items))
  await waitUntilStable(() => produced)
  await disconnected.session.close()
  for (const promise of streaming) await t.rejects(withTimeout(promise, 'stream() to settle'), sessionOver)
  await t.rejects(disconnected.session.stream('n', endless()), sessionOver)
  await waitUntil(() => returned.length === 3, 'return() of the iterables')
  t.strictSame(returned.sort(), ['async', 'iterator', 'sync'], 'a generator that was never started runs no finally block')
})

t.test('sends no item that comes after the session is closed, and requests no more items', async t => {
  const { session } = await serveProducerSession(t)
  const requested: string[] = []
  const late = (name: string, next: Promise<IteratorResult<unknown>>): AsyncIterable<unknown> => ({
    [Symbol.asyncIterator]: () => ({
      next: () => {
        requested.push(name)
        return next
      }
    })
  })
  const item = deferred()
  const items = [
    late('item', item.promise.then(() => ({ done: false, value: { toJSON: () => { requested.push('its text') } } }))),
    late('failure', item.promise.then(() => { throw new Error('too late') })),
    late('end', item.promise.then(() => ({ done: true, value: undefined })))
  ]
  const streaming = items.map(items => session.stream('n', items))
  await session.close()
  for (const promise of streaming) await t.rejects(withTimeout(promise, 'stream() to settle'), { code: 'FST_SSE_SESSION_OVER' })
  item.resolve()
  await new Promise(setImmediate)
  t.strictSame(requested, ['item', 'failure', 'end'])
})

t.test('calls return() of a generator that closes its own session, as soon as the generator is suspended', async t => {
  const { session } = await serveProducerSession(t)
  const returned = deferred()
  function * ending (): Generator<number> {
    try {
      yield 1
      session.close()
      yield 2
    } finally {
      returned.resolve()
    }
  }
  await t.rejects(withTimeout(session.stream('n', ending()), 'stream() to settle'), { code: 'FST_SSE_SESSION_OVER' })
  await withTimeout(returned.promise, 'return() of the generator')
})

t.test('waits for a slow store, keeps the order of items, and rejects with the error of the store', async t => {
  const store = new FlakyStore()
  const { session, stream } = await serveProducerSession(t, { store: store.createStore })
  function * numbers (): Generator<number> {
    for (let n = 1; ; n++) {
      store.isDown = n === 4
      yield n
    }
  }
  await t.rejects(withTimeout(session.stream('n', numbers()), 'stream() to settle'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  store.isDown = false
  await session.emit('n', 4)
  await stream.waitFor(({ data }) => data === 4)
  t.strictSame(numbersOf(stream), [1, 2, 3, 4])
})

t.test('logs an error of the iterable that comes after the session is closed', async t => {
  const logged: Array<{ level: number, msg: string, event?: string, err?: { message: string } }> = []
  const { sessions, url } = await serve(t, {}, { fastify: { logger: { stream: { write: line => { logged.push(JSON.parse(line)) } } } } })
  const session = await sessions.find((await openStream(t, url)).sessionId) as Session
  const streaming = session.stream('n', { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return: async () => { throw new Error('no') } }) })
  await session.close()
  await t.rejects(withTimeout(streaming, 'stream() to settle'), { code: 'FST_SSE_SESSION_OVER' })
  await waitUntil(() => logged.some(({ level }) => level > 30), 'the log')
  t.match(logged.filter(({ level }) => level > 30), [{ level: 40, event: 'n', err: { message: 'no' } }])
})

t.test('rejects with the error of the iterable; earlier items are delivered, and the session stays open', async t => {
  const { session, stream } = await serveProducerSession(t)
  const failure = new Error('oops')
  async function * failing (): AsyncGenerator<number> {
    yield 0
    throw failure
  }
  function * failingAtOnce (): Generator<number> { throw failure }
  const notIterator = { [Symbol.asyncIterator]: (): AsyncIterator<number> => ({ next: () => { throw failure } }) }
  await t.rejects(session.stream('n', failing()), failure)
  await t.rejects(session.stream('n', failingAtOnce()), failure)
  await t.rejects(session.stream('n', notIterator), failure)
  await session.emit('n', 1)
  await stream.waitFor(({ data }) => data === 1)
  t.strictSame(numbersOf(stream), upTo(2))
  t.notOk(session.closed)
})

t.test('rejects as emit() does and calls return() of the iterable at an item that cannot be sent', async t => {
  const { session, stream } = await serveProducerSession(t)
  const returned = deferred()
  async function * numbers (): AsyncGenerator<unknown> {
    try {
      yield * [0, 1n, 2]
    } finally {
      returned.resolve()
    }
  }
  await t.rejects(session.stream('n', numbers()), { code: 'FST_SSE_DATA_INVALID' })
  await withTimeout(returned.promise, 'return() of the iterable')
  await t.rejects(session.stream('welcome', [1]), { code: 'FST_SSE_EVENT_INVALID' })
  await session.emit('n', 1)
  await stream.waitFor(({ data }) => data === 1)
  t.strictSame(numbersOf(stream), upTo(2))
})

t.test('leaks no listeners and no memory over many items', async t => {
  const { sessions, port } = await serve(t)
  let session: Session | undefined
  sessions.addHook('onOpen', opened => { session = opened })
  const client = openRawClient(t, port, { stalled: true })
  client.socket.resume()
  await waitForStreams(sessions, 1)
  if (session === undefined) throw new Error('No session')
  const { signal } = session
  const heap: number[] = []
  let listeners = 0
  function * numbers (): Generator<number> {
    for (let n = 0; n < 100_000; n++) {
      if (n % 20_000 === 19_999) {
        collectGarbage()
        heap.push(process.memoryUsage().heapUsed)
        listeners = Math.max(listeners, getEventListeners(signal, 'abort').length)
      }
      yield n
    }
  }
  await withTimeout(session.stream('n', numbers()), 'the stream', 30_000)
  t.equal(listeners, 1)
  t.equal(getEventListeners(signal, 'abort').length, 0)
  // The first measurement is a warm-up, because compiled code stays on the heap.
  const [, first = 0, ...later] = heap
  t.ok(Math.max(...later) - first < 4_000_000, `growth over 60,000 items: ${later.map(used => Math.round((used - first) / 1000)).join(', ')} kB`)
})
