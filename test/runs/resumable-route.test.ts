import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { ClientHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import sseSessions, { memoryStore, type ResumableOptions, type SseSessionsOptions } from '../../lib/index.js'
import { eventSources } from '../support/event-sources.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { FlakyStore } from '../support/flaky-store.js'
import { connectHttp2, http2Options, requestHttp2 } from '../support/http2.js'
import { openRawClient } from '../support/raw-client.js'
import { listen, serve, type ServeOptions, type TestServer } from '../support/server.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { createFeed, type Feed } from './support/feed.js'
import { dataOf, follow } from './support/run-client.js'

interface ResumableServer extends TestServer {
  /** URL of a POST route with `resumable`. */
  readonly askUrl: string
  readonly feed: Feed
  /** Number of calls of the route's handler. */
  readonly handled: () => number
}

async function serveResumable (t: Test, resumable: true | ResumableOptions = true, plugin: SseSessionsOptions = {}, options: ServeOptions = {}): Promise<ResumableServer> {
  const feed = createFeed()
  let handled = 0
  const served = await serve(t, { principal: ({ headers }) => headers['x-user'] as string | undefined, ...plugin }, {
    ...options,
    afterRegister: async app => {
      await options.afterRegister?.(app)
      app.post('/ask', { resumable }, async (_request, reply) => {
        handled++
        return reply.events(feed.producer)
      })
    }
  })
  return { ...served, feed, askUrl: `${served.url}/ask`, handled: () => handled }
}

const locationOf = ({ headers }: { readonly headers: Headers }, { url }: TestServer): string => url + String(headers.get('location'))

t.test('a POST starts a run, and a GET with Last-Event-ID or of the Location follows it', async t => {
  const server = await serveResumable(t)
  const { askUrl, feed } = server
  const post = await follow(t, askUrl, { method: 'POST', body: { question: '?' } })
  t.match(post.headers.get('location'), /^\/ask\?run=[\w-]{24}$/)
  feed.add(1, 2)
  await post.waitFor('2')
  post.abort()
  const resumed = await follow(t, askUrl, { headers: { 'last-event-id': post.events[0]?.id ?? '' } })
  const located = await follow(t, locationOf(post, server))
  const locatedAndResumed = await follow(t, locationOf(post, server), { headers: { 'last-event-id': post.events[1]?.id ?? '' } })
  feed.add(3)
  feed.end()
  for (const [response, expected] of [[resumed, ['2', '3']], [located, ['1', '2', '3']], [locatedAndResumed, ['3']]] as const) {
    t.equal(await response.isComplete, true)
    t.strictSame(dataOf(response), expected)
  }
  t.equal((await fetch(askUrl, { headers: { 'last-event-id': resumed.lastEventId() } })).status, 204)
})

t.test('the Location of a GET route keeps its query, and its schema may remove other parameters', async t => {
  const feed = createFeed()
  let handled = 0
  const server = await serve(t, {}, {
    afterRegister: app => {
      const querystring = { type: 'object', required: ['q'], properties: { q: { type: 'string' } }, additionalProperties: false }
      app.get('/search', { resumable: true, schema: { querystring } }, async (_request, reply) => {
        handled++
        return reply.events(feed.producer)
      })
    }
  })
  const first = await follow(t, `${server.url}/search?q=a%20b`)
  t.match(first.headers.get('location'), /^\/search\?q=a\+b&run=[\w-]{24}$/)
  const located = await follow(t, locationOf(first, server))
  t.equal(located.headers.get('location'), first.headers.get('location'))
  feed.add(1)
  feed.end()
  for (const response of [first, located]) {
    t.equal(await response.isComplete, true)
    t.strictSame(dataOf(response), ['1'])
  }
  t.equal(handled, 1)
  t.equal((await fetch(locationOf(first, server), { method: 'DELETE' })).status, 204)
})

t.test('in the URL of a POST, "run" is a parameter of the app', async t => {
  const { askUrl, feed, handled } = await serveResumable(t)
  const response = await follow(t, `${askUrl}?run=nightly`, { method: 'POST' })
  feed.end()
  t.equal(await response.isComplete, true)
  t.equal(handled(), 1)
})

t.test('a body with streams or functions has a key, too', async t => {
  const { askUrl, feed } = await serveResumable(t, true, {}, {
    afterRegister: app => { app.addContentTypeParser('text/plain', (_request, payload, done) => { done(null, { payload, read: () => payload.read() as unknown }) }) }
  })
  const headers = { 'idempotency-key': 'a', 'content-type': 'text/plain' }
  const first = await fetch(askUrl, { method: 'POST', headers, body: 'text' })
  t.equal(first.status, 200)
  const repeated = await fetch(askUrl, { method: 'POST', headers, body: 'text' })
  t.equal(repeated.headers.get('idempotent-replayed'), 'true')
  feed.end()
  await Promise.all([first.text(), repeated.text()])
})

t.test('a body that is nested too deeply to be compared cannot have a key', async t => {
  const { askUrl } = await serveResumable(t)
  const body = `${'['.repeat(50_000)}${']'.repeat(50_000)}`
  const response = await fetch(askUrl, { method: 'POST', headers: { 'idempotency-key': 'a', 'content-type': 'application/json' }, body })
  t.equal(response.status, 400)
  t.match(await response.json(), { code: 'FST_SSE_DATA_TOO_DEEP' })
})

t.test('a DELETE of the Location stops the run, and one with Last-Event-ID, too', async t => {
  const server = await serveResumable(t)
  for (const useLocation of [true, false]) {
    const post = await follow(t, server.askUrl, { method: 'POST' })
    await waitUntil(() => post.lastEventId() !== '', 'the first id')
    const response = useLocation
      ? await fetch(locationOf(post, server), { method: 'DELETE' })
      : await fetch(server.askUrl, { method: 'DELETE', headers: { 'last-event-id': post.lastEventId() } })
    t.equal(response.status, 204)
    await post.waitFor('{"status":"stopped","reason":"deleted"}')
    t.equal(await post.isComplete, true)
    t.equal((await fetch(locationOf(post, server), { method: 'DELETE' })).status, 204, 'a second time has no effect')
  }
  t.equal(server.feed.signal()?.aborted, true)
})

t.test('each POST starts a run of its own, but one that repeats an Idempotency-Key gets the same run, also after its end', async t => {
  const { askUrl, feed, handled } = await serveResumable(t)
  const headers = { 'idempotency-key': 'key 1' }
  const first = await follow(t, askUrl, { method: 'POST', headers, body: { n: 1 } })
  feed.add(1)
  await first.waitFor('1')
  const repeated = await follow(t, askUrl, { method: 'POST', headers, body: { n: 1 } })
  t.strictSame([first.headers.get('idempotent-replayed'), repeated.headers.get('idempotent-replayed')], [null, 'true'])
  t.equal(repeated.headers.get('location'), first.headers.get('location'))
  feed.add(2)
  feed.end()
  for (const response of [first, repeated, await follow(t, askUrl, { method: 'POST', headers, body: { n: 1 } })]) {
    t.equal(await response.isComplete, true)
    t.strictSame(dataOf(response), ['1', '2'])
  }
  t.equal(handled(), 1)
  const other = await fetch(askUrl, { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: '{"n":2}' })
  t.equal(other.status, 422)
  t.match(await other.json(), { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
  const withoutKey = await follow(t, askUrl, { method: 'POST', body: { n: 1 } })
  t.not(withoutKey.headers.get('location'), first.headers.get('location'))
  t.equal(handled(), 2)
  t.equal((await fetch(askUrl, { method: 'POST', headers: { 'idempotency-key': ' ' } })).status, 200, 'an empty key is no key')
  const invalid = await fetch(askUrl, { method: 'POST', headers: { 'idempotency-key': 'x'.repeat(256) } })
  t.equal(invalid.status, 400)
  t.match(await invalid.json(), { code: 'FST_SSE_IDEMPOTENCY_KEY_INVALID' })
})

t.test('a handler can change the body: a repeat of the request gets its run all the same', async t => {
  const { url } = await serve(t, {}, {
    afterRegister: app => {
      app.post('/ask', { resumable: true }, async (request, reply) => {
        const { messages } = request.body as { messages: string[] }
        messages.unshift('system')
        return reply.events(messages)
      })
    }
  })
  const post = (): Promise<Response> => fetch(`${url}/ask`, { method: 'POST', headers: { 'idempotency-key': 'a', 'content-type': 'application/json' }, body: '{"messages":["user"]}' })
  const [first, repeated] = [await post(), await post()]
  t.equal(repeated.headers.get('idempotent-replayed'), 'true')
  t.equal(repeated.headers.get('location'), first.headers.get('location'))
})

interface KeyedServer extends TestServer {
  readonly askUrl: string
  /** For each call of the handler, which waits, a function that says how it responds. */
  readonly calls: Array<(respond: (reply: FastifyReply) => unknown) => void>
  /** Waits for a number of requests that have reached the route, of calls of the handler, and of closed connections; over HTTP/2, of closed streams. */
  readonly waitFor: (wanted: { readonly requests?: number, readonly calls?: number, readonly closed?: number }) => Promise<void>
  readonly post: (key?: string, signal?: AbortSignal) => Promise<Response>
}

/** Serves a POST route with `resumable` whose handler waits until the test decides how it responds. */
async function serveKeyed (t: Test, plugin: SseSessionsOptions = {}, fastify: FastifyServerOptions = {}): Promise<KeyedServer> {
  const calls: KeyedServer['calls'] = []
  let requests = 0
  let closed = 0
  const served = await serve(t, {
    ...plugin,
    principal: request => {
      requests++
      return typeof plugin.principal === 'function' ? plugin.principal(request) : undefined
    }
  }, {
    fastify,
    afterRegister: app => {
      app.addHook('onRequest', async ({ raw }) => { raw.socket.on('close', () => { closed++ }) })
      app.post('/ask', { resumable: true }, async (_request, reply) => {
        const { promise, resolve } = deferred<(reply: FastifyReply) => unknown>()
        calls.push(resolve)
        return (await promise)(reply)
      })
    }
  })
  const askUrl = `${served.url}/ask`
  return {
    ...served,
    askUrl,
    calls,
    waitFor: async wanted => {
      await waitUntil(() => requests >= (wanted.requests ?? 0) && calls.length >= (wanted.calls ?? 0) && closed >= (wanted.closed ?? 0), JSON.stringify(wanted))
      // What is to be done with a request is done in microtasks.
      await nextEventLoopTick()
    },
    post: async (key = 'a', signal) => await withTimeout(fetch(askUrl, { method: 'POST', headers: { 'idempotency-key': key, connection: 'close' }, ...signal !== undefined && { signal } }), 'the response')
  }
}

t.test('POSTs that repeat the Idempotency-Key of a request whose handler runs wait for its run', async t => {
  const { calls, post, waitFor } = await serveKeyed(t)
  const first = post()
  await waitFor({ calls: 1 })
  const repeats = [post(), post()]
  await waitFor({ requests: 3 })
  t.equal(calls.length, 1)
  calls[0]?.(reply => reply.events([1]))
  const responses = await Promise.all([first, ...repeats])
  t.equal(new Set(responses.map(({ headers }) => headers.get('location'))).size, 1)
  t.strictSame(responses.map(({ headers }) => headers.get('idempotent-replayed')), [null, 'true', 'true'])
  for (const response of responses) t.match(await response.text(), /data: 1\n/)
  t.equal(calls.length, 1)
})

for (const isHttp2 of [false, true]) {
  t.test(`the client of the handler that runs may disconnect, and then repeat its POST${isHttp2 ? ' (HTTP/2)' : ''}`, async t => {
    const store = new FlakyStore()
    const { calls, port, post, waitFor } = await serveKeyed(t, { store: store.createStore }, isHttp2 ? http2Options : {})
    if (isHttp2) {
      const stream = connectHttp2(t, { port }).request({ ':method': 'POST', ':path': '/ask', 'idempotency-key': 'a' }).on('error', () => {})
      await waitFor({ calls: 1 })
      stream.destroy()
    } else {
      const abortController = new AbortController()
      post('a', abortController.signal).catch(() => {})
      await waitFor({ calls: 1 })
      abortController.abort()
    }
    await waitFor({ closed: 1 })
    const repeat = isHttp2
      ? requestHttp2(connectHttp2(t, { port }), { ':method': 'POST', ':path': '/ask', 'idempotency-key': 'a' }).then(async ({ ended, text }) => {
        await withTimeout(ended, 'the end')
        return text()
      })
      : post().then(async response => await response.text())
    await waitFor({ requests: 2 })
    t.equal(calls.length, 1)
    const starting = deferred()
    const proceed = deferred()
    store.delay = name => {
      if (name !== 'start') return undefined
      starting.resolve()
      return proceed.promise
    }
    calls[0]?.(reply => reply.events([1]))
    await withTimeout(starting.promise, 'the start')
    // The promise of the handler resolves before the run exists, because there is no response to wait for.
    await nextEventLoopTick()
    proceed.resolve()
    t.match(await repeat, /data: 1\n/)
    t.equal(calls.length, 1)
  })
}

t.test('after a handler that has not started a run, a POST with its key runs the handler', async t => {
  const { calls, post, waitFor } = await serveKeyed(t)
  const outcomes: Array<[number, (reply: FastifyReply) => unknown]> = [
    [200, () => ({ a: 1 })],
    [500, () => { throw new Error('broken') }],
    [202, reply => reply.code(202).send()],
    [500, reply => reply.events(7 as never)],
    [200, reply => reply.events([1])]
  ]
  const responses = []
  for (let n = 1; n <= outcomes.length; n++) {
    responses.push(post())
    await waitFor({ requests: n })
  }
  for (const [index, [status, respond]] of outcomes.entries()) {
    await waitFor({ calls: index + 1 })
    t.equal(calls.length, index + 1)
    calls[index]?.(respond)
    t.equal((await responses[index])?.status, status)
  }
})

t.test('after Fastify\'s handlerTimeout, a POST with the same key runs the handler, and the handlers get one run', async t => {
  const { calls, post, waitFor } = await serveKeyed(t, {}, { handlerTimeout: 500 })
  t.equal((await post()).status, 503)
  const second = post()
  await waitFor({ calls: 2 })
  calls[1]?.(reply => reply.events([2]))
  t.match(await (await second).text(), /data: 2\n/)
  let late: FastifyReply | undefined
  calls[0]?.(reply => {
    late = reply
    return reply.events([1])
  })
  await waitUntil(() => late !== undefined, 'the first handler')
  const third = await post()
  t.equal(third.headers.get('idempotent-replayed'), 'true')
  t.match(await third.text(), /data: 2\n/)
})

t.test('a POST whose client disconnects while it waits for a handler does not run the handler', async t => {
  for (const isHttp2 of [false, true]) {
    const { calls, port, post, waitFor } = await serveKeyed(t, {}, isHttp2 ? http2Options : {})
    const request = 'POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nIdempotency-Key: a\r\n\r\n'
    const http2Request = { ':method': 'POST', ':path': '/ask', 'idempotency-key': 'a' }
    const http2 = isHttp2 ? connectHttp2(t, { port }) : undefined
    if (http2 === undefined) post().catch(() => {})
    else http2.request(http2Request).on('error', () => {})
    await waitFor({ calls: 1 })
    if (http2 === undefined) {
      // The second request is pipelined.
      const client = openRawClient(t, port, { request: request.repeat(2) })
      await waitFor({ requests: 3 })
      client.socket.destroy()
    } else {
      const stream = http2.request(http2Request).on('error', () => {})
      await waitFor({ requests: 2 })
      stream.destroy()
    }
    await waitFor({ closed: 1 })
    calls[0]?.(() => ({ a: 1 }))
    const last = http2 === undefined ? post() : requestHttp2(http2, http2Request)
    await waitFor({ calls: 2 })
    calls[1]?.(() => ({ a: 2 }))
    await last
    t.equal(calls.length, 2)
  }
})

for (const [what, handlerTimeout] of [['client', 0], ['handlerTimeout', 500]] as const) {
  t.test(`a POST that ${handlerTimeout === 0 ? 'has no client any more' : 'has got the response of handlerTimeout'} before it waits for a handler does not run the handler`, async t => {
    const gate = deferred()
    const users: string[] = []
    const { askUrl, calls, post, waitFor } = await serveKeyed(t, {
      principal: async ({ headers }) => {
        if (headers['x-late'] !== undefined) await gate.promise
        users.push(String(headers['x-late']))
        return undefined
      }
    }, handlerTimeout === 0 ? {} : { handlerTimeout })
    const abortController = new AbortController()
    const late = fetch(askUrl, { method: 'POST', headers: { 'idempotency-key': 'a', 'x-late': 'yes' }, signal: abortController.signal })
    await waitFor({ requests: 1 })
    if (what === 'client') {
      abortController.abort()
      await late.catch(() => {})
      await waitFor({ closed: 1 })
    } else {
      t.equal((await late).status, 503)
    }
    const first = post()
    await waitFor({ calls: 1 })
    gate.resolve()
    await waitUntil(() => users.length === 2, 'the principal')
    await nextEventLoopTick()
    calls[0]?.(() => ({ a: 1 }))
    t.equal((await first).status, 200)
    const last = post()
    await waitFor({ calls: 2 })
    calls[1]?.(() => ({ a: 2 }))
    t.strictSame(await (await last).json(), { a: 2 })
  })
}

t.test('after the handlerTimeout of the plugin, a POST with the same key runs the handler, also if it has a body', async t => {
  const { askUrl, calls, waitFor } = await serveKeyed(t, { handlerTimeout: 100 })
  const post = (): Promise<Response> => withTimeout(fetch(askUrl, { method: 'POST', headers: { 'idempotency-key': 'a', 'content-type': 'application/json' }, body: '{}' }), 'the response')
  const first = post()
  await waitFor({ calls: 1 })
  const second = post()
  await waitFor({ calls: 2 })
  calls[1]?.(() => ({ a: 2 }))
  t.strictSame(await (await second).json(), { a: 2 })
  calls[0]?.(() => ({ a: 1 }))
  t.strictSame(await (await first).json(), { a: 1 })
})

t.test('the wait for a handler may be unlimited', async t => {
  const { calls, post, waitFor } = await serveKeyed(t, { handlerTimeout: false })
  const first = post()
  await waitFor({ calls: 1 })
  calls[0]?.(() => ({ a: 1 }))
  t.equal((await first).status, 200)
})

t.test('when the server closes, POSTs that wait for a handler do not run it', async t => {
  const { app, calls, post, waitFor } = await serveKeyed(t, { closeTimeout: 5000 })
  const first = post()
  await waitFor({ calls: 1 })
  const second = post()
  await waitFor({ requests: 2 })
  const closing = app.close()
  await waitUntil(() => app.sseSessions.closing, 'the start of close()')
  calls[0]?.(() => ({ a: 1 }))
  t.equal((await first).status, 200)
  const response = await second
  t.equal(response.status, 503)
  t.equal(response.headers.get('retry-after'), '1')
  t.match(await response.json(), { code: 'FST_SSE_CLOSING' })
  t.equal(calls.length, 1)
  await withTimeout(closing, 'close()')
})

t.test('requests that stop waiting for a handler leave no listeners on their HTTP/2 connection', async t => {
  const { app, calls, port, waitFor } = await serveKeyed(t, {}, http2Options)
  const sockets: Socket[] = []
  app.server.on('secureConnection', (socket: Socket) => { sockets.push(socket) })
  const client = connectHttp2(t, { port })
  const post = (): ClientHttp2Stream => client.request({ ':method': 'POST', ':path': '/ask', 'idempotency-key': 'a' }).on('error', () => {})
  const first = post()
  await waitFor({ calls: 1 })
  let closed = 0
  app.server.on('request', (_request, response: ServerResponse) => { response.on('close', () => { closed++ }) })
  const countListeners = (): number => Number(sockets[0]?.listenerCount('close'))
  const before = countListeners()
  for (let n = 1; n <= 5; n++) {
    const stream = post()
    await waitFor({ requests: n + 1 })
    stream.destroy()
    await waitUntil(() => closed === n, 'the end of the request')
  }
  t.equal(countListeners(), before)
  calls[0]?.(() => ({ a: 1 }))
  await withTimeout(once(first.resume(), 'close'), 'the response')
})

for (const method of ['GET', 'DELETE'] as const) {
  for (const run of ['unknown', 'known']) {
    t.test(`a ${method} of ${run === 'known' ? 'a run' : 'an unknown run'} sends nothing else while an onError hook runs for its handlerTimeout`, async t => {
      const [gate, timedOut, hookGate] = [deferred(), deferred(), deferred()]
      const { askUrl, feed } = await serveResumable(t, true, {}, {
        fastify: { handlerTimeout: 50 },
        beforeRegister: app => app
          .addHook('preHandler', async ({ headers }) => { if (headers['x-late'] !== undefined) await gate.promise })
          .addHook('onError', async () => {
            timedOut.resolve()
            await hookGate.promise
          })
      })
      const reader = await follow(t, askUrl, { method: 'POST' })
      const url = run === 'known' ? new URL(String(reader.headers.get('location')), askUrl) : `${askUrl}?run=unknown`
      const response = fetch(url, { method, headers: { 'x-late': 'yes' } })
      await withTimeout(timedOut.promise, 'the timeout')
      gate.resolve()
      await nextEventLoopTick()
      hookGate.resolve()
      t.equal((await withTimeout(response, 'the response')).status, 503)
      feed.add(1)
      feed.end()
      t.equal(await reader.isComplete, true)
      t.strictSame(dataOf(reader), ['1'], 'the run was not stopped')
    })
  }
}

t.test('at most maxRuns keys wait for their handlers', async t => {
  const { calls, post, waitFor } = await serveKeyed(t, { maxRuns: 1 })
  const responses = [post('a')]
  await waitFor({ calls: 1 })
  responses.push(post('b'))
  await waitFor({ calls: 2 })
  responses.push(post('a'))
  await waitFor({ calls: 3 })
  for (const respond of calls) respond(() => ({ a: 1 }))
  for (const response of responses) t.equal((await response).status, 200)
  responses.push(post('a'))
  await waitFor({ calls: 4 })
  calls[3]?.(() => ({ a: 1 }))
  t.equal((await responses[3])?.status, 200)
})

t.test('a key belongs to a principal; without one, to all users', async t => {
  for (const principal of [() => undefined, ({ headers }: FastifyRequest) => headers['x-user'] as string]) {
    const { askUrl, feed, handled } = await serveResumable(t, true, { principal })
    feed.end()
    for (const user of ['ann', 'bob']) await (await follow(t, askUrl, { method: 'POST', headers: { 'idempotency-key': 'a', 'x-user': user } })).isComplete
    t.equal(handled(), principal.length === 0 ? 1 : 2)
  }
})

t.test('a POST with Last-Event-ID continues the run and does not run the handler', async t => {
  const { askUrl, feed, handled } = await serveResumable(t)
  const first = await follow(t, askUrl, { method: 'POST', body: {} })
  feed.add(1, 2)
  await first.waitFor('2')
  const resumed = await follow(t, askUrl, { method: 'POST', body: {}, headers: { 'last-event-id': first.events[0]?.id ?? '' } })
  feed.end()
  await resumed.isComplete
  t.strictSame(dataOf(resumed), ['2'])
  t.equal(handled(), 1)
  for (const id of ['nonsense', `${'x'.repeat(24)}.1`]) {
    const unknown = await fetch(askUrl, { method: 'POST', headers: { 'last-event-id': id } })
    t.equal(unknown.status, 404)
    t.match(await unknown.json(), { code: 'FST_SSE_RUN_UNKNOWN' })
  }
  t.equal(handled(), 1, 'no run is started instead of one that is not kept any more')
  t.equal((await follow(t, askUrl, { method: 'POST', headers: { 'last-event-id': '' } })).status, 200)
  t.equal(handled(), 2, 'an empty header is no header')
})

t.test('runs of other principals, routes and paths do not exist', async t => {
  const server = await serveResumable(t, true, {}, {
    afterRegister: app => {
      app.post('/chats/:id/ask', { resumable: true }, (_request, reply) => reply.events([1]))
    }
  })
  const { askUrl, url, app } = server
  const ann = { 'x-user': 'ann' }
  const post = await follow(t, askUrl, { method: 'POST', headers: { ...ann, 'idempotency-key': 'k' } })
  await waitUntil(() => post.lastEventId() !== '', 'the first id')
  const id = post.lastEventId()
  for (const method of ['GET', 'DELETE']) {
    for (const headers of [{}, { 'x-user': 'eve' }] as Array<Record<string, string>>) {
      for (const response of [await fetch(locationOf(post, server), { method, headers }), await fetch(askUrl, { method, headers: { ...headers, 'last-event-id': id } })]) {
        t.equal(response.status, 404)
        t.match(await response.json(), { code: 'FST_SSE_RUN_UNKNOWN' })
      }
    }
    t.equal((await fetch(`${url}/chats/1/ask`, { method, headers: { ...ann, 'last-event-id': id } })).status, 404)
    const missing = await fetch(askUrl, { method })
    t.equal(missing.status, 400)
    t.match(await missing.json(), { code: 'FST_SSE_RUN_ID_MISSING' })
    t.equal((await fetch(`${askUrl}?run=${id.split('.')[0] ?? ''}x`, { method, headers: ann })).status, 404)
  }
  const chat = await follow(t, `${url}/chats/1/ask`, { method: 'POST' })
  await chat.isComplete
  const location = String(chat.headers.get('location'))
  t.equal((await fetch(url + location)).status, 200)
  t.equal((await fetch(url + location.replace('/1/', '/2/'))).status, 404)
  const own = await app.sseSessions.runs.start('own', {}, () => [1])
  t.equal((await fetch(`${askUrl}?run=${own.id}`)).status, 404, 'a run that another route has started')
  const foreign = await follow(t, askUrl, { method: 'POST', headers: { 'x-user': 'eve', 'idempotency-key': 'k' } })
  t.not(foreign.headers.get('location'), post.headers.get('location'))
})

t.test('the hooks of the route protect all of its methods', async t => {
  const { url } = await serve(t, {}, {
    afterRegister: app => {
      app.register(async scope => {
        scope.addHook('onRequest', async ({ headers }, reply) => { if (headers['x-scope'] === undefined) return reply.code(401).send() })
        scope.post('/', {
          resumable: true,
          schema: { params: { type: 'object' }, body: { type: 'object', required: ['q'] }, querystring: { type: 'object', additionalProperties: false, properties: {} } },
          preHandler: async ({ headers }, reply) => { if (headers['x-route'] === undefined) return reply.code(403).send() }
        }, async (_request, reply) => reply.events([1]))
      }, { prefix: '/api' })
    }
  })
  const headers = { 'x-scope': '1', 'x-route': '1' }
  for (const path of ['/api', '/api/']) {
    const post = await follow(t, url + path, { method: 'POST', headers, body: { q: 1 } })
    await post.isComplete
    t.equal((await fetch(url + path, { method: 'POST', headers })).status, 400)
    const location = url + String(post.headers.get('location'))
    t.equal(location.startsWith(`${url}${path}?run=`), true)
    for (const method of ['GET', 'DELETE']) {
      t.equal((await fetch(location, { method })).status, 401)
      t.equal((await fetch(location, { method, headers: { 'x-scope': '1' } })).status, 403)
      t.equal((await fetch(location, { method, headers })).status, method === 'GET' ? 200 : 204)
    }
  }
})

for (const [name, open] of eventSources) {
  t.test(`a GET route with "resumable" works with an unmodified EventSource (${name}) over lost connections`, async t => {
    const feed = createFeed()
    const { port } = await serve(t, { retry: 1 }, { afterRegister: app => { app.get('/clock', { resumable: true }, (_request, reply) => reply.events(feed.producer)) } })
    const proxy = await startFaultProxy(t, port, connection => connection < 3 ? { fault: 'reset', afterBytes: 600 } : undefined)
    const source = open(t, `${proxy.url}/clock`)
    const received: string[] = []
    source.addEventListener('message', ({ data }) => { received.push(String(data)) })
    for (let n = 0; n < 40; n++) {
      feed.add(n)
      await waitUntil(() => received.length > n, `the number ${n}`)
    }
    feed.end()
    await waitUntil(() => source.readyState === 2, 'the EventSource to stop')
    t.strictSame(received, Array.from({ length: 40 }, (_, n) => String(n)))
    t.equal(feed.startCount(), 1)
  })
}

t.test('a HEAD of a GET route with "resumable" starts nothing', async t => {
  const feed = createFeed()
  const { url } = await serve(t, {}, { afterRegister: app => { app.get('/clock', { resumable: true }, (_request, reply) => reply.events(feed.producer)) } })
  const response = await fetch(`${url}/clock`, { method: 'HEAD' })
  t.equal(response.status, 200)
  t.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  t.equal(feed.startCount(), 0)
})

t.test('the options of "resumable" apply to the run and to all responses', async t => {
  const server = await serveResumable(t, {
    keep: 60_000,
    encode: String,
    finalFrame: ({ status }) => `data: [${status}]\n\n`,
    gapFrame: () => 'data: gap\n\n'
  }, { runLog: { entries: 2 } })
  const { askUrl, feed } = server
  const post = await follow(t, askUrl, { method: 'POST' })
  for (const word of ['a', 'b', 'c']) {
    feed.add(word)
    await post.waitFor(word)
  }
  feed.end()
  await post.isComplete
  t.strictSame(dataOf(post), ['a', 'b', 'c', '[finished]'])
  const again = await follow(t, locationOf(post, server))
  await again.isComplete
  t.strictSame(dataOf(again), ['gap', 'b', 'c', '[finished]'])
})

t.test('reply.events takes a function, a generator or any iterable, in every kind of handler', async t => {
  const { url } = await serve(t, {}, {
    afterRegister: app => {
      const options = { resumable: true }
      app.post('/function', options, async (_request, reply) => reply.events(async function * ({ signal }) { yield signal.aborted }))
      app.post('/generator', options, async (_request, reply) => reply.events((async function * () { yield false })()))
      app.post('/array', options, (_request, reply) => reply.events([false]))
      app.post('/callback', options, (_request, reply) => { setImmediate(() => { reply.events([false]) }) })
      app.post('/await', options, async (_request, reply) => { await reply.events([false]) })
    }
  })
  for (const path of ['function', 'generator', 'array', 'callback', 'await']) {
    for (const headers of [{}, { 'idempotency-key': path }] as Array<Record<string, string>>) {
      const response = await follow(t, `${url}/${path}`, { method: 'POST', headers })
      t.equal(await response.isComplete, true, path)
      t.strictSame(dataOf(response), ['false'], path)
    }
  }
})

t.test('a route with "resumable" can also respond with something else, or fail', async t => {
  const { url } = await serve(t, {}, {
    afterRegister: app => {
      const options = { resumable: true }
      app.post('/value', options, async () => ({ a: 1 }))
      app.post('/sync', options, () => ({ a: 1 }))
      app.post('/send', options, (_request, reply) => { reply.send({ a: 1 }) })
      app.post('/nothing', options, async () => {})
      app.post('/error', options, async () => { throw new Error('broken') })
      app.post('/thrown', options, () => { throw new Error('broken') })
      app.post('/promise', options, async (_request, reply) => reply.events(Promise.resolve([1]) as never))
    }
  })
  for (const headers of [{}, { 'idempotency-key': 'a' }] as Array<Record<string, string>>) {
    for (const path of ['value', 'sync', 'send']) t.strictSame(await (await fetch(`${url}/${path}`, { method: 'POST', headers })).json(), { a: 1 }, path)
    t.equal(await (await fetch(`${url}/nothing`, { method: 'POST', headers })).text(), '')
    for (const path of ['error', 'thrown']) t.match(await (await fetch(`${url}/${path}`, { method: 'POST', headers })).json(), { statusCode: 500, message: 'broken' })
    t.match(await (await fetch(`${url}/promise`, { method: 'POST', headers })).json(), { statusCode: 500, code: 'FST_SSE_RUN_INVALID', message: /await a promise/ })
  }
})

t.test('an error of the store or of the principal is the response', async t => {
  const store = new FlakyStore()
  const { askUrl } = await serveResumable(t, true, {
    store: store.createStore,
    principal: ({ headers }) => {
      if (headers['x-user'] === 'broken') throw new Error('no user')
      return undefined
    }
  })
  store.isDown = true
  for (const headers of [{}, { 'idempotency-key': 'a' }, { 'last-event-id': `${'x'.repeat(24)}.1` }] as Array<Record<string, string>>) {
    const response = await fetch(askUrl, { method: 'POST', headers })
    t.equal(response.status, 503)
    t.equal(response.headers.get('retry-after'), '1')
    const broken = await fetch(askUrl, { method: 'POST', headers: { ...headers, 'x-user': 'broken' } })
    t.equal(broken.status, 500)
    t.match(await broken.json(), { message: 'no user' })
  }
})

for (const [name, open] of eventSources) {
  t.test(`while the store does not respond, an EventSource reconnects: ${name}`, async t => {
    const store = new FlakyStore()
    const { askUrl, feed, url } = await serveResumable(t, true, { store: store.createStore })
    const post = await follow(t, askUrl, { method: 'POST' })
    const location = url + String(post.headers.get('location'))
    store.isDown = true
    const response = await follow(t, location, { headers: { accept: 'text/event-stream' } })
    t.equal(response.status, 200)
    t.equal(await response.isComplete, false)
    t.equal((await fetch(location)).status, 503)
    const [hasFailed, received] = [deferred(), deferred<unknown>()]
    const source = open(t, location)
    source.addEventListener('error', () => { hasFailed.resolve() })
    source.addEventListener('message', ({ data }) => { received.resolve(data) })
    await withTimeout(hasFailed.promise, 'the first attempt')
    store.isDown = false
    feed.add(1)
    t.equal(await withTimeout(received.promise, 'the event'), '1')
  })
}

t.test('above maxRuns, a POST gets 503', async t => {
  const { askUrl } = await serveResumable(t, true, { maxRuns: 1 })
  await follow(t, askUrl, { method: 'POST' })
  const response = await fetch(askUrl, { method: 'POST' })
  t.equal(response.status, 503)
  t.equal(response.headers.get('retry-after'), '1')
  t.match(await response.json(), { code: 'FST_SSE_TOO_MANY_RUNS', message: /1 runs/ })
})

t.test('reply.events closes an iterable if no run is started for it', async t => {
  let opened = 0
  let closed = 0
  const stream = new Readable({ read () {} })
  const open = (symbol: symbol): Iterable<unknown> => {
    opened++
    const iterator = {
      next: () => new Promise(() => {}),
      return: () => {
        closed++
        return { done: true }
      },
      [symbol]: () => iterator
    }
    return iterator as never
  }
  const { url } = await serve(t, { maxRuns: 1 }, {
    afterRegister: app => {
      app.post('/async', { resumable: true }, (_request, reply) => reply.events(open(Symbol.asyncIterator)))
      app.post('/sync', { resumable: true }, (_request, reply) => reply.events(open(Symbol.iterator)))
      app.post('/stream', { resumable: true }, (_request, reply) => reply.events(stream))
    }
  })
  await follow(t, `${url}/async`, { method: 'POST' })
  for (const path of ['async', 'sync', 'stream']) t.equal((await fetch(`${url}/${path}`, { method: 'POST' })).status, 503)
  t.equal(opened, 3)
  await waitUntil(() => closed === 2 && stream.destroyed, 'the iterators to be closed')
})

t.test('a route of the app for GET or DELETE that was added before is kept', async t => {
  const { url, port } = await serve(t, {}, {
    afterRegister: app => {
      app.get('/ask', async () => 'mine')
      app.post('/ask', { resumable: true }, (_request, reply) => reply.events([1]))
      app.put('/ask', { resumable: true }, (_request, reply) => reply.events([2]))
      app.post('/ask', { resumable: true, constraints: { host: 'b.example' } }, (_request, reply) => reply.events([3]))
    }
  })
  t.equal(await (await fetch(`${url}/ask`)).text(), 'mine')
  const put = await follow(t, `${url}/ask`, { method: 'PUT' })
  await put.isComplete
  t.strictSame(dataOf(put), ['2'])
  t.equal((await fetch(url + String(put.headers.get('location')), { method: 'DELETE' })).status, 204)
  // The routes of another host are others.
  const client = openRawClient(t, port, { request: 'GET /ask HTTP/1.1\r\nHost: b.example\r\n\r\n' })
  await client.waitFor('FST_SSE_RUN_ID_MISSING')
})

t.test('an invalid option fails the boot, and so does a store that does not support runs', async t => {
  const code = 'FST_SSE_RUN_INVALID'
  const boot = (resumable: unknown, options: SseSessionsOptions = {}): Promise<void> => withTimeout((async () => {
    const app = Fastify()
    await app.register(sseSessions, options)
    app.post('/ask', { resumable: resumable as true }, (_request, reply) => reply.events([1]))
  })(), 'the boot')
  for (const [resumable, message] of [[7, /object/], [null, /object/], [{ kept: 1 }, /"kept"/], [{ keep: -1 }, /"keep"/], [{ encode: 'json' }, /"encode"/], [{ finalFrame: '' }, /"finalFrame"/], [{ gapFrame: 1 }, /"gapFrame"/]] as const) {
    await t.rejects(boot(resumable), { code, message })
  }
  await t.rejects(boot(true, { store: (...args) => Object.assign(memoryStore(...args), { runs: undefined }) }), { code: 'FST_SSE_RUNS_UNSUPPORTED' })
  await t.resolves(boot(false))
})

t.test('reply.events in a route without "resumable" fails with an error that says what to do', async t => {
  const { url } = await serve(t, {}, {
    beforeRegister: app => { app.post('/early', { resumable: true }, (_request, reply) => reply.events([1])) },
    afterRegister: app => { app.post('/ask', (_request, reply) => reply.events([1])) }
  })
  for (const path of ['ask', 'early']) {
    t.match(await (await fetch(`${url}/${path}`, { method: 'POST' })).json(), { statusCode: 500, code: 'FST_SSE_RUN_INVALID', message: /"resumable".*after the plugin/ })
  }
})

t.test('with several registrations, "resumable" uses the first one', async t => {
  const app: FastifyInstance = Fastify()
  await app.register(sseSessions, { closeTimeout: 100 })
  await app.register(sseSessions, { prefix: '/other', decorator: 'others', closeTimeout: 100 })
  app.post('/ask', { resumable: true }, (_request, reply) => reply.events([1]))
  const url = await listen(t, app)
  const post = await follow(t, `${url}/ask`, { method: 'POST', headers: { 'idempotency-key': 'a' } })
  await post.isComplete
  t.strictSame(dataOf(post), ['1'])
  t.equal((await app.sseSessions.runs.find('/ask a'))?.status, 'finished')
})

t.test('a handler that returns nothing responds with reply.events, also if the principal is found later', async t => {
  const served = await serve(t, { principal: async () => await Promise.resolve('user') }, {
    afterRegister: app => {
      app.post('/ask', { resumable: true }, (_request, reply) => { reply.events([1]) })
    }
  })
  for (const headers of [{}, { 'idempotency-key': 'a' }, { 'idempotency-key': 'a' }]) {
    const response = await follow(t, `${served.url}/ask`, { method: 'POST', headers })
    t.equal(await response.isComplete, true)
    t.equal(dataOf(response)[0], '1')
  }
})
