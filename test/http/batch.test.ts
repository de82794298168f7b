import t, { type Test } from 'tap'
import { refused } from '../support/error-response.js'
import { serve, type Served } from '../support/server.js'
import { openStream, post, type Answer, type PostOptions } from '../support/stream.js'
import { waitForWaiting } from './support/waiting-messages.js'
import { signal, within } from '../support/wait.js'

const postBatch = (url: string, sessionId: string, lines: unknown[] | string, options: PostOptions = {}): Promise<Answer> =>
  post(url, sessionId, typeof lines === 'string' ? lines : lines.map(line => JSON.stringify(line)).join('\n'), { ...options, headers: { 'content-type': 'application/x-ndjson' } })

async function serveCounter (t: Test, options: Parameters<typeof serve>[1] = {}): Promise<Served & { sessionId: string, handled: unknown[] }> {
  const served = await serve(t, options)
  const handled: unknown[] = []
  served.sessions.handle('n', async (_session, data) => {
    await new Promise(setImmediate)
    handled.push(data)
    return { n: data }
  })
  return { ...served, handled, sessionId: (await openStream(t, served.url)).sessionId }
}

t.test('a batch is handled in the order of its lines, and answered with their outcomes', async t => {
  const { url, sessions, sessionId, handled } = await serveCounter(t)
  sessions
    .handle('teapot', (_session, _data, { reply }) => reply.code(418).header('x-lost', '1').send('short'))
    .handle('throw', () => { throw Object.assign(new Error('not you'), { statusCode: 403, code: 'APP_NOT_YOU' }) })
    .handle('bug', () => { throw new Error('boom') })
    .handle('odd', () => { throw Object.assign(new Error('odd'), { statusCode: 42, status: 409 }) })
    .handle('null', (_session, _data, { reply }) => { reply.send(null) })
  const { status, headers, body } = await postBatch(url, sessionId, [
    { event: 'n', data: 1 }, { event: 'throw' }, { event: 'n', data: 2, id: 'k' }, { event: 'nobody' }, { event: 'teapot' }, { event: 'bug' },
    { event: 'odd' }, { event: 'null' }, { data: { text: 'hi' } }, { event: 'n', data: 3 }
  ])
  t.equal(status, 200)
  t.match(headers, { 'content-type': /^application\/json/, 'x-session-connected': 'true' })
  t.strictSame(body, [
    { status: 200, body: { n: 1 } },
    { status: 403, body: { statusCode: 403, code: 'APP_NOT_YOU', error: 'Forbidden', message: 'not you' } },
    { status: 200, body: { n: 2 } },
    { status: 404, body: { statusCode: 404, code: 'FST_SSE_EVENT_UNKNOWN', error: 'Not Found', message: 'No handler is registered for event "nobody"' } },
    { status: 418, body: 'short' },
    { status: 500, body: { statusCode: 500, error: 'Internal Server Error', message: 'boom' } },
    { status: 409, body: { statusCode: 409, error: 'Conflict', message: 'odd' } },
    { status: 200, body: null },
    { status: 201, body: { status: 'Message sent successfully' } },
    { status: 200, body: { n: 3 } }
  ])
  t.strictSame(handled, [1, 2, 3])
})

t.test('the event of a batch\'s lines is that of the path where they name none', async t => {
  const { url, sessionId, handled } = await serveCounter(t)
  const { body } = await postBatch(url, sessionId, [{ data: 1 }, { event: 'message', data: { text: 'hi' } }, { data: 2 }], { event: 'n' })
  t.match(body, [{ status: 200 }, { status: 201 }, { status: 200 }])
  t.strictSame(handled, [1, 2])
})

t.test('a key for a whole batch is refused: its lines have one each', async t => {
  const { url, sessionId, handled } = await serveCounter(t)
  refused(t, await postBatch(url, sessionId, [{ event: 'n', data: 1 }], { key: 'k' }), 400, 'FST_SSE_IDEMPOTENCY_KEY_INVALID')
  t.strictSame(handled, [])
})

t.test('a message with a known id is answered from the record, within a batch and across', async t => {
  const { url, sessionId, handled } = await serveCounter(t)
  const { body } = await postBatch(url, sessionId, [{ event: 'n', data: 1, id: 'a' }, { event: 'n', data: 1, id: 'a' }, { event: 'n', data: 2, id: 'a' }])
  t.match(body, [
    { status: 200, body: { n: 1 }, replayed: undefined },
    { status: 200, body: { n: 1 }, replayed: true },
    { status: 422, body: { statusCode: 422, code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' } }
  ])
  t.match(await post(url, sessionId, 1, { event: 'n', key: 'a' }), { body: { n: 1 }, headers: { 'idempotent-replayed': 'true' } })
  await post(url, sessionId, 2, { event: 'n', key: 'b' })
  t.match((await postBatch(url, sessionId, [{ event: 'n', data: 2, id: 'b' }, { event: 'n', data: 3 }])).body, [{ replayed: true }, { body: { n: 3 } }])
  t.strictSame(handled, [1, 2, 3])
})

t.test('no other message comes between those of a batch', async t => {
  const { url, sessions, sessionId, handled } = await serveCounter(t)
  const begun = signal()
  const release = signal()
  sessions.handle('wait', () => {
    begun.resolve()
    return release.promise
  })
  const batch = postBatch(url, sessionId, [{ event: 'wait' }, { event: 'n', data: 1 }, { event: 'n', data: 2 }])
  await within(begun.promise, 'the batch')
  const other = post(url, sessionId, 3, { event: 'n' })
  await waitForWaiting(sessions, sessionId, 3)
  release.resolve()
  await Promise.all([batch, other])
  t.strictSame(handled, [1, 2, 3])
})

t.test('of a batch that is malformed nothing is handled', async t => {
  const { url, sessionId, handled } = await serveCounter(t)
  const good = JSON.stringify({ event: 'n', data: 1 })
  for (const bad of ['{', 'null', '7', '[]', '"n"', '{"event":7}', '{"event":null}', '{"id":""}', '{"id":7}', '{"id":"caf\u00e9"}', `{"id":"${'k'.repeat(256)}"}`, '{"__proto__":{}}', '{"constructor":{"prototype":{}}}']) {
    const answer = await postBatch(url, sessionId, `${good}\n\n${bad}\n${good}`)
    refused(t, answer, 400, 'FST_SSE_BATCH_MALFORMED')
    t.match(answer.body, { message: /^Line 3 / }, bad)
    t.equal(answer.headers['x-session-connected'], 'true')
  }
  t.strictSame(handled, [])
})

t.test('blank lines and a line feed at the end are no messages', async t => {
  const { url, sessionId, handled } = await serveCounter(t)
  const { body } = await postBatch(url, sessionId, '\r\n{"event":"n","data":1}\r\n\r\n  \n{"event":"n","data":2}\n\n')
  t.match(body, [{ body: { n: 1 } }, { body: { n: 2 } }])
  t.strictSame(handled, [1, 2])
  t.strictSame((await postBatch(url, sessionId, '\n')).body, [])
})

t.test('a batch longer than may wait is 413, one for which there is no room now is 429, and neither is handled', async t => {
  const { url, sessions, sessionId, handled } = await serveCounter(t, { maxWaitingMessages: 3 })
  const ns = (count: number): unknown[] => Array.from({ length: count }, (_, data) => ({ event: 'n', data }))
  refused(t, await postBatch(url, sessionId, ns(4)), 413, 'FST_SSE_BATCH_TOO_LARGE')
  const begun = signal()
  const release = signal()
  sessions.handle('wait', () => {
    begun.resolve()
    return release.promise
  })
  const batch = postBatch(url, sessionId, [{ event: 'wait' }, ...ns(2)])
  await within(begun.promise, 'the batch')
  refused(t, await postBatch(url, sessionId, ns(2)), 429, 'FST_SSE_TOO_MANY_WAITING')
  release.resolve()
  t.match(await batch, { body: [{ status: 202 }, { status: 200 }, { status: 200 }] })
  t.match(await postBatch(url, sessionId, ns(3)), { body: [{ status: 200 }, { status: 200 }, { status: 200 }] })
  t.strictSame(handled, [0, 1, 0, 1, 2])
})

t.test('a batch longer than may wait is refused before its lines are read', async t => {
  const { url } = await serve(t, { maxWaitingMessages: 2 })
  const { sessionId } = await openStream(t, url)
  const headers = { 'content-type': 'application/x-ndjson' }
  refused(t, await post(url, sessionId, '{\n{\n\n{', { headers }), 413, 'FST_SSE_BATCH_TOO_LARGE')
  refused(t, await post(url, sessionId, '{\n{\n\n', { headers }), 400, 'FST_SSE_BATCH_MALFORMED')
})

t.test('where nothing may wait, a batch of one is still taken', async t => {
  const { url, sessionId } = await serveCounter(t, { maxWaitingMessages: 0 })
  t.match((await postBatch(url, sessionId, [{ event: 'n', data: 1 }])).body, [{ status: 200 }])
  refused(t, await postBatch(url, sessionId, [{ event: 'n' }, { event: 'n' }]), 413, 'FST_SSE_BATCH_TOO_LARGE')
})

t.test('what comes after the message that ends the session is 404', async t => {
  const { url, sessions, sessionId, handled } = await serveCounter(t)
  sessions.handle('end', session => session.close())
  const { body } = await postBatch(url, sessionId, [{ event: 'n', data: 1 }, { event: 'end' }, { event: 'n', data: 2 }])
  t.match(body, [{ status: 200 }, { status: 202 }, { status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' } }])
  const other = await openStream(t, url)
  t.match((await postBatch(url, other.sessionId, [{ event: 'end' }, { event: 'n', data: 3 }])).body, [{ status: 202 }, { status: 404 }])
  t.strictSame(handled, [1])
})

t.test('a message that ended the session has its answer repeated behind it', async t => {
  const { url, sessions, sessionId } = await serveCounter(t)
  sessions.handle('bye', session => {
    session.close()
    return 'bye'
  })
  t.strictSame((await postBatch(url, sessionId, [{ event: 'bye', id: 'a' }, { event: 'bye', id: 'a' }])).body, [
    { status: 200, body: 'bye' },
    { status: 200, body: 'bye', replayed: true }
  ])
})

t.test('a result that is no JSON is the error of its own message', async t => {
  const { url, sessions, sessionId, handled } = await serveCounter(t)
  sessions.handle('big', () => ({ big: 1n }))
  const { body } = await postBatch(url, sessionId, [{ event: 'n', data: 1 }, { event: 'big' }, { event: 'n', data: 2 }])
  t.match(body, [{ body: { n: 1 } }, { status: 500, body: { statusCode: 500, message: /BigInt/ } }, { body: { n: 2 } }])
  t.strictSame(handled, [1, 2])
})

t.test('there are no batches where the route has a schema for the body: their lines would pass by it', async t => {
  const { url } = await serve(t, { routes: { upward: { schema: { body: { type: 'object', required: ['text'], properties: { text: { type: 'string', maxLength: 3 } } } } } } })
  const { sessionId } = await openStream(t, url)
  refused(t, await postBatch(url, sessionId, [{ data: { text: 'too long' } }]), 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
  refused(t, await post(url, sessionId, { text: 'too long' }), 400, 'FST_ERR_VALIDATION')
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 201)
})

t.test('an app that reads application/x-ndjson in its own way does so on its other routes', async t => {
  const { url } = await serve(t, {}, {
    before: app => {
      app.addContentTypeParser('application/x-ndjson', { parseAs: 'string' }, (_request, body, done) => { done(null, { read: body }) })
      app.post('/mine', async ({ body }) => body)
    },
    after: ({ sseSessions }) => sseSessions.handle('say', (_session, data) => data)
  })
  const { sessionId } = await openStream(t, url)
  t.match((await postBatch(url, sessionId, [{ event: 'say', data: 1 }])).body, [{ status: 200, body: 1 }])
  const answer = await fetch(`${url}/mine`, { method: 'POST', body: '1', headers: { 'content-type': 'application/x-ndjson' } })
  t.strictSame(await answer.json(), { read: '1' })
})
