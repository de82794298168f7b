import { connect } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { assertErrorResponse } from '../support/error-response.js'
import { chooseSeed } from '../support/random.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

const REPLAYED = 'idempotent-replayed'

t.test('a repeated key gets the first response again, with its status and headers', async t => {
  const { sessions, url } = await serve(t)
  let handled = 0
  sessions.handle('count', (_session, _data, { reply }) => reply.code(201).header('x-count', String(++handled)).send({ handled }))
  const { sessionId } = await openStream(t, url)
  const first = await postMessage(url, sessionId, { a: 1 }, { event: 'count', key: 'k' })
  t.match(first, { status: 201, body: { handled: 1 }, headers: { 'x-count': '1', [REPLAYED]: undefined } })
  t.match(await postMessage(url, sessionId, { a: 1 }, { event: 'count', key: 'k' }), { status: 201, body: { handled: 1 }, headers: { 'x-count': '1', [REPLAYED]: 'true' } })
  t.match(await postMessage(url, sessionId, { a: 1 }, { event: 'count', key: 'other' }), { body: { handled: 2 }, headers: { [REPLAYED]: undefined } })
  t.match(await postMessage(url, sessionId, { a: 1 }, { event: 'count' }), { body: { handled: 3 } })
  t.equal(handled, 3)
})

t.test('the headers of a handler can be numbers, and each cookie is sent once', async t => {
  const { sessions, url } = await serve(t)
  let handled = 0
  sessions.handle('count', async (_session, _data, { reply }) => {
    reply.header('x-count', ++handled).header('set-cookie', 'a=1').header('Set-Cookie', 'b=2')
  })
  const { sessionId } = await openStream(t, url)
  const post = (): Promise<HttpResponse> => postMessage(url, sessionId, {}, { event: 'count', key: 'k' })
  t.match(await post(), { status: 202, headers: { 'x-count': '1', 'set-cookie': ['a=1', 'b=2'] } })
  t.match(await post(), { status: 202, headers: { 'x-count': '1', 'set-cookie': undefined, [REPLAYED]: 'true' } })
  t.equal(handled, 1)
})

t.test('an invalid header is an error of the handler', async t => {
  const { sessions, url } = await serve(t)
  sessions
    .handle('name', (_session, name, { reply }) => { reply.header('x-name', String(name)) })
    .handle('missing', (_session, _data, { reply }) => { reply.header('x-name', undefined as never) })
  const { sessionId } = await openStream(t, url)
  const post = (): Promise<HttpResponse> => postMessage(url, sessionId, '"\u4e2d"', { event: 'name', key: 'k' })
  const headers = { 'cache-control': 'no-store', 'x-session-connected': 'true' }
  t.match(await post(), { status: 500, headers, body: { code: 'ERR_INVALID_CHAR', message: 'An unexpected error has occurred; the log of the server contains it' } })
  t.match(await post(), { status: 500, headers: { ...headers, [REPLAYED]: 'true' } })
  t.match(await postMessage(url, sessionId, {}, { event: 'missing' }), { status: 500, headers, body: { code: 'ERR_HTTP_INVALID_HEADER_VALUE' } })
})

t.test('a repeat that arrives while the first message is being handled waits for its response', async t => {
  const { sessions, url } = await serve(t)
  const started = deferred()
  const release = deferred()
  let handled = 0
  sessions.handle('slow', async () => {
    started.resolve()
    await release.promise
    return { handled: ++handled }
  })
  const { sessionId } = await openStream(t, url)
  const first = postMessage(url, sessionId, {}, { event: 'slow', key: 'k' })
  await withTimeout(started.promise, 'the handler')
  const repeats = [postMessage(url, sessionId, {}, { event: 'slow', key: 'k' }), postMessage(url, sessionId, {}, { event: 'slow', key: 'k' })]
  assertErrorResponse(t, await postMessage(url, sessionId, { other: 'data' }, { event: 'slow', key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  release.resolve()
  t.match(await first, { status: 200, body: { handled: 1 }, headers: { [REPLAYED]: undefined } })
  for (const repeat of await Promise.all(repeats)) t.match(repeat, { status: 200, body: { handled: 1 }, headers: { [REPLAYED]: 'true' } })
})

t.test('a repeat after a lost response gets that response, and is not handled again', async t => {
  const { sessions, url, port } = await serve(t)
  const started = deferred()
  const release = deferred()
  const disconnected = deferred()
  let handled = 0
  sessions.handle('slow', async (_session, _data, { request }) => {
    request.raw.socket.once('close', () => { disconnected.resolve() })
    started.resolve()
    await release.promise
    return { handled: ++handled }
  })
  const { sessionId } = await openStream(t, url)
  const socket = connect(port, '127.0.0.1')
  socket.write(`POST /upward/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-Session-ID: ${sessionId}\r\nIdempotency-Key: k\r\n\r\n{}`)
  await withTimeout(started.promise, 'the handler')
  socket.destroy()
  await withTimeout(disconnected.promise, 'the disconnect')
  release.resolve()
  await waitUntil(() => handled === 1, 'the handler')
  t.match(await postMessage(url, sessionId, {}, { event: 'slow', key: 'k' }), { status: 200, body: { handled: 1 }, headers: { [REPLAYED]: 'true' } })
})

t.test('responds with 422 to a repeated key with different data or a different event', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('a', () => 'a').handle('b', () => 'b')
  const { sessionId } = await openStream(t, url)
  await postMessage(url, sessionId, { n: 1 }, { event: 'a', key: 'k' })
  assertErrorResponse(t, await postMessage(url, sessionId, { n: 2 }, { event: 'a', key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  assertErrorResponse(t, await postMessage(url, sessionId, { n: 1 }, { event: 'b', key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  t.match(await postMessage(url, sessionId, { n: 1 }, { event: 'a', key: 'k' }), { body: 'a', headers: { [REPLAYED]: 'true' } })
})

t.test('the same key in two sessions is two keys', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('session id', ({ id }) => id)
  for (const { sessionId } of [await openStream(t, url), await openStream(t, url)]) {
    t.match(await postMessage(url, sessionId, {}, { event: 'session id', key: 'k' }), { body: sessionId, headers: { [REPLAYED]: undefined } })
  }
})

t.test('responds with 400 to a key that is not printable ASCII or too long', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  for (const key of ['k'.repeat(256), 'caf\xe9', '\x80']) {
    assertErrorResponse(t, await postMessage(url, sessionId, { text: 'hi' }, { key }), 400, 'FST_SSE_IDEMPOTENCY_KEY_INVALID')
  }
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { key: 'k'.repeat(255) })).status, 201)
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { key: '"with spaces"' })).status, 201)
})

t.test('an error of a handler is also the response to repeats', async t => {
  const { sessions, url } = await serve(t)
  let handled = 0
  sessions.handle('fail', () => { throw Object.assign(new Error(`failure ${++handled}`), { statusCode: 409, code: 'APP_FAILED' }) })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'fail', key: 'k' }), 409, 'APP_FAILED')
  const repeat = await postMessage(url, sessionId, {}, { event: 'fail', key: 'k' })
  assertErrorResponse(t, repeat, 409, 'APP_FAILED')
  t.match(repeat, { body: { message: 'failure 1' }, headers: { [REPLAYED]: 'true' } })
})

t.test('a refused message leaves no stored response, so its key can be used again', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('even', { schema: { type: 'object', properties: { n: { type: 'integer', multipleOf: 2 } } } }, () => 'even')
  const release = deferred()
  sessions.handle('wait', () => release.promise)
  const { sessionId } = await openStream(t, url)
  const postRefused = async (): Promise<void> => {
    assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'unknown', key: 'k' }), 404, 'FST_SSE_EVENT_UNKNOWN')
    assertErrorResponse(t, await postMessage(url, sessionId, { n: 1 }, { event: 'even', key: 'k' }), 400, 'FST_ERR_VALIDATION')
  }
  await postRefused()
  const waiting = postMessage(url, sessionId, {}, { event: 'wait' })
  const refusals = postRefused()
  await waitForWaitingMessages(sessions, sessionId, 1)
  release.resolve()
  await refusals
  t.equal((await waiting).status, 202)
  t.match(await postMessage(url, sessionId, { n: 2 }, { event: 'even', key: 'k' }), { status: 200, headers: { [REPLAYED]: undefined } })
})

t.test('keeps at most maxIdempotencyKeys responses, and drops the oldest first', async t => {
  const { sessions, url } = await serve(t, { maxIdempotencyKeys: 2 })
  let handled = 0
  sessions.handle('n', () => ({ handled: ++handled }))
  const { sessionId } = await openStream(t, url)
  const send = async (key: string): Promise<unknown> => (await postMessage(url, sessionId, {}, { event: 'n', key })).body
  t.strictSame([await send('a'), await send('b'), await send('a')], [{ handled: 1 }, { handled: 2 }, { handled: 1 }])
  t.strictSame([await send('c'), await send('b'), await send('a')], [{ handled: 3 }, { handled: 2 }, { handled: 4 }], 'c replaced a')
})

t.test('keeps the records of messages that run or wait, even above maxIdempotencyKeys', async t => {
  let receivedCount = 0
  const { sessions, url } = await serve(t, { maxIdempotencyKeys: 1 }, { beforeRegister: app => app.addHook('preHandler', async () => { receivedCount++ }) })
  const releases = Array.from({ length: 4 }, () => deferred())
  const handled: number[] = []
  sessions.handle('wait', async (_session, data) => {
    const { n } = data as { n: number }
    handled.push(n)
    await releases[n]?.promise
    return { n }
  })
  const { sessionId } = await openStream(t, url)
  const send = (n: number): ReturnType<typeof postMessage> => postMessage(url, sessionId, { n }, { event: 'wait', key: `k${n}` })
  const responses = []
  for (const n of releases.keys()) {
    responses.push(send(n))
    await waitUntil(() => receivedCount === n + 2, 'the message')
  }
  releases[0]?.resolve()
  t.match(await responses[0], { body: { n: 0 } })
  const repeats = [1, 2, 3].map(send)
  await waitUntil(() => receivedCount === 8, 'the repeats')
  for (const release of releases) release.resolve()
  t.match(await Promise.all(responses), [0, 1, 2, 3].map(n => ({ body: { n }, headers: { [REPLAYED]: undefined } })))
  t.match(await Promise.all(repeats), [1, 2, 3].map(n => ({ body: { n }, headers: { [REPLAYED]: 'true' } })))
  t.strictSame(handled, [0, 1, 2, 3])
})

t.test('with maxIdempotencyKeys 0, a repeat is handled again, but not while the first message is being handled', async t => {
  let receivedCount = 0
  const { sessions, url } = await serve(t, { maxIdempotencyKeys: 0 }, { beforeRegister: app => app.addHook('preHandler', async () => { receivedCount++ }) })
  const release = deferred()
  let handled = 0
  sessions.handle('slow', async () => {
    handled++
    await release.promise
  })
  const { sessionId } = await openStream(t, url)
  const responses = [1, 2].map(() => postMessage(url, sessionId, {}, { event: 'slow', key: 'k' }))
  await waitUntil(() => receivedCount === 3, 'both messages')
  release.resolve()
  t.match(await Promise.all(responses), [{ status: 202 }, { status: 202 }])
  t.equal(handled, 1)
  await postMessage(url, sessionId, {}, { event: 'slow', key: 'k' })
  t.equal(handled, 2)
})

t.test('with random repeats among other messages, each key is handled once, in order of arrival', async t => {
  const seed = chooseSeed(t)
  const receivedBySession = new Map<unknown, Set<number>>()
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('preHandler', async ({ headers, body }) => {
      if (body !== undefined) receivedBySession.get(headers['x-session-id'])?.add((body as { n: number }).n)
    })
  })
  const handled: number[] = []
  sessions.handle('n', async (_session, data) => {
    const { n, ticks } = data as { n: number, ticks: number }
    for (let i = 0; i < ticks; i++) await new Promise(setImmediate)
    handled.push(n)
    return { n }
  })
  const messages = fc.array(fc.record({ repeats: fc.nat(3), ticks: fc.nat(3), isAwaited: fc.boolean() }), { minLength: 1, maxLength: 12 })
  await fc.assert(fc.asyncProperty(messages, async plan => {
    const { sessionId, destroy } = await openStream(t, url)
    const received = new Set<number>()
    receivedBySession.set(sessionId, received)
    handled.length = 0
    const all: Array<Promise<void>> = []
    for (const [n, { repeats, ticks, isAwaited }] of plan.entries()) {
      const sent = Array.from({ length: repeats + 1 }, () => postMessage(url, sessionId, { n, ticks }, { event: 'n', key: `k${n}` }))
      all.push(Promise.all(sent).then(responses => {
        for (const { status, body } of responses) t.strictSame({ status, body }, { status: 200, body: { n } })
        t.equal(responses.filter(({ headers }) => headers[REPLAYED] !== 'true').length, 1, 'exactly one response is not a replay')
      }))
      if (isAwaited) await all.at(-1)
    }
    await Promise.all(all)
    t.equal(received.size, plan.length)
    t.strictSame(handled, [...received])
    destroy()
  }), { seed, numRuns: 40 })
})

t.test('responds with 400 to data that is nested too deeply for a fingerprint', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const deep = '['.repeat(50_000) + ']'.repeat(50_000)
  assertErrorResponse(t, await postMessage(url, sessionId, deep, { key: 'k' }), 400, 'FST_SSE_DATA_TOO_DEEP')
})
