import t, { type Test } from 'tap'
import { assertErrorResponse } from '../support/error-response.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream, postMessage, type HttpResponse, type PostOptions } from '../support/http-client.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, withTimeout } from '../support/wait.js'

const postBatch = (url: string, sessionId: string, lines: unknown[] | string, options: PostOptions = {}): Promise<HttpResponse> =>
  postMessage(url, sessionId, typeof lines === 'string' ? lines : lines.map(line => JSON.stringify(line)).join('\n'), { ...options, headers: { 'content-type': 'application/x-ndjson' } })

/** Serves with a handler of event `n` that takes more than one tick of the event loop, and opens a session. `handled` lists the data of its messages. */
async function serveWithHandler (t: Test, options: Parameters<typeof serve>[1] = {}): Promise<TestServer & { sessionId: string, handled: unknown[] }> {
  const served = await serve(t, options)
  const handled: unknown[] = []
  served.sessions.handle('n', async (_session, data) => {
    await new Promise(setImmediate)
    handled.push(data)
    return { n: data }
  })
  return { ...served, handled, sessionId: (await openStream(t, served.url)).sessionId }
}

t.test('handles the messages of a batch in order, and responds with one report for each', async t => {
  const { url, sessions, sessionId, handled } = await serveWithHandler(t)
  sessions
    .handle('teapot', (_session, _data, { reply }) => reply.code(418).header('x-ignored', '1').send('short'))
    .handle('forbidden', () => { throw Object.assign(new Error('not allowed'), { statusCode: 403, code: 'APP_FORBIDDEN' }) })
    .handle('throws', () => { throw new Error('handler failed') })
    .handle('invalid status', () => { throw Object.assign(new Error('invalid status'), { statusCode: 42, status: 409 }) })
    .handle('null', (_session, _data, { reply }) => { reply.send(null) })
  const { status, headers, body } = await postBatch(url, sessionId, [
    { event: 'n', data: 1 }, { event: 'forbidden' }, { event: 'n', data: 2, id: 'k' }, { event: 'unknown' }, { event: 'teapot' }, { event: 'throws' },
    { event: 'invalid status' }, { event: 'null' }, { data: { text: 'hi' } }, { event: 'n', data: 3 }
  ])
  t.equal(status, 200)
  t.match(headers, { 'content-type': /^application\/json/, 'x-session-connected': 'true' })
  t.strictSame(body, [
    { status: 200, body: { n: 1 } },
    { status: 403, body: { statusCode: 403, code: 'APP_FORBIDDEN', error: 'Forbidden', message: 'not allowed' } },
    { status: 200, body: { n: 2 } },
    { status: 404, body: { statusCode: 404, code: 'FST_SSE_EVENT_UNKNOWN', error: 'Not Found', message: 'No handler is registered for event "unknown"' } },
    { status: 418, body: 'short' },
    { status: 500, body: { statusCode: 500, error: 'Internal Server Error', message: 'An unexpected error has occurred; the log of the server contains it' } },
    { status: 409, body: { statusCode: 409, error: 'Conflict', message: 'invalid status' } },
    { status: 200, body: null },
    { status: 201, body: { status: 'Message sent successfully' } },
    { status: 200, body: { n: 3 } }
  ])
  t.strictSame(handled, [1, 2, 3])
})

t.test('lines without an event have the event of the path', async t => {
  const { url, sessionId, handled } = await serveWithHandler(t)
  const { body } = await postBatch(url, sessionId, [{ data: 1 }, { event: 'message', data: { text: 'hi' } }, { data: 2 }], { event: 'n' })
  matchList(t, body, [{ status: 200 }, { status: 201 }, { status: 200 }])
  t.strictSame(handled, [1, 2])
})

t.test('responds with 400 to a batch with an Idempotency-Key header, because each line has its own id', async t => {
  const { url, sessionId, handled } = await serveWithHandler(t)
  assertErrorResponse(t, await postBatch(url, sessionId, [{ event: 'n', data: 1 }], { key: 'k' }), 400, 'FST_SSE_IDEMPOTENCY_KEY_INVALID')
  t.strictSame(handled, [])
})

t.test('a repeated id gets the stored response, in the same batch and in later requests', async t => {
  const { url, sessionId, handled } = await serveWithHandler(t)
  const { body } = await postBatch(url, sessionId, [{ event: 'n', data: 1, id: 'a' }, { event: 'n', data: 1, id: 'a' }, { event: 'n', data: 2, id: 'a' }])
  matchList(t, body, [
    { status: 200, body: { n: 1 }, replayed: undefined },
    { status: 200, body: { n: 1 }, replayed: true },
    { status: 422, body: { statusCode: 422, code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' } }
  ])
  t.match(await postMessage(url, sessionId, 1, { event: 'n', key: 'a' }), { body: { n: 1 }, headers: { 'idempotent-replayed': 'true' } })
  await postMessage(url, sessionId, 2, { event: 'n', key: 'b' })
  matchList(t, (await postBatch(url, sessionId, [{ event: 'n', data: 2, id: 'b' }, { event: 'n', data: 3 }])).body, [{ replayed: true }, { body: { n: 3 } }])
  t.strictSame(handled, [1, 2, 3])
})

// Each list contains texts of the same data.
const TEXTS = [
  ['{"text":"café/"}', '{"text":"caf\\u00e9\\/"}', ' { "text" : "café/" } '],
  ['[1,1000,0.5,0]', '[1.0,1e3,5E-1,-0]'],
  ['{"1":true,"a":2}', '{"a":1,"1":true,"a":2}'],
  ['null', ' null '],
  ['"\\ud800"', '"\\uD800"']
]

t.test('a repeat may have another JSON text of the same data, in a message and in a batch', async t => {
  const { url, sessions, sessionId } = await serveWithHandler(t)
  let calls = 0
  sessions.handle('count', () => ++calls)
  const post = async (text: string, key: string): Promise<unknown> => (await postMessage(url, sessionId, text, { event: 'count', key })).body
  const postLine = async (data: string, key: string): Promise<unknown> => ((await postBatch(url, sessionId, `{"event":"count","id":"${key}","data":${data}}`)).body as [{ body: unknown }])[0].body
  let key = 0
  for (const texts of TEXTS) {
    for (const first of texts) {
      for (const send of [post, postLine]) {
        const expected = calls + 1
        t.equal(await send(first, `k${++key}`), expected)
        for (const text of texts) {
          for (const repeat of [post, postLine]) t.equal(await repeat(text, `k${key}`), expected, `${first} ${text}`)
        }
        for (const repeat of [post, postLine]) t.match(await repeat('{"text":"caf"}', `k${key}`), { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
      }
    }
  }
})

t.test('a key can be used for data that is invalid or nested too deeply to be serialized', async t => {
  const { url, sessions, sessionId } = await serveWithHandler(t)
  sessions.handle('any', () => 'handled')
  const deep = '['.repeat(50_000) + ']'.repeat(50_000)
  for (const [first, repeat] of [[{ status: 400 }, { status: 400 }], [{ status: 200 }, { status: 200, replayed: true }]] as const) {
    const line = first.status === 400 ? '{"event":"any","id":"invalid","data":tru}' : `{"event":"any","id":"deep","data":${deep}}`
    for (const result of [first, repeat]) matchList(t, (await postBatch(url, sessionId, line)).body, [result])
  }
})

t.test('no message of another request is handled between those of a batch', async t => {
  const { url, sessions, sessionId, handled } = await serveWithHandler(t)
  const started = deferred()
  const release = deferred()
  sessions.handle('wait', () => {
    started.resolve()
    return release.promise
  })
  const batch = postBatch(url, sessionId, [{ event: 'wait' }, { event: 'n', data: 1 }, { event: 'n', data: 2 }])
  await withTimeout(started.promise, 'the batch')
  const other = postMessage(url, sessionId, 3, { event: 'n' })
  await waitForWaitingMessages(sessions, sessionId, 3)
  release.resolve()
  await Promise.all([batch, other])
  t.strictSame(handled, [1, 2, 3])
})

t.test('responds with 400 to a batch with a malformed line, and handles none of its messages', async t => {
  const { url, sessionId, handled } = await serveWithHandler(t)
  const valid = JSON.stringify({ event: 'n', data: 1 })
  for (const malformed of ['{', 'null', '7', '[]', '"n"', '{"event":7}', '{"event":null}', '{"id":""}', '{"id":7}', '{"id":"caf\u00e9"}', `{"id":"${'k'.repeat(256)}"}`, '{"data":}', '{"data" 1}', '{"data":1,}', '{"data":1]', '{"data":1}}', '{"data":1} 1', '{data:1}', '{"data":"1', '{"data":"\\"}', '{"event":tru}', '{"\\x":1}', '{"data":[1}']) {
    const response = await postBatch(url, sessionId, `${valid}\n\n${malformed}\n${valid}`)
    assertErrorResponse(t, response, 400, 'FST_SSE_BATCH_MALFORMED')
    t.match(response.body, { message: /^Line 3 / }, malformed)
    t.equal(response.headers['x-session-connected'], 'true')
  }
  t.strictSame(handled, [])
})

t.test('ignores blank lines and a line feed at the end', async t => {
  const { url, sessionId, handled } = await serveWithHandler(t)
  const { body } = await postBatch(url, sessionId, '\r\n{"event":"n","data":1}\r\n\r\n  \n{"event":"n","data":2}\n\n')
  matchList(t, body, [{ body: { n: 1 } }, { body: { n: 2 } }])
  t.strictSame(handled, [1, 2])
  t.strictSame((await postBatch(url, sessionId, '\n')).body, [])
})

t.test('responds with 413 to a batch above maxWaitingMessages, with 429 if the queue is too full, and handles neither', async t => {
  const { url, sessions, sessionId, handled } = await serveWithHandler(t, { maxWaitingMessages: 3 })
  const createLines = (count: number): unknown[] => Array.from({ length: count }, (_, data) => ({ event: 'n', data }))
  assertErrorResponse(t, await postBatch(url, sessionId, createLines(4)), 413, 'FST_SSE_BATCH_TOO_LARGE')
  const started = deferred()
  const release = deferred()
  sessions.handle('wait', () => {
    started.resolve()
    return release.promise
  })
  const batch = postBatch(url, sessionId, [{ event: 'wait' }, ...createLines(2)])
  await withTimeout(started.promise, 'the batch')
  assertErrorResponse(t, await postBatch(url, sessionId, createLines(2)), 429, 'FST_SSE_TOO_MANY_WAITING')
  release.resolve()
  matchList(t, await batch, { body: [{ status: 202 }, { status: 200 }, { status: 200 }] })
  matchList(t, await postBatch(url, sessionId, createLines(3)), { body: [{ status: 200 }, { status: 200 }, { status: 200 }] })
  t.strictSame(handled, [0, 1, 0, 1, 2])
})

t.test('the messages of a batch that wait count as its whole body for maxWaitingBytes', async t => {
  const { url, sessions, sessionId } = await serveWithHandler(t, { maxWaitingBytes: 1000 })
  const started = deferred()
  const release = deferred()
  sessions.handle('wait', () => {
    started.resolve()
    return release.promise
  })
  const first = postBatch(url, sessionId, [{ event: 'wait' }])
  await withTimeout(started.promise, 'the handler')
  const line = '{"event":"n"}'
  const waiting = postBatch(url, sessionId, `${line}${' '.repeat(250)}\n${line}${' '.repeat(250)}\n{"event":"response"}`)
  await waitForWaitingMessages(sessions, sessionId, 2)
  for (const text of [line + ' '.repeat(500), `{"event":"n","unknown":"${'x'.repeat(500)}"}`, `{"event":"${'x'.repeat(500)}"}`]) {
    assertErrorResponse(t, await withTimeout(postBatch(url, sessionId, text), 'the response'), 429, 'FST_SSE_TOO_MANY_WAITING')
  }
  const small = postBatch(url, sessionId, `${line}${' '.repeat(300)}`)
  await waitForWaitingMessages(sessions, sessionId, 3)
  release.resolve()
  matchList(t, (await first).body, [{ status: 202 }])
  matchList(t, (await waiting).body, [{ status: 200 }, { status: 200 }, {}])
  matchList(t, (await small).body, [{ status: 200 }])
})

t.test('reads a batch only after its session was found, and no further than maxWaitingMessages', async t => {
  const { url } = await serve(t, { maxWaitingMessages: 2 })
  const { sessionId } = await openStream(t, url)
  const headers = { 'content-type': 'application/x-ndjson' }
  assertErrorResponse(t, await postMessage(url, 'A'.repeat(24), '{', { headers }), 404, 'FST_SSE_SESSION_UNKNOWN')
  assertErrorResponse(t, await postMessage(url, sessionId, '{}\n{}\n\n{', { headers }), 413, 'FST_SSE_BATCH_TOO_LARGE')
  assertErrorResponse(t, await postMessage(url, sessionId, '{}\n{\n\n{', { headers }), 400, 'FST_SSE_BATCH_MALFORMED')
})

t.test('splits lines with spaces, escapes, nested data and unknown members', async t => {
  const { url, sessions, sessionId } = await serveWithHandler(t)
  sessions.handle('ret"urn\\', (_session, data) => [data])
  const data = { '}': ['{"', '\\', '\\"', { deep: ['],', {}] }], x: 'é\u2028' }
  const event = JSON.stringify('ret"urn\\')
  const { body } = await postBatch(url, sessionId, ` { "other" : {"data":[1]} , "\\u0061":0, "date":2 , "d\\u0061ta" : ${JSON.stringify(data)} ,"event":${event}, "x":null } \r\n{"event":${event}}\n{"data":"é", "event":${event},"data":7}`)
  t.strictSame(body, [{ status: 200, body: [data] }, { status: 200, body: [null] }, { status: 200, body: [7] }])
})

t.test('accepts a batch of one message if maxWaitingMessages is 0', async t => {
  const { url, sessionId } = await serveWithHandler(t, { maxWaitingMessages: 0 })
  matchList(t, (await postBatch(url, sessionId, [{ event: 'n', data: 1 }])).body, [{ status: 200 }])
  assertErrorResponse(t, await postBatch(url, sessionId, [{ event: 'n' }, { event: 'n' }]), 413, 'FST_SSE_BATCH_TOO_LARGE')
})

t.test('messages after one that closes the session fail with 404', async t => {
  const { url, sessions, sessionId, handled } = await serveWithHandler(t)
  sessions.handle('end', session => session.close())
  const { body } = await postBatch(url, sessionId, [{ event: 'n', data: 1 }, { event: 'end' }, { event: 'n', data: 2 }])
  matchList(t, body, [{ status: 200 }, { status: 202 }, { status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' } }])
  const other = await openStream(t, url)
  matchList(t, (await postBatch(url, other.sessionId, [{ event: 'end' }, { event: 'n', data: 3 }])).body, [{ status: 202 }, { status: 404 }])
  t.strictSame(handled, [1])
})

t.test('a repeat of a message that closed the session gets its response, in the same batch', async t => {
  const { url, sessions, sessionId } = await serveWithHandler(t)
  sessions.handle('end', session => {
    session.close()
    return 'ended'
  })
  t.strictSame((await postBatch(url, sessionId, [{ event: 'end', id: 'a' }, { event: 'end', id: 'a' }])).body, [
    { status: 200, body: 'ended' },
    { status: 200, body: 'ended', replayed: true }
  ])
})

t.test('a result that is not serializable as JSON is an error of its own message only', async t => {
  const { url, sessions, sessionId, handled } = await serveWithHandler(t)
  sessions.handle('not serializable', () => ({ big: 1n }))
  const { body } = await postBatch(url, sessionId, [{ event: 'n', data: 1 }, { event: 'not serializable' }, { event: 'n', data: 2 }])
  matchList(t, body, [{ body: { n: 1 } }, { status: 500, body: { statusCode: 500, message: /unexpected/ } }, { body: { n: 2 } }])
  t.strictSame(handled, [1, 2])
})

t.test('a hook of the app may replace the body of a batch, and that of each message', async t => {
  const bodies: unknown[] = []
  const { url, sessionId, handled } = await serveWithHandler(t, {
    routes: {
      upward: {
        preValidation: async request => {
          bodies.push(request.body)
          request.body = { ...request.body as object }
        }
      }
    }
  })
  matchList(t, (await postBatch(url, sessionId, [{ event: 'n', data: { id: 1 } }, { event: 'n', data: { id: 2 } }])).body, [{ body: { n: { id: 1 } } }, { body: { n: { id: 2 } } }])
  t.strictSame(handled, [{ id: 1 }, { id: 2 }])
  t.equal(bodies.length, 3)
  t.strictSame(Object.keys(bodies[0] as object), [])
  t.strictSame(bodies.slice(1), handled)
})

t.test('responds with 415 to a batch if the route has a body schema, which could not validate its lines', async t => {
  const { url } = await serve(t, { routes: { upward: { schema: { body: { type: 'object', required: ['text'], properties: { text: { type: 'string', maxLength: 3 } } } } } } })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postBatch(url, sessionId, [{ data: { text: 'too long' } }]), 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'too long' }), 400, 'FST_ERR_VALIDATION')
  t.equal((await postMessage(url, sessionId, { text: 'hi' })).status, 201)
})

t.test('an app can parse application/x-ndjson with its own parser on its other routes', async t => {
  const { url } = await serve(t, {}, {
    beforeRegister: app => {
      app.addContentTypeParser('application/x-ndjson', { parseAs: 'string' }, (_request, body, calls) => { calls(null, { parsed: body }) })
      app.post('/own', async ({ body }) => body)
    },
    afterRegister: ({ sseSessions }) => sseSessions.handle('return', (_session, data) => data)
  })
  const { sessionId } = await openStream(t, url)
  matchList(t, (await postBatch(url, sessionId, [{ event: 'return', data: 1 }])).body, [{ status: 200, body: 1 }])
  const response = await fetch(`${url}/own`, { method: 'POST', body: '1', headers: { 'content-type': 'application/x-ndjson' } })
  t.strictSame(await response.json(), { parsed: '1' })
})
