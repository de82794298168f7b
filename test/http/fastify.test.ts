import Fastify, { type FastifyInstance } from 'fastify'
import type { Socket } from 'node:net'
import t from 'tap'
import { request } from 'undici'
import sseSessions, { type Session, type Sessions } from '../../lib/index.js'
import { listen, serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { warnings } from '../support/process-warnings.js'
import { get, wire } from '../support/wire.js'
import { signal, turn, until, within } from '../support/wait.js'

declare module 'fastify' {
  interface FastifyInstance {
    supportSessions: Sessions
  }
  interface FastifyContextConfig {
    route?: string
  }
}

t.test('the prefix of the plugin, and those of the scopes around it, go before the routes', async t => {
  const app = Fastify()
  await app.register(async api => {
    await api.register(async v1 => {
      await v1.register(sseSessions, { prefix: '/chat', paths: { downward: '/listen', upward: '/say' } })
    }, { prefix: '/v1' })
    t.ok(api.hasDecorator('sseSessions') === false, 'the registry belongs to the scope that registered the plugin')
  }, { prefix: '/api' })
  const url = await listen(t, app)
  const { sessionId, waitFor } = await openStream(t, url, { path: '/api/v1/chat/listen' })
  t.equal((await post(url, sessionId, { text: 'hi' }, { path: '/api/v1/chat/say' })).status, 201)
  t.match((await waitFor(({ event }) => event === 'message')).data, { text: 'Data received: hi' })
  t.equal((await post(url, sessionId, {}, { path: '/api/v1/chat/say', event: 'unknown' })).status, 404)
  for (const path of ['/downward', '/chat/listen', '/api/v1/downward', '/api/v1/chat/downward']) {
    t.equal((await request(url + path)).statusCode, 404, path)
  }
})

t.test('over HTTP/1.1 a stream is not chunked, and ends with its connection', async t => {
  const { sessions, port } = await serve(t)
  sessions.addHook('onOpen', session => { session.close('bye') })
  const client = wire(t, port)
  await within(client.closed, 'the end of the connection')
  const [head = '', body = ''] = client.text().split('\r\n\r\n')
  t.match(head, /^connection: close$/im)
  t.notMatch(head, /^(transfer-encoding|content-length):/im)
  t.match(body, /^retry: \d+\nevent: welcome\n[^]+\nevent: close\nid: closed\ndata: {"reason":"bye"}\n\n$/)
})

t.test('where a hook of the app has it chunked it is, all of it', async t => {
  const { sessions, url } = await serve(t, {}, {
    before: app => app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('transfer-encoding', 'chunked')
      done(null, payload)
    })
  })
  const { waitFor, events } = await openStream(t, url)
  for (const n of [1, 2, 3]) {
    sessions.broadcast('n', n)
    await waitFor(({ data }) => data === n)
  }
  t.strictSame(events.map(({ event }) => event), ['welcome', 'n', 'n', 'n'])
})

t.test('requests for a stream that are pipelined, and refused, leave nothing at their connection', async t => {
  const sockets = new Set<Socket>()
  const { port } = await serve(t, {}, { before: app => app.addHook('onRequest', async ({ socket }) => { sockets.add(socket) }) })
  const warned = warnings(t)
  const client = wire(t, port, { request: get({ 'last-event-id': 'closed' }) })
  await client.waitFor('204')
  const [socket] = sockets
  const before = socket?.listenerCount('close')
  client.socket.write(get({ 'last-event-id': 'closed' }).repeat(20))
  await until(() => client.text().split('204').length === 22, 'all answers')
  await turn()
  t.equal(socket?.listenerCount('close'), before)
  t.strictSame(warned, [])
})

t.test('two registrations, each under its own decorator and prefix, know nothing of each other', async t => {
  const { app, url } = await serve(t, { prefix: '/chat' }, {
    after: app => app.register(sseSessions, { prefix: '/support', decorator: 'supportSessions', closeTimeout: 500 })
  })
  const chat = await openStream(t, url, { path: '/chat/downward' })
  const support = await openStream(t, url, { path: '/support/downward' })
  t.equal(app.sseSessions.size, 1)
  t.equal(app.supportSessions.size, 1)
  t.equal((await post(url, chat.sessionId, { text: 'hi' }, { path: '/support/upward' })).status, 404)
  await app.supportSessions.broadcast('news', 'for support')
  await app.sseSessions.broadcast('news', 'for chat')
  t.equal((await chat.waitFor(({ event }) => event === 'news')).data, 'for chat')
  t.equal((await support.waitFor(({ event }) => event === 'news')).data, 'for support')
  t.equal(chat.events.length + support.events.length, 4)
})

t.test('a dozen registrations are no leak for Node to warn of', async t => {
  const warned = warnings(t)
  const names = Array.from({ length: 12 }, (_, n) => `tenant${n}`)
  const { url } = await serve(t, {}, {
    after: async app => { for (const name of names) await app.register(sseSessions, { prefix: `/${name}`, decorator: name, closeTimeout: 500 }) }
  })
  for (const name of names) {
    const { sessionId } = await openStream(t, url, { path: `/${name}/downward` })
    t.equal((await post(url, sessionId, { text: 'hi' }, { path: `/${name}/upward` })).status, 201)
  }
  t.strictSame(warned, [])
})

t.test('a second registration under the same decorator ends the boot and tells the remedy', async t => {
  const app = Fastify()
  await app.register(sseSessions)
  await t.rejects(async () => { await app.register(sseSessions, { prefix: '/two' }) }, { code: 'FST_SSE_OPTION_INVALID', message: /option "decorator"/ })
})

for (const [hook, status] of [['onRequest', 401], ['preHandler', 403]] as const) {
  t.test(`an app that refuses in ${hook} with ${status} guards every route`, async t => {
    const { url, sessions } = await serve(t, {}, {
      before: app => app.addHook(hook, async (request, reply) => {
        if (request.headers.authorization !== 'Bearer good') return reply.code(status).send({ refused: true })
      })
    })
    const headers = { authorization: 'Bearer good' }
    t.equal((await openStream(t, url, { raw: true })).status, status)
    t.equal(sessions.size, 0, 'none was opened for it')
    const stream = await openStream(t, url, { headers })
    t.equal((await post(url, stream.sessionId, { text: 'hi' })).status, status)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': stream.sessionId } })).statusCode, status)
    t.equal(sessions.size, 1)
    t.equal((await post(url, stream.sessionId, { text: 'hi' }, { headers })).status, 201)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...headers, 'x-session-id': stream.sessionId } })).statusCode, 204)
    t.equal(sessions.size, 0)
  })
}

t.test('each route takes its own config, schema and hooks', async t => {
  const configs: unknown[] = []
  const headersSchema = { type: 'object', required: ['x-tenant'], properties: { 'x-tenant': { type: 'string', pattern: '^[a-z]+$' } } }
  const { url, sessions } = await serve(t, {
    routes: {
      downward: { config: { route: 'down' }, schema: { headers: headersSchema }, onSend: async (_request, reply) => { reply.header('x-of-route', 'down') } },
      upward: {
        config: { route: 'up' },
        schema: { params: { type: 'object', properties: { event: { type: 'string', maxLength: 5 } } } },
        onSend: async (_request, reply) => { reply.header('x-of-route', 'up') }
      },
      close: { config: { route: 'close' }, schema: { headers: headersSchema } }
    }
  }, {
    before: app => app.addHook('onRequest', async request => { configs.push(request.routeOptions.config.route) })
  })
  const tenant = { 'x-tenant': 'acme' }
  t.equal((await openStream(t, url, { raw: true })).status, 400)
  t.equal(sessions.size, 0)
  const stream = await openStream(t, url, { headers: tenant })
  t.equal(stream.headers['x-of-route'], 'down')
  t.match(await post(url, stream.sessionId, {}, { event: 'too-long' }), { status: 400, body: { code: 'FST_ERR_VALIDATION' } })
  t.match(await post(url, stream.sessionId, { text: 'hi' }), { status: 201, headers: { 'x-of-route': 'up' } })
  const close = async (headers: Record<string, string>): Promise<number> =>
    (await request(`${url}/downward`, { method: 'DELETE', headers: { ...headers, 'x-session-id': stream.sessionId } })).statusCode
  t.equal(await close({}), 400)
  t.equal(await close(tenant), 204)
  t.strictSame(configs, ['down', 'down', 'up', 'up', 'close', 'close'])
})

t.test('bodyLimit bounds what a client may post, alone and in a batch', async t => {
  const { url } = await serve(t, { routes: { upward: { bodyLimit: 30 } } })
  const { sessionId } = await openStream(t, url)
  t.equal((await post(url, sessionId, { text: 'x'.repeat(18) })).status, 201)
  t.match(await post(url, sessionId, { text: 'x'.repeat(20) }), { status: 413, body: { code: 'FST_ERR_CTP_BODY_TOO_LARGE' } })
  const batch = { headers: { 'content-type': 'application/x-ndjson' } }
  t.equal((await post(url, sessionId, '{"data":{"text":"x"}}\n', batch)).status, 200)
  t.equal((await post(url, sessionId, '{"data":{"text":"x"}}\n'.repeat(2), batch)).status, 413)
})

t.test('constraints choose a route by host or by version', async t => {
  const constraints = { host: 'chat.example.com' }
  const { url } = await serve(t, { routes: { downward: { constraints }, upward: { constraints: { version: '2.0.0' } } } })
  t.equal((await openStream(t, url, { raw: true })).status, 404)
  const { sessionId } = await openStream(t, url, { headers: constraints })
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 404)
  t.equal((await post(url, sessionId, { text: 'hi' }, { headers: { 'accept-version': '2.x' } })).status, 201)
})

t.test('the stream has no HEAD twin, which would open a session', async t => {
  const { url, sessions } = await serve(t, {}, { fastify: { exposeHeadRoutes: true } })
  t.equal((await within(request(`${url}/downward`, { method: 'HEAD' }), 'the answer')).statusCode, 404)
  t.equal(sessions.size, 0)
})

t.test("the app's handlerTimeout does not end streams", async t => {
  const { url, sessions } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    after: app => app.get('/slow', async () => await new Promise(() => {}))
  })
  const stream = await openStream(t, url)
  t.equal((await request(`${url}/slow`)).statusCode, 503, 'a handler of the app timed out')
  await sessions.broadcast('still', 'here')
  t.equal((await stream.waitFor(({ event }) => event === 'still')).data, 'here')
})

t.test('an onOpen hook slower than the handlerTimeout is answered with 503, and its session ends', async t => {
  const gate = signal()
  const closed = signal<string>()
  const { url, sessions } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    after: ({ sseSessions }) => sseSessions.addHook('onOpen', () => gate.promise).addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  const { status } = await openStream(t, url, { raw: true })
  t.equal(status, 503)
  gate.resolve()
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
  t.equal(sessions.size, 0)
})

t.test('an onSend hook slower than the handlerTimeout is answered with 503, and its session ends', async t => {
  const gate = signal()
  const closed = signal<string>()
  const { url } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    before: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) await gate.promise }),
    after: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  const { status } = await openStream(t, url, { raw: true })
  t.equal(status, 503)
  gate.resolve()
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
})

t.test("the app's onSend hooks, old and new, callback and async, run before a stream, and its onResponse hooks after it", async t => {
  const responded = signal<string>()
  const { url } = await serve(t, {}, {
    before: app => app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('x-callback', 'yes').header('set-cookie', ['a=1', 'b=2'])
      done(null, payload)
    }),
    after: app => {
      app.addHook('onSend', async (_request, reply, payload) => {
        reply.header('x-async', 'yes')
        return payload
      })
      app.addHook('onResponse', async request => { responded.resolve(request.url) })
    }
  })
  const stream = await openStream(t, url)
  t.match(stream.headers, { 'x-callback': 'yes', 'x-async': 'yes', 'set-cookie': ['a=1', 'b=2'], 'content-type': 'text/event-stream; charset=utf-8' })
  await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': stream.sessionId } })
  await stream.ended
  t.equal(await within(responded.promise, 'onResponse'), '/downward')
})

t.test('an onSend hook of the app that throws is answered with 500, and its session ends', async t => {
  const closed = signal<string>()
  const { url } = await serve(t, {}, {
    before: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) throw new Error('no') }),
    after: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  t.equal((await openStream(t, url, { raw: true })).status, 500)
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
})

t.test('a header of the app that cannot be sent is answered with 500, and the session ends', async t => {
  const closed = signal<string>()
  const { url } = await serve(t, {}, {
    before: app => app.addHook('onRequest', async (_request, reply) => { reply.header('x-name', 'two\nlines') }),
    after: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  t.equal((await within(openStream(t, url, { raw: true }), 'the answer')).status, 500)
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
})

t.test('a client that leaves while onOpen runs ends the new session; one that leaves while onResume runs does not', async t => {
  const gate = signal()
  const closed = signal<string>()
  let [running, aborted] = [0, 0]
  const wait = async (session: Session): Promise<void> => {
    running++
    await gate.promise
    t.notOk(session.closed, 'not before the hook has had its say')
  }
  const { url, sessions } = await serve(t, {}, { before: app => app.addHook('onRequestAbort', async _request => { aborted++ }) })
  const first = await openStream(t, url)
  sessions.addHook('onOpen', wait).addHook('onResume', wait).addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  const leave = new AbortController()
  const requests = [{}, { 'x-session-id': first.sessionId }].map(headers => request(`${url}/downward`, { headers, signal: leave.signal }))
  await until(() => running === 2, 'both hooks to run')
  leave.abort()
  await Promise.allSettled(requests)
  await until(() => aborted === 2, 'both connections to be lost')
  gate.resolve()
  t.equal(await within(closed.promise, 'the end of the new session'), 'aborted')
  t.equal((await sessions.find(first.sessionId))?.connected, true)
})

t.test("errors pass through the app's own error handler", async t => {
  const { url } = await serve(t, {}, {
    before: (app: FastifyInstance) => app.setErrorHandler((error: Error & { code: string }, _request, reply) => reply.code(418).send({ mine: error.code }))
  })
  t.match(await post(url, 'unknown', {}), { status: 418, body: { mine: 'FST_SSE_SESSION_UNKNOWN' } })
  t.equal((await openStream(t, url, { raw: true, headers: { accept: 'text/html' } })).status, 418)
})
