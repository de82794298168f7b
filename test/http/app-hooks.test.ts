import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import { StoreUnavailable, type Session } from '../../lib/index.js'
import { serve, type ServeOptions } from '../support/server.js'
import { FlakyStore } from '../support/flaky-store.js'
import { openStream, postMessage } from '../support/http-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

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

interface LogLine {
  readonly msg: string
  readonly err?: { readonly message: string }
}

/** Options of an app whose `onError` hooks wait for a gate after Fastify's `handlerTimeout`. Until then, Fastify accepts no other response. */
function withWaitingHook (): { options: ServeOptions, waiting: Set<FastifyReply>, release: () => void, lines: LogLine[] } {
  const waiting = new Set<FastifyReply>()
  const gate = deferred()
  const lines: LogLine[] = []
  const options: ServeOptions = {
    fastify: { handlerTimeout: 50, logger: { level: 'warn', stream: { write: line => { lines.push(JSON.parse(line)) } } } },
    beforeRegister: app => app.addHook('onError', async (_request, reply, { code }) => {
      if (code !== 'FST_ERR_HANDLER_TIMEOUT') return
      waiting.add(reply)
      await gate.promise
    })
  }
  return { options, waiting, release: gate.resolve, lines }
}

/** Sends the message `slow` with a key. It has no data, because Fastify's `handlerTimeout` ends when the body of a request over HTTP/1.1 was read. */
async function postSlow (url: string, sessionId: string): Promise<object> {
  const { statusCode: status, headers, body } = await request(`${url}/upward/slow`, { method: 'POST', headers: { 'x-session-id': sessionId, 'idempotency-key': 'k' } })
  const text = await body.text()
  return { status, body: text.startsWith('{') ? JSON.parse(text) : text, ...headers['idempotent-replayed'] === 'true' && { replayed: true } }
}

async function postSlowInBatch (url: string, sessionId: string): Promise<object> {
  const { body } = await postMessage(url, sessionId, '{"event":"slow","id":"k"}', { headers: { 'content-type': 'application/x-ndjson' } })
  return (body as [object])[0]
}

const TIMED_OUT = { status: 503, body: { code: 'FST_ERR_HANDLER_TIMEOUT' } }

/** Starts a handler that takes longer than the `handlerTimeout` of Fastify. */
async function startSlowHandler (t: Test, { options, waiting }: ReturnType<typeof withWaitingHook>, post: typeof postSlow, finish: () => unknown): Promise<{ posted: Promise<object>, finishHandler: () => Promise<void>, repeat: () => Promise<object>, getCalls: () => number }> {
  const { url, sessions } = await serve(t, {}, options)
  const gate = deferred()
  let calls = 0
  sessions.handle('slow', async () => {
    if (++calls > 1) return 'second attempt'
    await gate.promise
    return finish()
  })
  const { sessionId } = await openStream(t, url)
  const posted = post(url, sessionId)
  await waitUntil(() => waiting.size === 1, 'the timeout')
  const finishHandler = async (): Promise<void> => {
    gate.resolve()
    // The result reaches the request in microtasks.
    await nextEventLoopTick()
  }
  return { posted: withTimeout(posted, 'the response'), finishHandler, repeat: () => withTimeout(post(url, sessionId), 'the repeat'), getCalls: () => calls }
}

for (const [what, post] of [['a message', postSlow], ['a message of a batch', postSlowInBatch]] as const) {
  for (const [outcome, finish, result] of [
    ['finishes', () => 'done', { status: 200, body: 'done' }],
    ['fails', () => { throw Object.assign(new Error('failed'), { statusCode: 409 }) }, { status: 409, body: { message: 'failed' } }]
  ] as const) {
    for (const isWaiting of [true, false]) {
      t.test(`repeats get the result of a handler that ${outcome} ${isWaiting ? 'while an onError hook runs for' : 'after the response to'} the handlerTimeout of ${what}`, async t => {
        const hook = withWaitingHook()
        if (!isWaiting) hook.release()
        const { posted, finishHandler, repeat, getCalls } = await startSlowHandler(t, hook, post, finish)
        if (!isWaiting) await waitUntil(() => [...hook.waiting].every(reply => reply.sent), 'the response')
        await finishHandler()
        t.match(await repeat(), { ...result, replayed: true })
        hook.release()
        t.match(await posted, post === postSlow ? TIMED_OUT : result)
        t.equal(getCalls(), 1)
      })
    }
  }

  t.test(`a repeat is a new attempt if the store fails while an onError hook runs for the handlerTimeout of ${what}`, async t => {
    const hook = withWaitingHook()
    const { posted, finishHandler, repeat, getCalls } = await startSlowHandler(t, hook, post, () => { throw new StoreUnavailable() })
    await finishHandler()
    hook.release()
    t.match(await posted, TIMED_OUT)
    t.match(await repeat(), { status: 200, body: 'second attempt', replayed: undefined })
    t.equal(getCalls(), 2)
  })
}

t.test('a repeat sends nothing else while an onError hook runs for its handlerTimeout', async t => {
  const { options, waiting, release } = withWaitingHook()
  const { url, sessions } = await serve(t, {}, options)
  const gate = deferred()
  sessions.handle('slow', () => gate.promise)
  const { sessionId } = await openStream(t, url)
  const posts = [1, 2].map(() => postSlow(url, sessionId))
  await waitUntil(() => waiting.size === 2, 'the timeouts')
  gate.resolve()
  await nextEventLoopTick()
  release()
  for (const post of posts) t.match(await withTimeout(post, 'the response'), TIMED_OUT)
})

for (const fails of [false, true]) {
  t.test(`a DELETE that ${fails ? 'fails' : 'finishes'} sends nothing else while an onError hook runs for its handlerTimeout`, async t => {
    const { options, waiting, release } = withWaitingHook()
    const store = new FlakyStore()
    const { url } = await serve(t, { store: store.createStore }, options)
    const { sessionId } = await openStream(t, url)
    const gate = deferred()
    store.delay = async name => {
      if (name !== 'end') return
      await gate.promise
      if (fails) throw new StoreUnavailable()
    }
    const deleted = request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId } })
    await waitUntil(() => waiting.size === 1, 'the timeout')
    gate.resolve()
    await nextEventLoopTick()
    release()
    t.equal((await withTimeout(deleted, 'the response')).statusCode, 503)
  })
}

for (const fails of [false, true]) {
  t.test(`if an onOpen hook ${fails ? 'fails' : 'finishes'} while an onError hook runs for the handlerTimeout, the session is closed`, async t => {
    const { options, waiting, release, lines } = withWaitingHook()
    const { url, sessions } = await serve(t, {}, options)
    const gate = deferred()
    const closed = deferred<string>()
    sessions
      .addHook('onOpen', async () => {
        await gate.promise
        if (fails) throw new Error('late')
      })
      .addHook('onClose', (_session, reason) => { closed.resolve(reason) })
    const opened = openStream(t, url, { skipWelcome: true })
    await waitUntil(() => waiting.size === 1, 'the timeout')
    gate.resolve()
    await nextEventLoopTick()
    release()
    t.equal((await withTimeout(opened, 'the response')).status, 503)
    t.equal(await withTimeout(closed.promise, 'the close of the session'), fails ? 'refused' : 'aborted')
    t.equal(sessions.size, 0)
    t.strictSame(lines.filter(({ err }) => err?.message === 'late').length, fails ? 1 : 0)
  })
}

/** Requests of the plugin: what they do, how they are sent, and their path in Fastify. */
const REQUESTS: ReadonlyArray<readonly [what: string, path: string, send: (url: string, sessionId: string) => Promise<object>]> = [
  ['a message', '/upward/slow', postSlow],
  ['a message of a batch', '/upward/batch/message', postSlowInBatch],
  ['a GET', '/downward', (url, sessionId) => request(`${url}/downward`, { headers: { 'x-session-id': sessionId, 'x-late': '1' } }).then(({ statusCode: status }) => ({ status }))],
  ['a DELETE', '/downward', (url, sessionId) => request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId, 'x-late': '1' } }).then(({ statusCode: status }) => ({ status }))]
]

for (const name of ['onError', 'onSend'] as const) {
  for (const [what, path, send] of REQUESTS) {
    t.test(`${what} is not handled if the handlerTimeout passes before, while an ${name} hook runs for its error`, async t => {
      const [gate, hookGate] = [deferred(), deferred()]
      let [waiting, calls, isLate] = [0, 0, true]
      const waitForGate = async (): Promise<void> => {
        waiting++
        await hookGate.promise
      }
      const { url, sessions } = await serve(t, {}, {
        fastify: { handlerTimeout: 50 },
        beforeRegister: app => {
          app.addHook('preHandler', async ({ headers, url }) => { if (isLate && url === path && (path !== '/downward' || headers['x-late'] !== undefined)) await gate.promise })
          if (name === 'onError') app.addHook('onError', waitForGate)
          else app.addHook('onSend', async (_request, { statusCode }) => { if (statusCode === 503) await waitForGate() })
        }
      })
      sessions.handle('slow', () => { calls++ }).addHook('onResume', () => { calls++ }).addHook('onClose', () => { calls++ })
      const { sessionId } = await openStream(t, url)
      const sent = send(url, sessionId)
      await waitUntil(() => waiting === 1, 'the timeout')
      gate.resolve()
      // Fastify calls the handler in a microtask.
      await nextEventLoopTick()
      hookGate.resolve()
      t.match(await withTimeout(sent, 'the response'), { status: 503 })
      t.equal(calls, 0)
      isLate = false
      t.match(await withTimeout(send(url, sessionId), 'the response to the repeat'), { status: what === 'a DELETE' ? 204 : what === 'a GET' ? 200 : 202 })
      t.equal(calls, 1)
    })
  }
}

t.test('a GET that is refused sends nothing else while an onSend hook runs for its handlerTimeout', async t => {
  const [timedOut, gate, hookGate] = [deferred(), deferred(), deferred()]
  const principal = async ({ headers }: FastifyRequest): Promise<undefined> => { if (headers['x-late'] !== undefined) await gate.promise }
  const { url } = await serve(t, { maxSessions: 1, principal }, {
    fastify: { handlerTimeout: 50 },
    beforeRegister: app => app.addHook('onSend', async (_request, { statusCode }) => {
      if (statusCode !== 503) return
      timedOut.resolve()
      await hookGate.promise
    })
  })
  await openStream(t, url)
  const refused = request(`${url}/downward`, { headers: { 'x-late': '1' } })
  await withTimeout(timedOut.promise, 'the timeout')
  gate.resolve()
  await nextEventLoopTick()
  hookGate.resolve()
  t.equal((await withTimeout(refused, 'the response')).statusCode, 503)
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

t.test('if a serializer of the app fails, messages and batches get an error', async t => {
  const { url, sessions } = await serve(t, {}, {
    beforeRegister: app => app.addHook('preHandler', async ({ method }, reply) => {
      if (method === 'POST') reply.serializer(() => { throw new Error('from the serializer') })
    })
  })
  sessions.handle('a', () => ({ b: 1 }))
  const { sessionId } = await openStream(t, url)
  for (const [body, type] of [['{}', 'application/json'], ['{"event":"a"}\n', 'application/x-ndjson']] as const) {
    const response = postMessage(url, sessionId, body, { event: 'a', headers: { 'content-type': type } })
    t.match(await withTimeout(response, 'the response'), { status: 500, body: { message: 'from the serializer' } })
  }
})
