import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { request } from 'undici'
import type { Session } from '../../lib/index.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

for (const [hook, status] of [['onRequest', 401], ['preHandler', 403]] as const) {
  t.test(`an app can protect every route with an ${hook} hook that answers ${status}`, async t => {
    const { url, sessions } = await serve(t, {}, {
      before: app => app.addHook(hook, async (request, reply) => {
        if (request.headers.authorization !== 'Bearer valid') return reply.code(status).send({ refused: true })
      })
    })
    const headers = { authorization: 'Bearer valid' }
    t.equal((await openStream(t, url, { raw: true })).status, status)
    t.equal(sessions.size, 0, 'no session was opened')
    const stream = await openStream(t, url, { headers })
    t.equal((await post(url, stream.sessionId, { text: 'hi' })).status, status)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': stream.sessionId } })).statusCode, status)
    t.equal(sessions.size, 1)
    t.equal((await post(url, stream.sessionId, { text: 'hi' }, { headers })).status, 201)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...headers, 'x-session-id': stream.sessionId } })).statusCode, 204)
    t.equal(sessions.size, 0)
  })
}

t.test("the app's onSend hooks, callback and async, run before the stream, and its onResponse hooks after it", async t => {
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

t.test('answers 500 if an onSend hook of the app throws, and ends the session', async t => {
  const closed = signal<string>()
  const { url } = await serve(t, {}, {
    before: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) throw new Error('hook failed') }),
    after: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  t.equal((await openStream(t, url, { raw: true })).status, 500)
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
})

t.test('answers 500 if a header of the app is invalid, and ends the session', async t => {
  const closed = signal<string>()
  const { url } = await serve(t, {}, {
    before: app => app.addHook('onRequest', async (_request, reply) => { reply.header('x-name', 'two\nlines') }),
    after: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  t.equal((await within(openStream(t, url, { raw: true }), 'the response')).status, 500)
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
})

t.test("the app's handlerTimeout does not end streams", async t => {
  const { url, sessions } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    after: app => app.get('/slow', async () => await new Promise(() => {}))
  })
  const stream = await openStream(t, url)
  t.equal((await request(`${url}/slow`)).statusCode, 503, 'a handler of the app timed out')
  await sessions.broadcast('news', 'after the timeout')
  t.equal((await stream.waitFor(({ event }) => event === 'news')).data, 'after the timeout')
})

t.test('answers 503 if an onOpen hook exceeds the handlerTimeout, and ends the session', async t => {
  const release = signal()
  const closed = signal<string>()
  const { url, sessions } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    after: ({ sseSessions }) => sseSessions.addHook('onOpen', () => release.promise).addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  const { status } = await openStream(t, url, { raw: true })
  t.equal(status, 503)
  release.resolve()
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
  t.equal(sessions.size, 0)
})

t.test('answers 503 if an onSend hook exceeds the handlerTimeout, and ends the session', async t => {
  const release = signal()
  const closed = signal<string>()
  const { url } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    before: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) await release.promise }),
    after: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  const { status } = await openStream(t, url, { raw: true })
  t.equal(status, 503)
  release.resolve()
  t.equal(await within(closed.promise, 'the end of the session'), 'aborted')
})

t.test('a client that disconnects while onOpen runs ends the new session, but not while onResume runs', async t => {
  const release = signal()
  const closed = signal<string>()
  let [running, aborted] = [0, 0]
  const wait = async (session: Session): Promise<void> => {
    running++
    await release.promise
    t.notOk(session.closed, 'the session does not end before the hook has returned')
  }
  const { url, sessions } = await serve(t, {}, { before: app => app.addHook('onRequestAbort', async _request => { aborted++ }) })
  const first = await openStream(t, url)
  sessions.addHook('onOpen', wait).addHook('onResume', wait).addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  const abortController = new AbortController()
  const requests = [{}, { 'x-session-id': first.sessionId }].map(headers => request(`${url}/downward`, { headers, signal: abortController.signal }))
  await until(() => running === 2, 'both hooks to run')
  abortController.abort()
  await Promise.allSettled(requests)
  await until(() => aborted === 2, 'both connections to be lost')
  release.resolve()
  t.equal(await within(closed.promise, 'the end of the new session'), 'aborted')
  t.equal((await sessions.find(first.sessionId))?.connected, true)
})

t.test("errors pass through the app's own error handler", async t => {
  const { url } = await serve(t, {}, {
    before: (app: FastifyInstance) => app.setErrorHandler((error: Error & { code: string }, _request, reply) => reply.code(418).send({ ownCode: error.code }))
  })
  t.match(await post(url, 'unknown', {}), { status: 418, body: { ownCode: 'FST_SSE_SESSION_UNKNOWN' } })
  t.equal((await openStream(t, url, { raw: true, headers: { accept: 'text/html' } })).status, 418)
})
