import t, { type Test } from 'tap'
import { StoreUnavailable, type FollowOptions, type Session, type SseSessionsOptions } from '../../lib/index.js'
import { openStream, type ClientStream, type StreamEvent } from '../support/http-client.js'
import { FlakyStore } from '../support/flaky-store.js'
import { matchList } from '../support/match-list.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { createFeed } from './support/feed.js'
import { serveRuns, type RunServer } from './support/serve-runs.js'

interface Part {
  readonly run: string
  readonly position?: number
  readonly event?: string
  readonly data?: unknown
  readonly gap?: { readonly after: number, readonly resumedAt: number, readonly reason: string }
  readonly end?: object
}

interface Followed extends RunServer {
  readonly session: Session
  readonly stream: ClientStream
}

async function serveFollowed (t: Test, plugin: SseSessionsOptions = {}): Promise<Followed> {
  const served = await serveRuns(t, { plugin })
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('No session')
  return { ...served, session, stream }
}

const partsOf = ({ events }: ClientStream): Part[] => events.filter(({ event }) => event === 'part').map(({ data }) => data as Part)
const dataOf = (stream: ClientStream): unknown[] => partsOf(stream).filter(part => 'data' in part).map(({ data }) => data)
const isPart = (key: keyof Part, value?: unknown) => ({ event, data }: StreamEvent): boolean => event === 'part' && key in (data as Part) && (value === undefined || (data as Part)[key] === value)

t.test('the stream of a session gets the events of a run from the beginning, and its outcome', async t => {
  const { runs, feed, session, stream } = await serveFollowed(t)
  const run = await runs.start('a', {}, feed.producer)
  feed.add('one', { event: 'step', data: { n: 2 } })
  const followed = session.follow(run)
  await stream.waitFor(isPart('event', 'step'))
  feed.add(null)
  feed.end()
  t.strictSame(await withTimeout(followed, 'the outcome'), { status: 'finished' })
  await stream.waitFor(isPart('end'))
  const positions = partsOf(stream).map(({ position }) => position)
  t.strictSame(partsOf(stream), [
    { run: 'a', position: positions[0], data: 'one' },
    { run: 'a', position: positions[1], event: 'step', data: { n: 2 } },
    { run: 'a', position: positions[2], data: null },
    { run: 'a', end: { status: 'finished' } }
  ])
  // Once more, after the end.
  for (const [from, expected] of [['now', []], ['start', ['one', { n: 2 }, null]], [positions[0], [{ n: 2 }, null]], [0, ['one', { n: 2 }, null]]] as Array<[FollowOptions['from'], unknown[]]>) {
    const before = dataOf(stream).length
    t.strictSame(await session.follow(run, { from }), { status: 'finished' })
    await session.emit('done', from)
    await stream.waitFor(({ event, data }) => event === 'done' && data === from)
    t.strictSame(dataOf(stream).slice(before), expected, `from ${from}`)
  }
})

t.test('data that "encode" has made arrives as a string, also if it looks like JSON', async t => {
  const { runs, session, stream } = await serveFollowed(t)
  await session.follow(await runs.start('a', { encode: String }, function * () { yield * ['42', 'two\nlines', '', { event: 'x', data: '"' }] }))
  await stream.waitFor(isPart('end'))
  t.strictSame(dataOf(stream), ['42', 'two\nlines', '', '"'])
})

t.test('a client that reconnects receives each part once', async t => {
  const { runs, feed, session, stream, url } = await serveFollowed(t)
  const followed = session.follow(await runs.start('a', {}, feed.producer))
  feed.add(1, 2)
  const { id = '' } = await stream.waitFor(isPart('data', 2))
  stream.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  feed.add(3)
  const second = await openStream(t, url, { headers: { 'last-event-id': id } })
  await second.waitFor(isPart('data', 3))
  feed.add(4)
  feed.end()
  await withTimeout(followed, 'the end')
  await second.waitFor(isPart('end'))
  t.strictSame([...dataOf(stream), ...dataOf(second)], [1, 2, 3, 4])
})

t.test('a run does not overrun the log of a disconnected session, and what the log of the run loses meanwhile is a gap', async t => {
  const { runs, feed, session, stream, url } = await serveFollowed(t, { log: { entries: 20 }, runLog: { entries: 50 } })
  const followed = session.follow(await runs.start('a', {}, feed.producer))
  feed.add(0)
  const { id = '' } = await stream.waitFor(isPart('data', 0))
  stream.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  for (let n = 1; n <= 200; n++) feed.add(n)
  feed.end()
  const run = await runs.find('a')
  await waitUntil(() => run?.status === 'finished', 'the end of the run')
  const second = await openStream(t, url, { headers: { 'last-event-id': id } })
  await withTimeout(followed, 'the end')
  await second.waitFor(isPart('end'))
  t.strictSame(second.events.filter(({ event }) => event === 'gap'), [], 'the log of the session has dropped nothing')
  const parts = partsOf(second)
  const gaps = parts.filter(part => 'gap' in part)
  matchList(t, gaps, [{ run: 'a', gap: { reason: 'count' } }])
  t.equal(gaps[0]?.position, gaps[0]?.gap?.resumedAt)
  const numbers = dataOf(second) as number[]
  t.strictSame(numbers, [...numbers].sort((a, b) => a - b))
  t.strictSame(numbers.slice(0, 5), [1, 2, 3, 4, 5])
  t.equal(numbers.at(-1), 200)
  t.ok(numbers.length < 100, `${numbers.length} parts`)
})

t.test('a stopped run and a failed run end with their outcomes', async t => {
  const { runs, feed, session, stream } = await serveFollowed(t)
  const run = await runs.start('a', {}, feed.producer)
  const followed = session.follow(run)
  feed.add(1)
  await stream.waitFor(isPart('data', 1))
  await run.stop('user')
  t.strictSame(await withTimeout(followed, 'the end'), { status: 'stopped', reason: 'user' })
  t.strictSame(await session.follow(await runs.start('b', {}, function * () { throw new Error('secret') })), { status: 'failed' })
  await stream.waitFor(({ data }) => (data as Part).run === 'b')
  t.strictSame(partsOf(stream).filter(part => 'end' in part), [{ run: 'a', end: { status: 'stopped', reason: 'user' } }, { run: 'b', end: { status: 'failed' } }])
})

t.test('a follower ends when the session closes, and the run continues', async t => {
  const { runs, feed, session, stream } = await serveFollowed(t)
  const run = await runs.start('a', {}, feed.producer)
  const followed = session.follow(run)
  feed.add(1)
  await stream.waitFor(isPart('data', 1))
  await session.close()
  await t.rejects(withTimeout(followed, 'the end'), { code: 'FST_SSE_SESSION_OVER' })
  await t.rejects(session.follow(run), { code: 'FST_SSE_SESSION_OVER' })
  t.equal(run.status, 'running')
  await withTimeout(stream.ended, 'the end of the stream')
  t.strictSame(dataOf(stream), [1])
  t.strictSame(partsOf(stream).filter(part => 'end' in part), [])
})

t.test('invalid calls reject with a code', async t => {
  const { runs, feed, session, stream } = await serveFollowed(t, { maxRuns: 1, maxWaitingMessages: 1 })
  const run = await runs.start('a', {}, feed.producer)
  for (const from of [-1, 1.5, 'end', NaN]) await t.rejects(session.follow(run, { from: from as number }), { code: 'FST_SSE_RUN_INVALID', message: /"from" must be/ })
  const followed = [session.follow(run), session.follow(run)]
  await t.rejects(session.follow(run), { code: 'FST_SSE_TOO_MANY_DELIVERIES', statusCode: 429 })
  feed.end()
  t.strictSame(await withTimeout(Promise.all(followed), 'the ends'), [{ status: 'finished' }, { status: 'finished' }], 'they do not count for maxRuns')
  await runs.start('b', {}, createFeed().producer)
  await t.rejects(session.follow(run), { code: 'FST_SSE_RUN_UNKNOWN' }, 'the run is not kept any more')
  await stream.waitFor(({ data }) => isPart('end')({ event: 'part', data, id: '' }) && ((data as Part).end as { status: string }).status === 'failed')
})

t.test('an event that does not fit into the log of the session ends the follower', async t => {
  const { runs, session, stream } = await serveFollowed(t, { log: { bytes: 1000 } })
  const run = await runs.start('a', {}, function * () { yield 'x'.repeat(2000) })
  await t.rejects(session.follow(run), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  await stream.waitFor(isPart('end'))
  t.strictSame(partsOf(stream), [{ run: 'a', end: { status: 'failed' } }])
})

t.test('when the server closes, followers end at once, with the reason shutdown', async t => {
  const { app, runs, feed, session, stream } = await serveFollowed(t, { closeTimeout: 100 })
  const followed = session.follow(await runs.start('a', {}, feed.producer))
  feed.add(1)
  await stream.waitFor(isPart('data', 1))
  const closing = app.close()
  t.strictSame(await withTimeout(followed, 'the end'), { status: 'lost', reason: 'shutdown' })
  await t.rejects(session.follow(await runs.find('a') as never), { code: 'FST_SSE_CLOSING' })
  feed.end()
  await withTimeout(closing, 'the close')
})

t.test('if the store fails, the follower rejects, and a promise that nothing handles is logged', async t => {
  const store = new FlakyStore()
  const { runs, feed, session, logged } = await serveFollowed(t, { store: store.createStore })
  const run = await runs.start('a', {}, feed.producer)
  store.isDown = true
  await t.rejects(session.follow(run), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  session.follow(run)
  await waitUntil(() => logged().some(({ msg, err }) => msg.startsWith('session.follow has failed') && err?.code === 'FST_SSE_STORE_UNAVAILABLE'), 'the log line')
  store.isDown = false
  const followed = session.follow(run)
  feed.add(1)
  await waitUntil(() => store.calls.filter(name => name === 'append').length === 2, 'the first event and its part')
  let appends = 0
  store.delay = name => { if (name === 'append' && ++appends === 2) throw new StoreUnavailable() }
  feed.add(2)
  await t.rejects(withTimeout(followed, 'the failure'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('unknown options are rejected', async t => {
  const { runs, feed, session } = await serveFollowed(t)
  const run = await runs.start('a', {}, feed.producer)
  for (const [options, text] of [[null, 'null'], [[], 'of the type array']]) await t.rejects(session.follow(run, options as FollowOptions), { code: 'FST_SSE_RUN_INVALID', message: new RegExp(`they are ${text as string}`) })
  await t.rejects(session.follow(run, { form: 5 } as FollowOptions), { code: 'FST_SSE_RUN_INVALID', message: /form/ })
})
