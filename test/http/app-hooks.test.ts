import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { request } from 'undici'
import type { Session } from '../../lib/index.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

for (const [hook, status] of [['onRequest', 401], ['preHandler', 403]] as const) {
  t.test(`an app can protect every route with an ${hook} hook that responds with ${status}`, async t => {
    const { url, sessions } = await serve(t, {}, {
      beforeRegister: app => app.addHook(hook, async (request, reply) => {
        if (request.headers.authorization !== 'Bearer valid') return reply.code(status).send({ refused: true })
      })
    })
    const headers = { authorization: 'Bearer valid' }
    t.equal((await openStream(t, url, { skipWelcome: true })).status, status)
    t.equal(sessions.size, 0, 'no session was opened')
    const stream = await openStream(t, url, { headers })
    t.equal((await postMessage(url, stream.sessionId, { text: 'hi' })).status, status)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': stream.sessionId } })).statusCode, status)
    t.equal(sessions.size, 1)
    t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { headers })).status, 201)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...headers, 'x-session-id': stream.sessionId } })).statusCode, 204)
    t.equal(sessions.size, 0)
  })
}

t.test("the app's onSend hooks, callback and async, run before the stream, and its onResponse hooks after it", async t => {
  const responded = deferred<string>()
  const { url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('onSend', (_request, reply, payload, calls) => {
      reply.header('x-callback', 'yes').header('set-cookie', ['a=1', 'b=2'])
      calls(null, payload)
    }),
    afterRegister: app => {
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
  t.equal(await withTimeout(responded.promise, 'onResponse'), '/downward')
})

t.test('responds with 500 if an onSend hook of the app throws, and closes the session', async t => {
  const closed = deferred<string>()
  const { url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) throw new Error('hook failed') }),
    afterRegister: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  t.equal((await openStream(t, url, { skipWelcome: true })).status, 500)
  t.equal(await withTimeout(closed.promise, 'the close of the session'), 'aborted')
})

t.test('responds with 500 if a header of the app is invalid, and closes the session', async t => {
  const closed = deferred<string>()
  const { url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('onRequest', async (_request, reply) => { reply.header('x-name', 'two\nlines') }),
    afterRegister: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  t.equal((await withTimeout(openStream(t, url, { skipWelcome: true }), 'the response')).status, 500)
  t.equal(await withTimeout(closed.promise, 'the close of the session'), 'aborted')
})

t.test('responds with 503 if an onOpen hook exceeds the handlerTimeout, and closes the session', async t => {
  const release = deferred()
  const closed = deferred<string>()
  const { url, sessions } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    afterRegister: ({ sseSessions }) => sseSessions.addHook('onOpen', () => release.promise).addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  const { status } = await openStream(t, url, { skipWelcome: true })
  t.equal(status, 503)
  release.resolve()
  t.equal(await withTimeout(closed.promise, 'the close of the session'), 'aborted')
  t.equal(sessions.size, 0)
})

t.test('responds with 503 if an onSend hook exceeds the handlerTimeout, and closes the session', async t => {
  const release = deferred()
  const closed = deferred<string>()
  const { url } = await serve(t, {}, {
    fastify: { handlerTimeout: 50 },
    beforeRegister: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) await release.promise }),
    afterRegister: ({ sseSessions }) => sseSessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  })
  const { status } = await openStream(t, url, { skipWelcome: true })
  t.equal(status, 503)
  release.resolve()
  t.equal(await withTimeout(closed.promise, 'the close of the session'), 'aborted')
})

t.test('a session is closed if its client disconnects while onOpen runs, but not while onResume runs', async t => {
  const release = deferred()
  const closed = deferred<string>()
  let [running, aborted] = [0, 0]
  const wait = async (session: Session): Promise<void> => {
    running++
    await release.promise
    t.notOk(session.closed, 'the session is not closed before the hook has returned')
  }
  const { url, sessions } = await serve(t, {}, { beforeRegister: app => app.addHook('onRequestAbort', async _request => { aborted++ }) })
  const first = await openStream(t, url)
  sessions.addHook('onOpen', wait).addHook('onResume', wait).addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  const abortController = new AbortController()
  const requests = [{}, { 'x-session-id': first.sessionId }].map(headers => request(`${url}/downward`, { headers, signal: abortController.signal }))
  await waitUntil(() => running === 2, 'both hooks to run')
  abortController.abort()
  await Promise.allSettled(requests)
  await waitUntil(() => aborted === 2, 'both connections to be lost')
  release.resolve()
  t.equal(await withTimeout(closed.promise, 'the close of the new session'), 'aborted')
  t.equal((await sessions.find(first.sessionId))?.connected, true)
})

t.test("errors pass through the app's own error handler", async t => {
  const { url } = await serve(t, {}, {
    beforeRegister: (app: FastifyInstance) => app.setErrorHandler((error: Error & { code: string }, _request, reply) => reply.code(418).send({ ownCode: error.code }))
  })
  t.match(await postMessage(url, 'unknown', {}), { status: 418, body: { ownCode: 'FST_SSE_SESSION_UNKNOWN' } })
  t.equal((await openStream(t, url, { skipWelcome: true, headers: { accept: 'text/html' } })).status, 418)
})
