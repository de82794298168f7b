import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import type { Session, SseSessionsOptions } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { eventSources } from '../support/eventsources.js'
import { FlakyStore } from '../support/flaky-store.js'
import { follow } from './support/follower.js'
import { collect } from '../support/gc.js'
import { faultProxy } from '../support/proxy.js'
import { random, seedOf } from '../support/random.js'
import { serve, type Served } from '../support/server.js'
import { openStream, type Stream } from '../support/stream.js'
import { warnings } from '../support/process-warnings.js'
import { FILL, streamsOpen, wire, type Wire } from '../support/wire.js'
import { signal, turn, until, within } from '../support/wait.js'

/** Serves, and opens a session. */
async function openSession (t: Test, options: SseSessionsOptions = {}): Promise<Served & { session: Session, stream: Stream }> {
  const served = await serve(t, options)
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('No session')
  return { ...served, session, stream }
}

/** Waits until a count has not grown for twenty turns. */
async function atRest (count: () => number): Promise<number> {
  for (let still = 0, before = -1; still < 20; still++) {
    if (count() !== before) still = 0
    before = count()
    await new Promise(resolve => { setTimeout(resolve, 1) })
  }
  return count()
}

const numbersOf = ({ events }: Stream): unknown[] => events.filter(({ event }) => event === 'n').map(({ data }) => data)
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

t.test('every kind of iterable is sent, in order, as the named event', async t => {
  const { session, stream } = await openSession(t)
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

t.test('twenty producers of one session are no leak for Node to warn of', async t => {
  const { session } = await openSession(t)
  const warned = warnings(t)
  const end = signal()
  async function * producer (): AsyncGenerator<number> { await end.promise }
  const streams = Array.from({ length: 20 }, () => session.stream('n', producer()))
  end.resolve()
  await within(Promise.all(streams), 'the streams')
  await turn()
  t.strictSame(warned, [])
})

t.test('a producer goes half a log ahead of a client that is not there, no further, and on when it comes back', async t => {
  for (const log of [{ entries: 100 }, { bytes: 100 * Buffer.byteLength('event: n\ndata: 00\n\n') }]) {
    const { session, stream, url } = await openSession(t, { log })
    stream.destroy()
    await until(() => !session.connected, 'the loss of the stream')
    let asked = 0
    let returned = false
    async function * numbers (): AsyncGenerator<number> {
      try {
        for (; asked < 100; asked++) yield 100 - asked
      } finally {
        returned = true
      }
    }
    const streaming = session.stream('n', numbers())
    // All numbers but the first have as many digits.
    t.equal(await atRest(() => asked), 50 - 1)
    t.notOk(returned)
    const again = await openStream(t, url, { headers: { 'x-session-id': session.id } })
    await within(streaming, 'the stream')
    t.ok(returned)
    await again.waitFor(({ data }) => data === 1)
    t.strictSame(numbersOf(again), upTo(100).map(n => 100 - n))
    t.notOk(again.events.some(({ event }) => event === 'gap'))
  }
})

t.test('half a log is half of its bytes, where those are fewer', async t => {
  const { sessions, session, stream } = await openSession(t, { log: { bytes: 2000 } })
  stream.destroy()
  await streamsOpen(sessions, 0)
  let produced = 0
  function * items (): Generator<string> {
    for (;;) {
      produced++
      yield 'x'.repeat(90)
    }
  }
  // `data: ""` and two line feeds make it 100 bytes.
  const streaming = session.stream('message', items())
  t.equal(await atRest(() => produced), 10)
  await session.close()
  await t.rejects(streaming, { code: 'FST_SSE_SESSION_OVER' })
})

t.test('a producer is never more than half a log ahead of what the connection takes', async t => {
  const { sessions, port } = await serve(t, { log: { entries: 20, bytes: 2 ** 26 } })
  let session: Session | undefined
  sessions.addHook('onOpen', opened => { session = opened })
  const client: Wire = wire(t, port, { stalled: true })
  await streamsOpen(sessions, 1)
  const start = session?.[kStream].cursor ?? NaN
  let produced = 0
  let furthest = 0
  function * numbers (): Generator<object> {
    for (; produced < 400; produced++) {
      furthest = Math.max(furthest, produced - ((session?.[kStream].cursor ?? NaN) - start))
      yield { n: produced, FILL }
    }
  }
  const streaming = session?.stream('message', numbers())
  const stoppedAt = await atRest(() => produced)
  t.ok(stoppedAt < 400, `the client, which does not read, stopped it at ${stoppedAt}`)
  client.read()
  await within(streaming ?? Promise.reject(new Error('No session')), 'the stream', 20_000)
  await until(() => client.numbers().length === 400, 'everything')
  t.equal(furthest, 9)
  t.strictSame(client.numbers(), upTo(400))
  t.notMatch(client.text(), 'event: gap')
})

for (const [name, open] of eventSources) {
  t.test(`what is streamed to the EventSource of ${name} comes whole and in order over connections that break`, async t => {
    const next = random(seedOf(t))
    const { sessions, port } = await serve(t, { retry: 1, log: { bytes: 2 ** 23, entries: 20_000 } })
    const proxy = await faultProxy(t, port, n => n < 12 ? { fault: next() < 0.5 ? 'cut' : 'reset', afterBytes: 1000 + Math.floor(next() * 60_000) } : undefined)
    const follower = follow(open(t, `${proxy.url}/downward`))
    const session = await sessions.find(await follower.welcomed)
    async function * numbers (): AsyncGenerator<object> {
      for (let n = 1; n <= 20_000; n++) yield { n, text: 'some words of an answer' }
    }
    await within(session?.stream('message', numbers()) ?? Promise.reject(new Error('No session')), 'the stream', 30_000)
    await follower.reached(20_000)
    t.strictSame(follower.problems, [])
    t.equal(follower.numbers.length, 20_000)
    t.ok(proxy.connections.length > 12, 'every fault has struck')
  })
}

t.test('when the session ends the iterable is told to return, wherever it is, and stream() rejects', async t => {
  const over = { code: 'FST_SSE_SESSION_OVER' }
  const never = new Promise<never>(() => {})
  // Waiting for the client.
  const told: string[] = []
  const gone = await openSession(t, { log: { entries: 10 } })
  gone.stream.destroy()
  await until(() => !gone.session.connected, 'the loss of the stream')
  let produced = 0
  function * endless (): Generator<number> {
    try {
      for (;;) yield produced++
    } finally {
      told.push('sync')
    }
  }
  async function * asyncEndless (): AsyncGenerator<number> {
    try {
      for (;;) yield produced++
    } finally {
      told.push('async')
    }
  }
  // Waiting for something that never comes: a generator cannot even be told, an iterator can.
  async function * waiting (): AsyncGenerator<number> {
    yield await never
  }
  const iterable = {
    [Symbol.asyncIterator]: () => ({
      next: () => never,
      return: async () => {
        told.push('iterator')
        return { done: true as const, value: undefined }
      }
    })
  }
  const bare = { [Symbol.asyncIterator]: () => ({ next: () => never }) }
  const streaming = [endless(), asyncEndless(), waiting(), iterable, bare].map(items => gone.session.stream('n', items))
  await atRest(() => produced)
  await gone.session.close()
  for (const promise of streaming) await t.rejects(within(promise, 'stream() to settle'), over)
  await t.rejects(gone.session.stream('n', endless()), over)
  await until(() => told.length === 3, 'the iterables to be told')
  t.strictSame(told.sort(), ['async', 'iterator', 'sync'], 'one that was never asked has nothing to tidy up')
})

t.test('an iterable whose next item, or failure, comes after the end harms nobody, and is asked no more', async t => {
  const { session } = await openSession(t)
  const asked: string[] = []
  const late = (name: string, next: Promise<IteratorResult<unknown>>): AsyncIterable<unknown> => ({
    [Symbol.asyncIterator]: () => ({
      next: () => {
        asked.push(name)
        return next
      }
    })
  })
  const item = signal()
  const items = [
    late('item', item.promise.then(() => ({ done: false, value: { toJSON: () => { asked.push('its text') } } }))),
    late('failure', item.promise.then(() => { throw new Error('too late') })),
    late('end', item.promise.then(() => ({ done: true, value: undefined })))
  ]
  const streaming = items.map(items => session.stream('n', items))
  await session.close()
  for (const promise of streaming) await t.rejects(within(promise, 'stream() to settle'), { code: 'FST_SSE_SESSION_OVER' })
  item.resolve()
  await new Promise(setImmediate)
  t.strictSame(asked, ['item', 'failure', 'end'])
})

t.test('a generator that ends its own session is told to return when it is no longer running', async t => {
  const { session } = await openSession(t)
  const told = signal()
  function * ending (): Generator<number> {
    try {
      yield 1
      session.close()
      yield 2
    } finally {
      told.resolve()
    }
  }
  await t.rejects(within(session.stream('n', ending()), 'stream() to settle'), { code: 'FST_SSE_SESSION_OVER' })
  await within(told.promise, 'the generator to be told')
})

t.test('a store that takes its time is waited for: items keep their order, and one that it refuses ends the stream', async t => {
  const store = new FlakyStore()
  const { session, stream } = await openSession(t, { store: store.open })
  function * numbers (): Generator<number> {
    for (let n = 1; ; n++) {
      store.down = n === 4
      yield n
    }
  }
  await t.rejects(within(session.stream('n', numbers()), 'stream() to settle'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  store.down = false
  await session.emit('n', 4)
  await stream.waitFor(({ data }) => data === 4)
  t.strictSame(numbersOf(stream), [1, 2, 3, 4])
})

t.test('an iterable that fails on being told to return harms nobody', async t => {
  const { session } = await openSession(t)
  const bad = (fail: () => Promise<never>): AsyncIterable<number> => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return: fail }) })
  const streaming = [
    session.stream('n', bad(async () => { throw new Error('no') })),
    session.stream('n', bad(() => { throw new Error('no') }))
  ]
  await session.close()
  for (const promise of streaming) await t.rejects(within(promise, 'stream() to settle'), { code: 'FST_SSE_SESSION_OVER' })
})

t.test('what an iterable throws is what stream() rejects with; what came before is delivered, and the session lives', async t => {
  const { session, stream } = await openSession(t)
  const oops = new Error('oops')
  async function * failing (): AsyncGenerator<number> {
    yield 0
    throw oops
  }
  function * failingAtOnce (): Generator<number> { throw oops }
  const notIterator = { [Symbol.asyncIterator]: (): AsyncIterator<number> => ({ next: () => { throw oops } }) }
  await t.rejects(session.stream('n', failing()), oops)
  await t.rejects(session.stream('n', failingAtOnce()), oops)
  await t.rejects(session.stream('n', notIterator), oops)
  await session.emit('n', 1)
  await stream.waitFor(({ data }) => data === 1)
  t.strictSame(numbersOf(stream), upTo(2))
  t.notOk(session.closed)
})

t.test('an item that cannot be sent ends it: stream() rejects as emit does, and the iterable is told to return', async t => {
  const { session, stream } = await openSession(t)
  const returned = signal()
  async function * numbers (): AsyncGenerator<unknown> {
    try {
      yield * [0, 1n, 2]
    } finally {
      returned.resolve()
    }
  }
  await t.rejects(session.stream('n', numbers()), { code: 'FST_SSE_DATA_INVALID' })
  await within(returned.promise, 'the iterable to be told')
  await t.rejects(session.stream('welcome', [1]), { code: 'FST_SSE_EVENT_INVALID' })
  await session.emit('n', 1)
  await stream.waitFor(({ data }) => data === 1)
  t.strictSame(numbersOf(stream), upTo(2))
})

t.test('many items leave no listeners and no memory behind', async t => {
  const { sessions, port } = await serve(t)
  let session: Session | undefined
  sessions.addHook('onOpen', opened => { session = opened })
  const client = wire(t, port, { stalled: true })
  client.socket.resume()
  await streamsOpen(sessions, 1)
  if (session === undefined) throw new Error('No session')
  const { signal: over } = session
  const heap: number[] = []
  let listeners = 0
  function * numbers (): Generator<number> {
    for (let n = 0; n < 100_000; n++) {
      if (n % 20_000 === 19_999) {
        collect()
        heap.push(process.memoryUsage().heapUsed)
        listeners = Math.max(listeners, getEventListeners(over, 'abort').length)
      }
      yield n
    }
  }
  await within(session.stream('n', numbers()), 'the stream', 30_000)
  t.equal(listeners, 1)
  t.equal(getEventListeners(over, 'abort').length, 0)
  // The first are a warm-up: what a process compiles meanwhile stays.
  const [, first = 0, ...later] = heap
  t.ok(Math.max(...later) - first < 4_000_000, `60,000 items more: ${later.map(used => Math.round((used - first) / 1000)).join(', ')} kB`)
})
