import t, { type Test } from 'tap'
import { memoryStore, type Awaitable, type EmitOptions, type RequestOptions, type Reuse, type RunInput, type RunState, type RunStore, type Session, type SseSessionsOptions, type Store, type StoreFactory } from '../../lib/index.js'
import { deleteSession, openStream, postMessage, type ClientStream, type HttpResponse } from '../support/http-client.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

interface Served extends TestServer {
  readonly stream: ClientStream
  readonly session: Session
  post (event: string, data?: unknown): Promise<HttpResponse>
}

async function serveSession (t: Test, options: SseSessionsOptions = {}): Promise<Served> {
  const served = await serve(t, options)
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId) as Session
  return { ...served, stream, session, post: (event, data = {}) => withTimeout(postMessage(served.url, stream.sessionId, data, { event }), `the response to ${event}`) }
}

interface Request { readonly request: string, readonly event: string, readonly data: unknown }

/** Waits for a request with an event name, and returns its data. */
async function requestOf (stream: ClientStream, name: string): Promise<Request> {
  return (await stream.waitFor(({ event, data }) => event === 'request' && (data as Request).event === name, `the request ${name}`)).data as Request
}

const rejection = (promise: Promise<unknown>): Promise<unknown> => withTimeout(promise.then(() => 'resolved', (error: unknown) => error), 'the rejection')

t.test('a request is an event, and its answer a message', async t => {
  const { session, stream, post } = await serveSession(t)
  const confirmed = session.request('confirm', { text: 'delete?' })
  const { request, ...others } = await requestOf(stream, 'confirm')
  t.strictSame(others, { event: 'confirm', data: { text: 'delete?' } })
  t.match(request, /^[\w-]+$/)
  t.match(await post('response', { request, data: { yes: true } }), { status: 202, body: { status: 'accepted' } })
  t.strictSame(await withTimeout(confirmed, 'the answer'), { yes: true })
  t.match(await post('response', { request, data: 'again' }), { status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } })
})

t.test('a handler can wait for an answer, also while other messages wait for the handler', async t => {
  const { sessions, stream, url, post } = await serveSession(t, { maxWaitingMessages: 2 })
  sessions.handle('remove', async session => await session.request('confirm'))
  sessions.handle('later', () => 'handled')
  const removed = post('remove')
  const { request } = await requestOf(stream, 'confirm')
  const later = [post('later'), post('later')]
  t.match(await post('later'), { status: 429 }, 'the queue is full')
  const lines = [{ event: 'response', data: { request, data: 'yes' } }, { event: 'response', data: { request } }].map(line => JSON.stringify(line)).join('\n')
  const batch = await withTimeout(postMessage(url, stream.sessionId, lines, { headers: { 'content-type': 'application/x-ndjson' } }), 'the results')
  matchList(t, batch.body, [{ status: 202, body: { status: 'accepted' } }, { status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } }])
  t.match(await removed, { status: 200, body: 'yes' })
  matchList(t, await Promise.all(later), [{ status: 200, body: 'handled' }, { status: 200 }])
})

t.test('a batch has the results of answers and of other messages in the order of its lines', async t => {
  const { sessions, session, stream, url } = await serveSession(t)
  sessions.handle('say', (_session, data) => ({ said: data }))
  const confirmed = session.request('confirm')
  const { request } = await requestOf(stream, 'confirm')
  const lines = [{ event: 'say', data: 1, id: 'a' }, { event: 'response', data: { request, data: 'yes' }, id: 'b' }, { event: 'say', data: 2, id: 'c' }]
  const { body } = await postMessage(url, stream.sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
  t.strictSame(body, [{ status: 200, body: { said: 1 } }, { status: 202, body: { status: 'accepted' } }, { status: 200, body: { said: 2 } }])
  t.equal(await withTimeout(confirmed, 'the answer'), 'yes')
})

t.test('requests and events arrive in the order of the calls', async t => {
  const { session, stream } = await serveSession(t)
  await session.emit('before', 1)
  session.request('confirm').catch(() => {})
  session.emit('after', 2)
  await stream.waitFor(({ event }) => event === 'after')
  t.strictSame(stream.events.map(({ event }) => event), ['welcome', 'before', 'request', 'after'])
})

t.test('a request waits in the log until its client has resumed the session', async t => {
  const { session, stream, url, post } = await serveSession(t)
  stream.destroy()
  await stream.ended
  const confirmed = session.request('confirm', 1)
  const resumed = await openStream(t, url, { headers: { 'last-event-id': String(stream.events[0]?.id) } })
  const { request } = await requestOf(resumed, 'confirm')
  await post('response', { request })
  t.equal(await withTimeout(confirmed, 'the answer'), undefined)
})

t.test('the errors of the client reject the request', async t => {
  const { session, stream, post } = await serveSession(t)
  const answerWith = async (name: string, error: unknown): Promise<unknown> => {
    const rejected = rejection(session.request(name))
    const { request } = await requestOf(stream, name)
    t.match(await post('response', { request, error }), { status: 202 })
    return await rejected
  }
  t.match(await answerWith('a', { code: 'UNHANDLED', message: 'x' }), { code: 'FST_SSE_REQUEST_UNHANDLED', statusCode: 502, message: /"a"/ })
  t.match(await answerWith('b', { code: 'DENIED', message: 'not now' }), { code: 'FST_SSE_REQUEST_FAILED', statusCode: 502, message: /"b" has failed: not now/, cause: { code: 'DENIED', message: 'not now' } })
  t.match(await answerWith('c', { code: 20, message: 'x'.repeat(5000) }), { code: 'FST_SSE_REQUEST_FAILED', cause: { message: 'x'.repeat(1000), code: undefined } })
})

t.test('without an answer, the timeout, the signal and the end of the session reject the request', async t => {
  const { sessions, session, stream, post } = await serveSession(t)
  t.match(await rejection(session.request('confirm', 1, { timeout: 1 })), { code: 'FST_SSE_REQUEST_TIMEOUT', statusCode: 504, message: /"confirm" within 1 ms/ })
  const { request } = await requestOf(stream, 'confirm')
  t.match(await post('response', { request }), { status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } }, 'a late answer')
  const controller = new AbortController()
  const aborted = rejection(session.request('abort', 1, { signal: controller.signal, timeout: false }))
  const { request: second } = await requestOf(stream, 'abort')
  controller.abort(new Error('enough'))
  t.match(await aborted, { message: 'enough' })
  t.match(await post('response', { request: second }), { status: 404 })
  t.match(await rejection(session.request('no', 1, { signal: AbortSignal.abort(new Error('before')) })), { message: 'before' })
  const ended = rejection(session.request('end', 1))
  await session.close()
  t.match(await ended, { code: 'FST_SSE_SESSION_OVER' })
  t.match(await rejection(session.request('late', 1)), { code: 'FST_SSE_SESSION_OVER' })
  t.notOk(stream.events.some(({ data }) => ['no', 'late'].includes((data as Request).event)))
  t.equal(await sessions.find(stream.sessionId), undefined)
})

t.test('the close of the session by its client, and that of the app, reject the request', async t => {
  const { app, sessions, session, stream, url } = await serveSession(t)
  const ended = rejection(session.request('confirm', 1))
  await deleteSession(url, stream.sessionId)
  t.match(await ended, { code: 'FST_SSE_SESSION_OVER' })
  const other = await sessions.find((await openStream(t, url)).sessionId) as Session
  const closed = rejection(other.request('confirm', 1))
  await withTimeout(app.close(), 'the close of the app')
  t.match(await closed, { code: 'FST_SSE_CLOSING' })
  t.match(await rejection(other.request('confirm', 1)), { code: /FST_SSE_CLOSING|FST_SSE_SESSION_OVER/ })
})

t.test('only the session of a request can answer it', async t => {
  const { session, stream, url, post } = await serveSession(t)
  const other = await openStream(t, url)
  const confirmed = session.request('confirm')
  const { request } = await requestOf(stream, 'confirm')
  const code = 'FST_SSE_REQUEST_UNKNOWN'
  t.match(await postMessage(url, other.sessionId, { request, data: 'mine' }, { event: 'response' }), { status: 404, body: { code } })
  t.match(await post('response', { request: `${request}x` }), { status: 404, body: { code } })
  await post('response', { request, data: 'yours' })
  t.equal(await withTimeout(confirmed, 'the answer'), 'yours')
})

t.test('refuses answers and requests that are not valid', async t => {
  const { sessions, session, post } = await serveSession(t, { log: { bytes: 100 } })
  for (const data of [null, 1, {}, { request: 1 }, { request: 'x', error: null }, { request: 'x', error: {} }, { request: 'x', error: { message: 1 } }]) {
    t.match(await post('response', JSON.stringify(data)), { status: 400, body: { code: 'FST_SSE_ANSWER_INVALID' } }, JSON.stringify(data))
  }
  t.throws(() => sessions.handle('response', () => {}), { code: 'FST_SSE_HANDLER_INVALID' })
  await t.rejects(session.request('welcome', 1), { code: 'FST_SSE_EVENT_INVALID' })
  await t.rejects(session.emit('request', 1), { code: 'FST_SSE_EVENT_INVALID' })
  await t.rejects(session.request('a', 1n), { code: 'FST_SSE_DATA_INVALID' })
  await t.rejects(session.request('a', 'x'.repeat(100)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  const invalid: unknown[] = [null, [], { other: 1 }, { timeout: -1 }, { timeout: 0.5 }, { timeout: 2 ** 31 }, { timeout: '1' }, { timeout: true }, { signal: 1 }]
  for (const options of invalid) await t.rejects(session.request('a', 1, options as RequestOptions), { code: 'FST_SSE_OPTION_INVALID' }, JSON.stringify(options))
})

t.test('a session can have as many open requests as messages that wait, and one more', async t => {
  const { session, stream, post } = await serveSession(t, { maxWaitingMessages: 1 })
  const [first, second] = [session.request('a'), session.request('b')]
  await t.rejects(session.request('c'), { code: 'FST_SSE_TOO_MANY_DELIVERIES' })
  await post('response', { request: (await requestOf(stream, 'a')).request })
  await first
  const third = session.request('d')
  for (const name of ['b', 'd']) await post('response', { request: (await requestOf(stream, name)).request })
  await withTimeout(Promise.all([second, third]), 'the answers')
})

t.test('preHandle hooks run for messages, but not for answers', async t => {
  const { sessions, session, stream, post } = await serveSession(t)
  const called = deferred<string>()
  sessions.addHook('preHandle', (_session, { event }) => { called.resolve(event) })
  const confirmed = session.request('confirm')
  await post('response', { request: (await requestOf(stream, 'confirm')).request })
  await confirmed
  await post('message', { text: 'x' })
  t.equal(await called.promise, 'message')
})

t.test('a store without runs rejects requests', async t => {
  const store = memoryStore
  const { session, post } = await serveSession(t, { store: (...args) => Object.assign(store(...args), { runs: undefined }) })
  await t.rejects(session.request('confirm'), { code: 'FST_SSE_RUNS_UNSUPPORTED' })
  t.match(await post('response', { request: 'x' }), { status: 501 })
})

t.test('an event that is to be acknowledged has its own name and a field that other clients ignore', async t => {
  const { session, stream, post } = await serveSession(t)
  const calls = [session.emit('said', 1, { acknowledged: true }), session.emit('said', 2, { acknowledged: false }), session.emit('message', 3, { acknowledged: true, timeout: 60_000 })]
  await stream.waitFor(({ event }) => event === 'message')
  matchList(t, stream.events.slice(1), [{ event: 'said', data: 1 }, { event: 'said', data: 2 }, { event: 'message', data: 3 }])
  const requests = [...stream.text().matchAll(/^request: (\S+)$/gm)].map(([, id]) => id)
  t.equal(requests.length, 2)
  for (const request of requests) await post('response', { request })
  t.strictSame(await withTimeout(Promise.all(calls), 'the acknowledgements'), [undefined, undefined, undefined])
  t.match(await rejection(session.emit('said', 1, { acknowledged: true, timeout: 1 })), { code: 'FST_SSE_REQUEST_TIMEOUT', message: /the event "said"/ })
  const invalid: unknown[] = [null, { acknowledged: 1 }, { acknowledge: true }, { acknowledged: true, timeout: -1 }]
  for (const options of invalid) await t.rejects(session.emit('said', 1, options as EmitOptions), { code: 'FST_SSE_OPTION_INVALID' }, JSON.stringify(options))
})

t.test('an answer or a timeout counts before the store has returned the request, and only the first answer counts', async t => {
  const gates = new Map<string, Promise<void>>()
  const store: StoreFactory = (...args) => {
    const store = memoryStore(...args) as Store & { runs: RunStore }
    const { runs } = store
    const [start, find] = [runs.start.bind(runs), runs.find.bind(runs)]
    const found = new Map<string, Awaitable<RunState | undefined>>()
    return Object.assign(store, {
      runs: Object.assign(runs, {
        start: async (input: RunInput, reuse: Reuse) => {
          const state = await start(input, reuse)
          for (const [event, gate] of gates) if (input.delivery?.request?.includes(`"event":"${event}"`) === true) await gate
          return state
        },
        // Returns the first result again, as in another process that does not have the end yet.
        find: (name: string, ...others: [undefined, string?]) => {
          if (!found.has(name)) found.set(name, find(name, ...others))
          return found.get(name)
        }
      })
    })
  }
  const { session, stream, post } = await serveSession(t, { store })
  const answered = deferred()
  gates.set('early', answered.promise)
  const early = session.request('early')
  const { request } = await requestOf(stream, 'early')
  t.match(await post('response', { request, data: 'yes' }), { status: 202 })
  t.match(await post('response', { request, data: 'no' }), { status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } })
  answered.resolve()
  t.equal(await withTimeout(early, 'the answer'), 'yes')
  const late = deferred()
  gates.set('late', late.promise)
  t.match(await rejection(session.request('late', 1, { timeout: 1 })), { code: 'FST_SSE_REQUEST_TIMEOUT' })
  late.resolve()
  const { request: second } = await requestOf(stream, 'late')
  await waitUntil(async () => (await post('response', { request: second })).status === 404, 'the end of the request')
})
