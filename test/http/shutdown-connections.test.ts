import dns from 'node:dns'
import { once } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import { noop, settlesWithin } from '../../lib/awaitable.js'
import sseSessions, { type MessageHandler, type QueueResult, type Session } from '../../lib/index.js'
import { StoreUnavailable } from '../../lib/errors.js'
import { kInternals } from '../../lib/sessions/session.js'
import { fingerprint } from '../../lib/wire/idempotency-key.js'
import { FlakyStore } from '../support/flaky-store.js'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'
import { connectHttp2, http2Options } from '../support/http2.js'
import { LONG_CLOSE_TIMEOUT, serve, type ServeOptions, type TestServer } from '../support/server.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const CLOSE_TIMEOUT = 300

const { https } = http2Options as { https: object }
const SERVERS: Record<string, { fastify: FastifyServerOptions, isTls: boolean, isHttp2: boolean }> = {
  'HTTP/1.1': { fastify: {}, isTls: false, isHttp2: false },
  'HTTP/1.1 over TLS': { fastify: { https } as FastifyServerOptions, isTls: true, isHttp2: false },
  'HTTP/2': { fastify: { http2: true } as FastifyServerOptions, isTls: false, isHttp2: true },
  'HTTP/2 with allowHTTP1': { fastify: { http2: true, https: { ...https, allowHTTP1: true } } as FastifyServerOptions, isTls: true, isHttp2: true }
}

const HEAD = 'POST /upward HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n'
// What a client has sent over HTTP/1.1 when the server closes: nothing, or a complete request.
const IDLE = ['', 'GET /fast HTTP/1.1\r\nHost: localhost\r\n\r\n']
// One byte, half a head, half a body, or a request to a handler that never settles.
const UNFINISHED = ['P', HEAD, `${HEAD}\r\n{"text"`, 'GET /hung HTTP/1.1\r\nHost: localhost\r\n\r\n']

/** Connects a client that sends a text. Resolves when the server has received it. */
async function connectClient (t: Test, { app, port }: TestServer, isTls: boolean, text: string): Promise<Socket> {
  const received = new Promise<Socket>(resolve => { app.server.once(isTls ? 'secureConnection' : 'connection', resolve) })
  const options = { port, host: '127.0.0.1' }
  const client = isTls ? connectTls({ ...options, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] }) : connectTcp(options)
  client.on('error', () => {}).resume()
  t.teardown(() => { client.destroy() })
  const socket = await withTimeout(received, 'the connection')
  const { bytesRead } = socket
  client.write(text)
  if (text !== '') await waitUntil(() => socket.bytesRead > bytesRead, 'the server to read')
  return client
}

const withRoutes: ServeOptions['beforeRegister'] = app => app.get('/hung', () => new Promise(() => {})).get('/fast', () => 'ok')

for (const [name, { fastify, isTls, isHttp2 }] of Object.entries(SERVERS)) {
  const closeWithClients = async (t: Test, closeTimeout: number, texts: string[], start: string): Promise<void> => {
    const server = await serve(t, { closeTimeout }, { fastify: { ...fastify, pluginTimeout: 0 }, ...withRoutes !== undefined && { beforeRegister: withRoutes } })
    const clients: Socket[] = []
    if (isTls || !isHttp2) for (const text of texts) clients.push(await connectClient(t, server, isTls, text))
    clients.push(await connectClient(t, server, false, start))
    const ended = Promise.all(clients.map(async client => { if (!client.closed) await once(client, 'close') }))
    await withTimeout(server.app.close(), 'close()')
    await withTimeout(ended, 'the end of every connection')
  }

  t.test(`idle connections of ${name} do not delay close()`, async t => {
    await closeWithClients(t, LONG_CLOSE_TIMEOUT, IDLE, '')
  })

  t.test(`close() ends unfinished connections of ${name}`, async t => {
    // Half of a TLS handshake or HTTP/2 preface.
    await closeWithClients(t, CLOSE_TIMEOUT, UNFINISHED, isTls ? '\x16\x03\x01' : 'PRI * H')
  })
}

t.test('close() ends a request with half of a body, and one with a hung handler, over HTTP/2', async t => {
  const server = await serve(t, { closeTimeout: CLOSE_TIMEOUT }, { fastify: http2Options, ...withRoutes !== undefined && { beforeRegister: withRoutes } })
  const client = connectHttp2(t, server)
  let count = 0
  server.app.server.on('stream', () => { count++ })
  const streams = [
    client.request({ ':path': '/upward', ':method': 'POST', 'content-type': 'application/json', 'content-length': 100 }),
    client.request({ ':path': '/hung' })
  ]
  for (const stream of streams) stream.on('error', () => {})
  streams[0]?.write('{"text"')
  await waitUntil(() => count === 2, 'the requests')
  await withTimeout(server.app.close(), 'close()')
  await waitUntil(() => client.destroyed, 'the end of the connection')
})

t.test('a connection that is kept alive is closed when its last response has ended', async t => {
  const started = deferred()
  const release = deferred<string>()
  const { app, url } = await serve(t, { closeTimeout: LONG_CLOSE_TIMEOUT }, {
    fastify: { pluginTimeout: 0 },
    beforeRegister: app => app.get('/slow', () => {
      started.resolve()
      return release.promise
    })
  })
  const response = request(`${url}/slow`)
  await started.promise
  const closing = app.close()
  release.resolve('completed')
  t.equal(await (await response).body.text(), 'completed')
  await withTimeout(closing, 'close()')
})

t.test('the handler of a message may finish within closeTimeout', async t => {
  const started = deferred()
  const release = deferred()
  const { app, sessions, url } = await serve(t, { closeTimeout: 9000 })
  sessions.handle('slow', async session => {
    started.resolve()
    await release.promise
    await session.send('last')
    return { ok: true }
  })
  const { sessionId, ended } = await openStream(t, url)
  const posted = postMessage(url, sessionId, {}, { event: 'slow' })
  await started.promise
  const closing = app.close()
  await withTimeout(ended, 'the end of the stream')
  release.resolve()
  t.match(await posted, { status: 200, body: { ok: true } })
  await withTimeout(closing, 'close()')
})

t.test('messages whose handlers have not finished within closeTimeout get 504, and those that have not started get 503', async t => {
  let [started, received] = [0, 0]
  const { app, sessions, url } = await serve(t, { closeTimeout: CLOSE_TIMEOUT }, { beforeRegister: app => app.addHook('preHandler', async () => { received++ }) })
  sessions.handle('hung', async () => {
    started++
    await new Promise(() => {})
  })
  const { sessionId } = await openStream(t, url)
  const other = await openStream(t, url)
  const postHung = (id: string): ReturnType<typeof postMessage> => postMessage(url, id, {}, { event: 'hung' })
  const postBatch = (id: string): ReturnType<typeof postMessage> => postMessage(url, id, '{"event":"hung"}\n', { headers: { 'content-type': 'application/x-ndjson' } })
  const running = [postHung(sessionId), postBatch(other.sessionId)]
  await waitUntil(() => started === 2, 'the handlers')
  received = 0
  const waiting = [postBatch(sessionId), postHung(other.sessionId)]
  await waitUntil(() => received === 2, 'the waiting messages')
  const closing = app.close()
  for (const post of running) t.match(await withTimeout(post, 'the response'), TIMED_OUT)
  for (const post of waiting) t.match(await withTimeout(post, 'the response'), { status: 503, body: { code: 'FST_SSE_CLOSING' } })
  await withTimeout(closing, 'close()')
})

/** The response of `close` to a message whose handler has started. */
const TIMED_OUT = { status: 504, body: { code: 'FST_SSE_CLOSE_TIMEOUT' } }

interface SlowHandler {
  readonly app: FastifyInstance
  readonly posted: Promise<HttpResponse>
  readonly release: () => void
  /** The result of a repeat of the message, as another process with the same store gets it. */
  readonly repeat: Promise<QueueResult>
  /** Sends the message again. */
  readonly post: () => Promise<HttpResponse>
}

/** Starts a handler that takes longer than closeTimeout. */
async function startSlowHandler (t: Test, handle: MessageHandler<unknown>, serveOptions: ServeOptions = {}, isBatch = false): Promise<SlowHandler> {
  const [started, gate] = [deferred(), deferred()]
  const { app, sessions, url } = await serve(t, { closeTimeout: CLOSE_TIMEOUT }, serveOptions)
  sessions.handle('slow', async (session, data, context) => {
    started.resolve()
    await gate.promise
    return await handle(session, data, context)
  })
  const { sessionId } = await openStream(t, url)
  const post = (): Promise<HttpResponse> => isBatch
    ? postMessage(url, sessionId, '{"event":"slow","data":{},"id":"k"}', { headers: { 'content-type': 'application/x-ndjson' } })
    : postMessage(url, sessionId, {}, { event: 'slow', key: 'k' })
  const posted = post()
  await withTimeout(started.promise, 'the handler')
  const session = await sessions.find(sessionId) as Session
  const result = session[kInternals].messageQueue.enqueue({ key: 'k', fingerprint: () => fingerprint('slow', '{}'), handle: () => { throw new Error('handled again') } })
  return { app, posted, release: gate.resolve, repeat: withTimeout(Promise.resolve(result), 'the result of the repeat'), post }
}

for (const [status, response] of [
  [undefined, { status: 500, body: /"code":"LATE".*An unexpected error has occurred/ }],
  [409, { status: 409, body: /"code":"LATE".*"message":"too late"/ }]
] as const) {
  t.test(`if a handler fails after the 504 of close(), repeats get its error, ${status === undefined ? 'which is unexpected' : `with status ${status}`}`, async t => {
    const { app, posted, release, repeat } = await startSlowHandler(t, (_session, _data, { reply }) => {
      if (status !== undefined) reply.code(status)
      reply.header('x-handler', 'yes')
      throw Object.assign(new Error('too late'), { code: 'LATE' })
    })
    await withTimeout(app.close(), 'close()')
    t.match(await posted, TIMED_OUT)
    release()
    t.match(await repeat, { replayed: true, response: { ...response, headers: { 'x-handler': 'yes', 'content-type': /json/, connection: undefined } } })
  })
}

for (const [outcome, handle, response] of [
  ['finishes', () => 'done', { status: 200, body: 'done' }],
  ['fails', () => { throw new Error('failed') }, { status: 500, body: /An unexpected error/ }]
] as const) {
  t.test(`if a handler ${outcome} while close() sends a 504, repeats get its result and the client gets the 504`, async t => {
    const [sending, gate] = [deferred(), deferred()]
    const { app, posted, release, repeat } = await startSlowHandler(t, handle, {
      beforeRegister: app => {
        app.addHook('onSend', async (_request, { statusCode }) => {
          if (statusCode !== 504) return
          sending.resolve()
          await gate.promise
        })
      }
    })
    const closing = app.close()
    await withTimeout(sending.promise, 'the 504')
    release()
    t.match(await repeat, { replayed: true, response })
    gate.resolve()
    t.match(await posted, TIMED_OUT)
    await withTimeout(closing, 'close()')
  })
}

/** Returns a hook of the app that waits once for each POST and DELETE when the sessions close. `replies` are those to these requests. */
function createHook (): { addTo: (app: FastifyInstance, name: 'onError' | 'onSend') => void, started: Promise<void>, release: () => void, replies: Set<FastifyReply> } {
  const [started, gate] = [deferred(), deferred()]
  const replies = new Set<FastifyReply>()
  const hook = async (_request: unknown, reply: FastifyReply): Promise<void> => {
    if (!reply.server.sseSessions.closing || !replies.delete(reply)) return
    started.resolve()
    await gate.promise
  }
  return {
    addTo: (app, name) => {
      app.addHook('preHandler', async ({ method, url }, reply) => { if (method !== 'GET' && !url.endsWith('/batch/message')) replies.add(reply) })
      if (name === 'onError') app.addHook('onError', hook)
      else app.addHook('onSend', hook)
    },
    started: started.promise,
    release: gate.resolve,
    replies
  }
}

for (const hook of ['onError', 'onSend'] as const) {
  for (const [what, isBatch, handle, result] of [
    ['a message', false, () => 'done', { replayed: true, response: { status: 200, body: 'done' } }],
    ['a batch', true, () => 'done', { replayed: true, response: { status: 200, body: 'done' } }],
    ['a refused message', false, () => { throw new StoreUnavailable() }, undefined]
  ] as const) {
    t.test(`while an ${hook} hook runs for the response of close(), the result of ${what} is not sent, too`, async t => {
      const { addTo, started, release: releaseHook, replies } = createHook()
      const { app, posted, release, repeat, post } = await startSlowHandler(t, handle, { beforeRegister: app => { addTo(app, hook) } }, isBatch)
      const repeated = post()
      const { sseSessions: sessions } = app
      await waitUntil(() => replies.size === 2 && [...replies].every(reply => sessions.canSend(reply)), 'the repeat')
      const closing = app.close()
      await withTimeout(started, 'the hook')
      release()
      if (result === undefined) await t.rejects(repeat, { code: 'FST_SSE_STORE_UNAVAILABLE' })
      else t.match(await repeat, result)
      // The results reach the requests in microtasks.
      await nextEventLoopTick()
      releaseHook()
      t.match(await withTimeout(posted, 'the response'), TIMED_OUT)
      t.match(await withTimeout(repeated, 'the response to the repeat'), { status: 503, body: { code: 'FST_SSE_CLOSING' } })
      await withTimeout(closing, 'close()')
    })
  }
}

for (const hook of ['onError', 'onSend'] as const) {
  for (const fails of [false, true]) {
    t.test(`while an ${hook} hook runs for the 503 of close(), a DELETE that ${fails ? 'fails' : 'finishes'} sends nothing else`, async t => {
      const { addTo, started, release } = createHook()
      const [ending, gate] = [deferred(), deferred()]
      const store = new FlakyStore()
      store.delay = async name => {
        if (name !== 'end') return
        ending.resolve()
        await gate.promise
        if (fails) throw new StoreUnavailable()
      }
      const { app, url } = await serve(t, { closeTimeout: CLOSE_TIMEOUT, store: store.createStore }, { beforeRegister: app => { addTo(app, hook) } })
      const { sessionId } = await openStream(t, url)
      const deleted = request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId } })
      await withTimeout(ending.promise, 'the call of the store')
      const closing = app.close()
      await withTimeout(started, 'the hook')
      gate.resolve()
      // The result reaches the request in microtasks.
      await nextEventLoopTick()
      release()
      const { statusCode, body } = await withTimeout(deleted, 'the response')
      t.equal(statusCode, 503)
      t.match(await body.json(), { code: 'FST_SSE_CLOSING' })
      await withTimeout(closing, 'close()')
    })
  }
}

for (const [hook, handle, response] of [
  ['onError', () => { throw new Error('failed') }, { status: 500 }],
  ['onSend', () => 'done', { status: 200, body: 'done' }]
] as const) {
  t.test(`close() sends nothing while an ${hook} hook runs for the result of a message`, async t => {
    const [running, gate] = [deferred(), deferred()]
    const wait = async ({ method }: FastifyRequest): Promise<void> => {
      if (method !== 'POST') return
      running.resolve()
      await gate.promise
    }
    const { app, posted, release, repeat } = await startSlowHandler(t, handle, {
      beforeRegister: app => {
        if (hook === 'onError') app.addHook('onError', wait)
        else app.addHook('onSend', wait)
      }
    })
    release()
    await withTimeout(running.promise, 'the hook')
    await t.resolves(withTimeout(app.sseSessions.close(), 'the close of the sessions'))
    gate.resolve()
    t.match(await posted, response)
    t.match(await repeat, { replayed: true, response })
  })
}

for (const hook of ['onOpen', 'onResume', 'onDisconnect', 'onClose'] as const) {
  t.test(`close() finishes although an ${hook} hook never settles`, async t => {
    const { app, sessions, url } = await serve(t, { closeTimeout: CLOSE_TIMEOUT })
    let isHung = false
    const first = await openStream(t, url)
    sessions.addHook(hook, () => {
      isHung = true
      return new Promise<never>(() => {})
    })
    if (hook === 'onOpen') openStream(t, url).catch(() => {})
    if (hook === 'onResume') openStream(t, url, { headers: { 'x-session-id': first.sessionId } }).catch(() => {})
    if (hook === 'onDisconnect') first.destroy()
    if (hook !== 'onClose') await waitUntil(() => isHung, 'the hook')
    await withTimeout(app.close(), 'close()')
    t.equal(isHung, true)
  })
}

for (const reason of ['closed', 'expired', 'unauthorized']) {
  t.test(`close() waits for the onClose hook of a session that was closed before with reason ${reason}`, async t => {
    const { app, sessions, url } = await serve(t, {
      resumeTimeout: reason === 'expired' ? 1 : 60_000,
      ...reason === 'unauthorized' && { expires: () => new Date(Date.now() + 1000) }
    })
    const [hookStarted, hookMayEnd] = [deferred<string>(), deferred()]
    sessions.addHook('onClose', async (_session, reason) => {
      hookStarted.resolve(reason)
      await hookMayEnd.promise
    })
    const stream = await openStream(t, url)
    if (reason === 'expired') stream.destroy()
    if (reason === 'closed') (await sessions.find(stream.sessionId))?.close().catch(noop)
    t.equal(await withTimeout(hookStarted.promise, 'the hook'), reason)
    const closing = app.close()
    t.equal(await settlesWithin(closing, 50), false)
    hookMayEnd.resolve()
    await withTimeout(closing, 'close()')
  })
}

t.test('close() also closes connections of the second server for localhost', async t => {
  const { lookup } = dns
  t.teardown(() => { dns.lookup = lookup })
  const addresses = [{ address: '127.0.0.1', family: 4 }, { address: '::1', family: 6 }]
  dns.lookup = ((host: string, ...rest: [options: { all?: boolean }, done: (...args: unknown[]) => void]) => {
    const done = rest.at(-1) as typeof rest[1]
    if (host !== 'localhost') Reflect.apply(lookup, dns, [host, ...rest])
    else if (rest[0].all === true) done(null, addresses)
    else done(null, '127.0.0.1', 4)
  }) as unknown as typeof lookup
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions, { closeTimeout: CLOSE_TIMEOUT })
  // Registered below another plugin, and a second time.
  await app.register(async app => { await app.register(sseSessions, { prefix: '/b', decorator: 'b', closeTimeout: CLOSE_TIMEOUT }) })
  const { port } = new URL(await app.listen({ port: 0 }))
  const clients: Socket[] = []
  for (const host of ['127.0.0.1', '::1']) {
    for (const text of ['', HEAD]) {
      const client = connectTcp({ port: Number(port), host }).on('error', () => {}).resume()
      clients.push(client)
      await withTimeout(once(client, 'connect'), `the connection to ${host}`)
      client.write(text)
    }
    t.equal((await request(`http://${host === '::1' ? '[::1]' : host}:${port}/upward`)).statusCode, 404, 'the server has accepted the connections')
  }
  const ended = Promise.all(clients.map(async client => { if (!client.closed) await once(client, 'close') }))
  await withTimeout(app.close(), 'close()')
  await withTimeout(ended, 'the end of every connection')
})

for (const [options, text] of [
  [{ heartbeatInterval: 1000 }, /connectionTimeout of the server \(1000 ms\) ends idle event streams; set "heartbeatInterval" \(1000 ms\) to less/],
  [{ heartbeatInterval: false }, /connectionTimeout of the server \(1000 ms\) ends idle event streams; turn heartbeats on/],
  [{ heartbeatInterval: 999 }, undefined]
] as const) {
  t.test(`logs ${text === undefined ? 'no' : 'a'} warning for connectionTimeout 1000 and heartbeatInterval ${options.heartbeatInterval}`, async t => {
    const warnings: string[] = []
    const stream = { write: (line: string) => { warnings.push((JSON.parse(line) as { msg: string }).msg) } }
    await serve(t, options, { fastify: { connectionTimeout: 1000, logger: { level: 'warn', stream } } })
    t.equal(warnings.length, text === undefined ? 0 : 1)
    if (text !== undefined) t.match(warnings[0], text)
  })
}
