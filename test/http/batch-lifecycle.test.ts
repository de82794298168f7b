import { Readable } from 'node:stream'
import compress from '@fastify/compress'
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import { memoryStore, type StoreFactory } from '../../lib/index.js'
import type { QueuedMessage } from '../../lib/store/message-queue.js'
import { matchList } from '../support/match-list.js'
import { serve, type ServeOptions, type TestServer } from '../support/server.js'
import { openStream, postMessage, type HttpResponse, type StreamEvent } from '../support/http-client.js'
import { FlakyStore } from '../support/flaky-store.js'
import { deferred, waitUntil } from '../support/wait.js'

// Fastify handles each message of a batch like a single POST.

type Line = { event: string, data?: unknown, id?: string }

interface Served extends TestServer {
  readonly sessionId: string
  postBatch (...lines: Line[]): Promise<HttpResponse>
}

async function serveSession (t: Test, options: Parameters<typeof serve>[1] = {}, serveOptions: ServeOptions = {}): Promise<Served> {
  const served = await serve(t, options, serveOptions)
  const { sessionId } = await openStream(t, served.url)
  const postBatch = (...lines: Line[]): Promise<HttpResponse> =>
    postMessage(served.url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
  return { ...served, sessionId, postBatch }
}

t.test('a message that is handled while close() stops waiting for its batch keeps its own response', async t => {
  const results: unknown[] = []
  const record = (message: QueuedMessage): QueuedMessage => ({
    ...message,
    handle: async () => {
      const result = await message.handle()
      results.push(result)
      return result
    }
  })
  const store: StoreFactory = async (...args) => {
    const store = await memoryStore(...args)
    const messageQueue = store.messageQueue.bind(store)
    return Object.assign(store, {
      messageQueue: (...args: Parameters<typeof messageQueue>) => {
        const queue = messageQueue(...args)
        return { enqueue: (message: QueuedMessage) => queue.enqueue(message), enqueueAll: (messages: readonly QueuedMessage[]) => queue.enqueueAll(messages.map(record)) }
      }
    })
  }
  const { app, sessions, postBatch } = await serveSession(t, { closeTimeout: 50, store })
  const [called, gate] = [deferred(), deferred()]
  sessions.handle('wait', async () => {
    called.resolve()
    await gate.promise
    return 'done'
  })
  const response = postBatch({ event: 'wait', id: 'a' })
  await called.promise
  const closed = app.close()
  t.match(await response, { status: 504, body: { code: 'FST_SSE_CLOSE_TIMEOUT' } })
  gate.resolve()
  await waitUntil(() => results.length === 1, 'the result')
  matchList(t, results, [{ status: 200, body: 'done' }])
  await closed
})

t.test("errors of a batch's messages reach the onError hooks and the error handler of the app, and are logged once", async t => {
  const lines: Array<{ level: number, reqId?: string, msg: string, err?: { message: string } }> = []
  const calls: string[] = []
  const { sessions, postBatch } = await serveSession(t, {}, {
    fastify: { logger: { level: 'info', stream: { write: line => { lines.push(JSON.parse(line)) } } } },
    beforeRegister: app => {
      app.addHook('onError', async (_request, _reply, error) => { calls.push(`onError ${error.message}`) })
      app.setErrorHandler((error: Error & { statusCode?: number }, request, reply) => {
        calls.push(`handler ${error.message}`)
        if (error.message === 'rethrown') throw error
        request.log.error({ err: error }, 'reported')
        return reply.code(error.statusCode ?? 500).header('x-ignored', '1').send({ hidden: true })
      })
    }
  })
  sessions.handle('secret', () => { throw new Error('secret') })
    .handle('async', async () => { throw new Error('async') })
    .handle('rethrown', () => { throw new Error('rethrown') })
    .handle('fine', () => 'fine')
  lines.length = 0
  const { body } = await postBatch({ event: 'secret' }, { event: 'async' }, { event: 'fine' }, { event: 'unknown' }, { event: 'rethrown' })
  matchList(t, body, [{ status: 500, body: { hidden: true } }, { status: 500, body: { hidden: true } }, { status: 200, body: 'fine' }, { status: 404, body: { hidden: true } }, { status: 500, body: { message: 'rethrown' } }])
  t.strictSame(calls.filter(call => /secret|async/.test(call)), ['onError secret', 'handler secret', 'onError async', 'handler async'])
  t.strictSame(lines.filter(({ err }) => err?.message === 'secret').map(({ level, msg }) => ({ level, msg })), [{ level: 50, msg: 'reported' }])
  t.equal(new Set(lines.map(({ reqId }) => reqId)).size, 1, 'all lines have the id of the request')
})

t.test('without an error handler, an error is logged once, from status 500 on as an error', async t => {
  const levels: number[] = []
  const { sessions, postBatch } = await serveSession(t, {}, {
    fastify: { logger: { level: 'info', stream: { write: line => { if (line.includes('"err"')) levels.push(JSON.parse(line).level as number) } } } }
  })
  sessions.handle('throws', () => { throw new Error('failed') }).handle('conflict', () => { throw Object.assign(new Error('taken'), { statusCode: 409 }) })
  await postBatch({ event: 'throws' }, { event: 'conflict' })
  t.strictSame(levels, [50, 30])
})

t.test('reply.code and reply.header before a throw have the same effect as in Fastify, in a message and in a batch', async t => {
  const { sessions, url, sessionId, postBatch } = await serveSession(t)
  sessions.handle('x', (_session, _data, { reply }) => {
    reply.code(409).header('X-A', '1')
    throw new Error('taken')
  })
  const expected = { statusCode: 409, error: 'Conflict', message: 'taken' }
  t.match(await postMessage(url, sessionId, {}, { event: 'x', key: 'k' }), { status: 409, headers: { 'x-a': '1' }, body: expected })
  t.match(await postMessage(url, sessionId, {}, { event: 'x', key: 'k' }), { status: 409, headers: { 'x-a': '1', 'idempotent-replayed': 'true' }, body: expected })
  t.strictSame((await postBatch({ event: 'x' })).body, [{ status: 409, body: expected }])
})

t.test("the app's own JSON parser receives the text of the data, in a message and in a batch", async t => {
  const { sessions, url, sessionId, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => {
      app.removeContentTypeParser('application/json')
      app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, calls) => { calls(null, { text: body }) })
    }
  })
  sessions.handle('return', (_session, data) => data)
  t.strictSame((await postMessage(url, sessionId, '{"n":12345678901234567890}', { event: 'return' })).body, { text: '{"n":12345678901234567890}' })
  t.strictSame((await postMessage(url, sessionId, '{"event":"return","data":{"n":12345678901234567890}}', { headers: { 'content-type': 'application/x-ndjson' } })).body, [{ status: 200, body: { text: '{"n":12345678901234567890}' } }])
  t.strictSame((await postBatch({ event: 'return' })).body, [{ status: 202, body: { status: 'accepted' } }], 'a message without data has no body')
})

t.test('a key can be used for data with big integers', async t => {
  const { sessions, url, sessionId } = await serveSession(t, {}, {
    beforeRegister: app => {
      app.removeContentTypeParser('application/json')
      app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, calls) => { calls(null, BigInt(String(body))) })
    }
  })
  sessions.handle('return', (_session, data) => String(data))
  t.match(await postMessage(url, sessionId, '12345678901234567890', { event: 'return', key: 'k' }), { status: 200, body: '12345678901234567890' })
  t.match(await postMessage(url, sessionId, '12345678901234567890', { event: 'return', key: 'k' }), { headers: { 'idempotent-replayed': 'true' } })
  t.equal((await postMessage(url, sessionId, '12345678901234567891', { event: 'return', key: 'k' })).status, 422)
})

t.test('the hooks of the app run for each message, with its event name, its data, and the parameters and query of the URL', async t => {
  const seen: unknown[] = []
  const { sessions, url } = await serve(t, { prefix: '/rooms/:room' }, {
    beforeRegister: app => {
      app.addHook('preValidation', async ({ params, query, body, headers }) => {
        if (body instanceof Object && 'text' in body) seen.push({ params: { ...params as object }, query: { ...query as object }, key: headers['idempotency-key'], type: headers['content-type'] })
      })
      app.addHook('preHandler', async (request, reply) => {
        if ((request.params as { event?: string }).event === 'admin') return reply.code(403).send({ refused: true })
        const { body } = request
        if (body instanceof Object && 'text' in body) body.text = String(body.text).replaceAll(/[<>]/g, '')
      })
    }
  })
  sessions.handle('admin', () => { t.fail('handled') }).handle('a/ä', (_session, data, { request }) => ({ data, id: request.id, ip: request.ip }))
  const { sessionId } = await openStream(t, `${url}/rooms/5`)
  for (const path of ['/rooms/5/upward?q=1', '/rooms/5/upward/other?q=1']) {
    const lines = [{ event: 'a/ä', data: { text: '<b>' }, id: path }, { event: 'admin', data: 1 }]
    const { body } = await postMessage(url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { path, headers: { 'content-type': 'application/x-ndjson' } })
    matchList(t, body, [{ status: 200, body: { data: { text: 'b' }, id: /^req-/, ip: '127.0.0.1' } }, { status: 403, body: { refused: true } }])
  }
  matchList(t, seen, ['/rooms/5/upward?q=1', '/rooms/5/upward/other?q=1'].map(key => ({ params: { room: '5', event: 'a/ä' }, query: { q: '1' }, key, type: 'application/json' })))
})

for (const hasMiddleware of [false, true]) {
  t.test(`the URL of a batch is rewritten only once${hasMiddleware ? ', with middleware' : ''}`, async t => {
    const { sessions, url, sessionId, postBatch } = await serveSession(t, { prefix: '/chat' }, {
      fastify: { rewriteUrl: ({ url }) => `/chat${url ?? ''}` },
      // @fastify/middie does this before it runs middleware.
      beforeRegister: app => { if (hasMiddleware) app.addHook('onRequest', async ({ raw }) => { Object.assign(raw, { originalUrl: raw.url }) }) }
    })
    sessions.handle('a', () => 'handled').handle('late', async function * () {
      yield 1
      throw new Error('late')
    })
    t.strictSame((await postBatch({ event: 'a' })).body, [{ status: 200, body: 'handled' }])
    const stream = await openStream(t, url, { headers: { 'x-session-id': sessionId } })
    await postMessage(url, sessionId, {}, { event: 'late' })
    const isLast = ({ event, data }: StreamEvent): boolean => event === 'part' && (data as { end?: object }).end !== undefined
    t.match((await stream.waitFor(isLast, 'the last part')).data, { end: { status: 'failed', response: { status: 500 } } })
  })
}

t.test('an event name with a semicolon is the default of a batch', async t => {
  const { sessions, url, sessionId } = await serveSession(t)
  sessions.handle('a;b', () => 'handled')
  const { body } = await postMessage(url, sessionId, '{}', { path: '/upward/a;b', headers: { 'content-type': 'application/x-ndjson' } })
  t.strictSame(body, [{ status: 200, body: 'handled' }])
})

// The types of Fastify lack the second form.
const SEMICOLON_OPTIONS: Record<string, object> = { 'the options of Fastify': { useSemicolonDelimiter: true }, 'its router options': { routerOptions: { useSemicolonDelimiter: true } } }
for (const [title, fastify] of Object.entries(SEMICOLON_OPTIONS)) {
  t.test(`with useSemicolonDelimiter in ${title}, a query after a semicolon reaches the hooks of each message`, async t => {
    const queries: unknown[] = []
    const { sessions, url, sessionId } = await serveSession(t, {}, { fastify, beforeRegister: app => app.addHook('preHandler', async ({ query }) => { queries.push(query) }) })
    sessions.handle('a', () => 'handled')
    const { body } = await postMessage(url, sessionId, '{}', { path: '/upward/a;x=1', headers: { 'content-type': 'application/x-ndjson' } })
    t.strictSame(body, [{ status: 200, body: 'handled' }])
    t.match(queries.slice(-2), [{ x: '1' }, { x: '1' }])
  })
}

t.test('the time for a URL with many slashes is linear', async t => {
  const fastify = { routerOptions: { ignoreDuplicateSlashes: true, ignoreTrailingSlash: true }, http: { maxHeaderSize: 2 ** 21 } }
  const { sessions, url, sessionId } = await serveSession(t, {}, { fastify })
  sessions.handle('a', () => 'handled')
  // A quadratic algorithm would need more than the timeout of the test.
  const slashes = '/'.repeat(5e5)
  for (const path of [`${slashes}upward`, `/upward${slashes}`, `/upward${slashes}a`]) {
    const { body } = await postMessage(url, sessionId, '{"event":"a"}\n'.repeat(10), { path, headers: { 'content-type': 'application/x-ndjson' } })
    t.strictSame(body, Array.from({ length: 10 }, () => ({ status: 200, body: 'handled' })))
  }
})

t.test('a hook of the app can change the URL of a message of a batch', async t => {
  const urls: unknown[] = []
  const { sessions, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => {
      app.addHook('onRequest', async ({ raw }) => { if (raw.url === '/upward/batch/message') raw.url = '/changed' })
      app.addHook('preHandler', async ({ url }) => { urls.push(url) })
    }
  })
  sessions.handle('a', () => 'handled')
  await postBatch({ event: 'a' })
  t.strictSame(urls.slice(-2), ['/upward', '/changed'])
})

t.test('a message that a hook or the parser refuses is a new message when it is repeated', async t => {
  let isRefusing = true
  const { sessions, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => app.addHook('preHandler', async (request, reply) => {
      if (isRefusing && request.body instanceof Object && 'a' in request.body) return reply.code(429).send({ refused: true })
    })
  })
  sessions.handle('a', () => 'handled')
  t.strictSame((await postBatch({ event: 'a', data: { a: 1 }, id: 'k' })).body, [{ status: 429, body: { refused: true } }])
  isRefusing = false
  t.strictSame((await postBatch({ event: 'a', data: { a: 1 }, id: 'k' })).body, [{ status: 200, body: 'handled' }])
  t.strictSame((await postBatch({ event: 'a', data: { a: 1 }, id: 'k' })).body, [{ status: 200, body: 'handled', replayed: true }])
})

t.test('an error of the queue passes through the error handler of the app', async t => {
  const { sessions, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => { app.setErrorHandler((error: Error & { code: string }, _request, reply) => reply.code(418).send({ own: error.code })) }
  })
  sessions.handle('a', () => 'handled')
  t.strictSame((await postBatch({ event: 'a', id: 'k' }, { event: 'a', data: 1, id: 'k' })).body, [{ status: 200, body: 'handled' }, { status: 418, body: { own: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' } }])
})

t.test('after a failure of the store, the later messages of a batch are not handled, and get the same response', async t => {
  const store = new FlakyStore()
  const { sessions, postBatch } = await serveSession(t, { store: store.createStore })
  const handled: unknown[] = []
  let errors = 0
  sessions.handle('n', async (session, data) => {
    handled.push(data)
    store.isDown = data === 2
    await session.send(data)
  })
  matchList(t, (await postBatch({ event: 'n', data: 1 }, { event: 'n', data: 2, id: 'k' }, { event: 'n', data: 3 })).body, [{ status: 202 }, ...Array.from({ length: 2 }, () => ({ status: 503, body: { code: 'FST_SSE_STORE_UNAVAILABLE' } }))])
  t.strictSame(handled, [1, 2])
  store.isDown = false
  sessions.addHook('onMessage', () => { errors++ })
  t.strictSame((await postBatch({ event: 'x', id: 'k2' })).body, [{ status: 202, body: { status: 'accepted' } }])
  t.equal(errors, 1)
})

t.test('the response to an error is stored with the headers of the error handler, and repeats do not call it again', async t => {
  let calls = 0
  const { sessions, url, sessionId, postBatch } = await serveSession(t, {}, {
    beforeRegister: async app => {
      await app.register(compress, { global: true, threshold: 0 })
      app.setErrorHandler((error: Error, _request, reply) => {
        calls++
        const response = reply.code(502).header('x-incident', String(calls)).header('set-cookie', 'a=1')
        if (error.message === 'stream') return response.type('text/plain').send(Readable.from(['an ', 'error']))
        return response.send({ incident: calls })
      })
    }
  })
  sessions.handle('object', () => { throw new Error('object') }).handle('stream', () => { throw new Error('stream') })
  const first = await postMessage(url, sessionId, {}, { event: 'object', key: 'a' })
  t.match(first, { status: 502, headers: { 'x-incident': '1', 'set-cookie': 'a=1' }, body: { incident: 1 } })
  const repeat = await postMessage(url, sessionId, {}, { event: 'object', key: 'a' })
  t.match(repeat, { status: 502, headers: { 'x-incident': '1', 'set-cookie': undefined, 'idempotent-replayed': 'true' }, body: { incident: 1 } })
  t.equal(calls, 1)
  for (const replayed of [undefined, 'true']) t.match(await postMessage(url, sessionId, {}, { event: 'stream', key: 'b' }), { status: 502, headers: { 'idempotent-replayed': replayed }, body: 'an error' })
  t.strictSame((await postBatch({ event: 'stream', id: 'c' }, { event: 'stream', id: 'c' })).body, [{ status: 502, body: 'an error' }, { status: 502, body: 'an error', replayed: true }])
})

t.test('the queue continues after an onSend hook has failed', async t => {
  const { sessions, url, sessionId, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 418) throw new Error('the hook failed') })
  })
  sessions.handle('teapot', () => { throw Object.assign(new Error('teapot'), { statusCode: 418 }) }).handle('fine', () => 'fine')
  t.equal((await postMessage(url, sessionId, {}, { event: 'teapot', key: 'a' })).status, 418)
  t.match(await postMessage(url, sessionId, {}, { event: 'teapot', key: 'a' }), { status: 418, headers: { 'idempotent-replayed': 'true' } })
  t.strictSame((await postBatch({ event: 'teapot' }, { event: 'fine' })).body, [{ status: 418 }, { status: 200, body: 'fine' }])
})

t.test('a body that is not JSON becomes a string in the report', async t => {
  const { sessions, postBatch } = await serveSession(t)
  sessions.handle('html', (_session, _data, { reply }) => reply.header('content-type', 'text/html').send('<p>'))
    .handle('bytes', () => Buffer.from('bytes'))
    .handle('empty', () => '')
    .handle('no body', (_session, _data, { reply }) => reply.code(204))
    .handle('not json', (_session, _data, { reply }) => reply.header('content-type', 'application/json').send('}'))
    .handle('problem', (_session, _data, { reply }) => reply.header('content-type', 'application/problem+json').send('{"title":"x"}'))
  t.strictSame((await postBatch(...['html', 'bytes', 'empty', 'no body', 'not json', 'problem'].map(event => ({ event })))).body, [
    { status: 200, body: '<p>' }, { status: 200, body: 'bytes' }, { status: 200, body: '' }, { status: 204 }, { status: 200, body: '}' }, { status: 200, body: { title: 'x' } }
  ])
})

t.test('the response schemas and the serializer of the app apply, and a repeat gets the same bytes as the first response', async t => {
  const response = { 200: { type: 'object', properties: { count: { type: 'integer' } } } }
  const { sessions, url, sessionId, postBatch } = await serveSession(t, { routes: { upward: { schema: { response } } } })
  const state = { count: 0, secret: 1 }
  sessions.handle('count', () => {
    state.count++
    return state
  })
  const post = async (key: string): Promise<unknown> => (await postMessage(url, sessionId, {}, { event: 'count', key })).body
  t.strictSame([await post('a'), await post('b'), await post('a')], [{ count: 1 }, { count: 2 }, { count: 1 }])
  t.strictSame((await postBatch({ event: 'count', id: 'c' }, { event: 'count', id: 'd' }, { event: 'count', id: 'c' })).body, [
    { status: 200, body: { count: 3 } }, { status: 200, body: { count: 4 } }, { status: 200, body: { count: 3 }, replayed: true }
  ])
})

t.test('a repeat gets the bytes of the first response, although the handler has changed its buffer', async t => {
  const { sessions, url, sessionId } = await serveSession(t)
  const buffer = Buffer.from('first')
  sessions.handle('bytes', () => buffer)
  const post = async (): Promise<string> => (await request(`${url}/upward/bytes`, { method: 'POST', headers: { 'x-session-id': sessionId, 'idempotency-key': 'k' } })).body.text()
  t.equal(await post(), 'first')
  buffer.fill('x')
  t.equal(await post(), 'first')
})

t.test('responds with 500 to a handler that returns a stream or a Response', async t => {
  const { sessions, url, sessionId, postBatch } = await serveSession(t)
  const values: Record<string, () => unknown> = {
    Readable: () => Readable.from(['a']),
    ReadableStream: () => new ReadableStream(),
    Response: () => new Response('a'),
    Blob: () => new Blob(['a']),
    AsyncGenerator: async function * () { yield 1 }
  }
  for (const [event, create] of Object.entries(values)) {
    // An async generator is streamed if the handler returns it.
    sessions.handle(event, (_session, _data, { reply }) => event === 'AsyncGenerator' ? reply.send(create()) : create())
    for (const replayed of [undefined, 'true']) {
      t.match(await postMessage(url, sessionId, {}, { event, key: event }), { status: 500, headers: { 'idempotent-replayed': replayed }, body: { code: 'FST_SSE_RESPONSE_INVALID', message: /must return or send a value, or return an async generator/ } }, event)
    }
    matchList(t, (await postBatch({ event })).body, [{ status: 500, body: { code: 'FST_SSE_RESPONSE_INVALID' } }], event)
  }
})

t.test('data with members that streams also have is not a stream', async t => {
  const { sessions, url, sessionId } = await serveSession(t)
  const data = { pipe: 'steel', getReader: null, body: 'text' }
  sessions.handle('pipe', () => data)
  t.match(await postMessage(url, sessionId, {}, { event: 'pipe' }), { status: 200, body: data })
})

t.test('an error handler may send a Response, in a message and in a batch', async t => {
  const { sessions, url, sessionId, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => {
      app.setErrorHandler((error: Error, _request, reply) => {
        return reply.send(new Response(error.message === 'empty' ? null : '{"hidden":true}', { status: 418, headers: { 'content-type': 'application/json', 'x-incident': '1' } }))
      })
    }
  })
  sessions.handle('text', () => { throw new Error('text') }).handle('empty', () => { throw new Error('empty') })
  for (const replayed of [undefined, 'true']) {
    t.match(await postMessage(url, sessionId, {}, { event: 'text', key: 'k' }), { status: 418, headers: { 'x-incident': '1', 'idempotent-replayed': replayed }, body: { hidden: true } })
  }
  t.strictSame((await postBatch({ event: 'text' }, { event: 'empty' })).body, [{ status: 418, body: { hidden: true } }, { status: 418 }])
})

t.test('an onSend hook of the app may clear the body, in a message and in a batch', async t => {
  const { sessions, url, sessionId, postBatch } = await serveSession(t, {}, {
    beforeRegister: app => app.addHook('onSend', async (_request, reply, payload) => {
      if (![201, 403].includes(reply.statusCode)) return payload
      reply.removeHeader('content-type')
      return null
    })
  })
  sessions
    .handle('created', (_session, _data, { reply }) => { reply.code(201).send({ hidden: true }) })
    .handle('forbidden', () => { throw Object.assign(new Error('hidden'), { statusCode: 403 }) })
  for (const [event, status] of [['created', 201], ['forbidden', 403]] as const) {
    for (const replayed of [undefined, 'true']) {
      t.match(await postMessage(url, sessionId, {}, { event, key: event }), { status, headers: { 'content-length': '0', 'idempotent-replayed': replayed } })
    }
    for (const replayed of [{}, { replayed: true }]) t.strictSame((await postBatch({ event, id: `${event} 2` })).body, [{ status, ...replayed }])
  }
})

t.test('@fastify/rate-limit counts a batch as one request', async t => {
  const { sessions, postBatch } = await serveSession(t, {}, { beforeRegister: (app: FastifyInstance) => app.register(rateLimit, { max: 3 }) })
  sessions.handle('a', () => 'handled')
  for (const status of [200, 200, 429]) t.equal((await postBatch({ event: 'a' }, { event: 'a' })).status, status)
})

t.test('@fastify/rate-limit counts a batch as one request with another hook, too', async t => {
  const upward = { preHandler: [async () => {}], config: { rateLimit: { max: 2, timeWindow: 60_000, hook: 'preHandler' as const } } }
  const { sessions, postBatch } = await serveSession(t, { routes: { upward } }, { beforeRegister: (app: FastifyInstance) => app.register(rateLimit, { global: false }) })
  sessions.handle('a', () => 'handled')
  for (let posts = 0; posts < 2; posts++) t.strictSame((await postBatch({ event: 'a' }, { event: 'a' }, { event: 'a' })).body, Array(3).fill({ status: 200, body: 'handled' }))
  t.equal((await postBatch({ event: 'a' })).status, 429)
})

t.test('a client cannot reach the internal route for the messages of batches', async t => {
  const { url, sessionId } = await serveSession(t, {}, { fastify: { logger: { level: 'silent' } } })
  t.match(await postMessage(url, sessionId, {}, { path: '/upward/batch/message' }), { status: 404, body: { message: 'Route POST:/upward/batch/message not found' } })
})
