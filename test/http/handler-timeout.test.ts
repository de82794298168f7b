import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import { request } from 'undici'
import type { Message, Session, Sessions } from '../../lib/index.js'
import { assertErrorResponse } from '../support/error-response.js'
import { connectHttp2, http2Options, requestHttp2 } from '../support/http2.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, deleteSession } from '../support/http-client.js'
import { collectProcessWarnings } from '../support/process-warnings.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const hang = async (): Promise<never> => await new Promise(() => {})

/** Adds a handler that does not settle, and one that does. Resolves when the first one has started. */
function addHandlers (sessions: Sessions): Promise<void> {
  const started = deferred()
  sessions.handle('hang', async () => {
    started.resolve()
    return await hang()
  }).handle('fine', () => 'fine')
  return started.promise
}

t.test('a handler that does not settle gets a 504, its signal aborts, and the queue continues', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: 50 })
  const reasons: unknown[] = []
  sessions
    .handle('hang', (_session, _data, { reply: { signal } }) => {
      signal.addEventListener('abort', () => { reasons.push(signal.reason) })
      return hang()
    })
    .handle('hang without signal', hang)
    .handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  const [hanging, next] = await withTimeout(Promise.all([postMessage(url, sessionId, {}, { event: 'hang', key: 'k' }), postMessage(url, sessionId, {}, { event: 'fine' })]), 'both responses')
  assertErrorResponse(t, hanging, 504, 'FST_SSE_HANDLER_TIMEOUT')
  t.equal(next.body, 'fine')
  matchList(t, reasons, [{ code: 'FST_SSE_HANDLER_TIMEOUT' }])
  t.match(await postMessage(url, sessionId, {}, { event: 'hang', key: 'k' }), { status: 504, headers: { 'idempotent-replayed': 'true' } })
  const batch = await postMessage(url, sessionId, '{"event":"hang without signal"}\n{"event":"fine"}', { headers: { 'content-type': 'application/x-ndjson' } })
  matchList(t, batch.body, [{ status: 504, body: { code: 'FST_SSE_HANDLER_TIMEOUT' } }, { status: 200, body: 'fine' }])
})

t.test('a handler that only sends an event is not awaited', async t => {
  const order: string[] = []
  const { sessions, url } = await serve(t, { routes: { upward: { onSend: async () => { order.push('response') } } } })
  sessions.handle('say', session => {
    queueMicrotask(() => { order.push('microtask') })
    return session.send('hello')
  })
  const { sessionId } = await openStream(t, url)
  t.equal((await postMessage(url, sessionId, {}, { event: 'say' })).status, 202)
  t.strictSame(order, ['response', 'microtask'])
})

t.test('a preHandle hook that does not settle is named in the response', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: 20 })
  sessions.addHook('preHandle', hang).handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  const response = await withTimeout(postMessage(url, sessionId, {}, { event: 'fine' }), 'the response')
  assertErrorResponse(t, response, 504, 'FST_SSE_HANDLER_TIMEOUT')
  t.match(response.body, { message: /^A preHandle hook or the handler of event "fine" has not finished/ })
})

t.test('neither other hooks nor the handler run after a hook has exceeded the timeout', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: 50 })
  const gate = deferred()
  const called: unknown[] = []
  const wait = async (_session: Session, { data }: Message): Promise<void> => {
    if (isDeepStrictEqual(data, { n: 1 })) await gate.promise
  }
  sessions
    .addHook('preHandle', async (session, message) => { if (message.event === 'pay') await wait(session, message) })
    .addHook('preHandle', (_session, { event, data }) => { called.push(['preHandle', event, data]) })
    .handle('pay', (_session, data) => { called.push(['handler', data]) })
    .addHook('onMessage', wait)
    .addHook('onMessage', (_session, { data }) => { called.push(['onMessage', data]) })
  const { sessionId } = await openStream(t, url)
  for (const event of ['pay', 'other']) {
    assertErrorResponse(t, await postMessage(url, sessionId, { n: 1 }, { event }), 504, 'FST_SSE_HANDLER_TIMEOUT')
    t.equal((await postMessage(url, sessionId, { n: 2 }, { event })).status, 202)
  }
  gate.resolve()
  await nextEventLoopTick()
  t.strictSame(called, [
    ['preHandle', 'pay', { n: 2 }], ['handler', { n: 2 }],
    ['preHandle', 'other', { n: 1 }], ['preHandle', 'other', { n: 2 }], ['onMessage', { n: 2 }]
  ])
})

for (const fails of [false, true]) {
  t.test(`an async iterable that a handler returns after its timeout is closed${fails ? ', and an error of that is logged' : ''}`, async t => {
    const lines: Array<{ level: number, msg: string }> = []
    const { sessions, url } = await serve(t, { handlerTimeout: 20 }, { fastify: { logger: { level: 'warn', stream: { write: line => { lines.push(JSON.parse(line)) } } } } })
    const closed = deferred()
    sessions.handle('late', async (_session, _data, { reply: { signal } }) => {
      await once(signal, 'abort')
      const iterator: AsyncIterator<unknown> = {
        next: hang,
        return: async () => {
          closed.resolve()
          if (fails) throw new Error('return failed')
          return { done: true, value: undefined }
        }
      }
      return { [Symbol.asyncIterator]: () => iterator }
    })
    const { sessionId } = await openStream(t, url)
    assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'late' }), 504, 'FST_SSE_HANDLER_TIMEOUT')
    await withTimeout(closed.promise, 'the end of the iterable')
    if (fails) await waitUntil(() => lines.some(({ msg }) => /could not be closed/.test(msg)), 'the log line')
  })
}

t.test('a repeat gets the response that an error handler has sent to a lost connection', async t => {
  const gate = deferred()
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => {
      app.setErrorHandler(async (error: Error, _request, reply) => {
        await gate.promise
        return reply.code(422).send({ message: error.message })
      })
    }
  })
  const [started, isLost] = [deferred(), deferred()]
  sessions.handle('fail', async (_session, _data, { request: { raw: { socket } } }) => {
    started.resolve()
    if (!socket.destroyed) await once(socket, 'close')
    isLost.resolve()
    throw new Error('declined')
  })
  const { sessionId } = await openStream(t, url)
  const aborted = new AbortController()
  request(`${url}/upward/fail`, { method: 'POST', headers: { 'x-session-id': sessionId, 'idempotency-key': 'k' }, signal: aborted.signal }).catch(() => {})
  await withTimeout(started.promise, 'the handler')
  aborted.abort()
  await withTimeout(isLost.promise, 'the end of the connection')
  await nextEventLoopTick()
  gate.resolve()
  t.match(await withTimeout(postMessage(url, sessionId, undefined, { event: 'fail', key: 'k' }), 'the repeat'), { status: 422, headers: { 'idempotent-replayed': 'true' }, body: { message: 'declined' } })
})

t.test('a repeat gets the response of an error handler that was running when the client reset its HTTP/2 stream', async t => {
  const [failed, gate] = [deferred<ServerResponse>(), deferred()]
  const { sessions, port } = await serve(t, {}, {
    fastify: http2Options,
    beforeRegister: app => {
      app.setErrorHandler(async (error: Error, _request, reply) => {
        failed.resolve(reply.raw)
        await gate.promise
        return reply.code(422).send({ message: error.message })
      })
    }
  })
  sessions.handle('fail', () => { throw new Error('declined') })
  const client = connectHttp2(t, { port })
  const { headers: { 'x-session-id': sessionId } } = await requestHttp2(client, { ':path': '/downward' })
  const message = { ':method': 'POST', ':path': '/upward/fail', 'x-session-id': String(sessionId), 'idempotency-key': 'k' }
  const stream = client.request(message).on('error', () => {}).end()
  const response = await withTimeout(failed.promise, 'the error handler')
  stream.close()
  await withTimeout(once(response, 'close'), 'the end of the stream')
  gate.resolve()
  const { headers, text, ended } = await requestHttp2(client, message)
  await ended
  t.match(headers, { ':status': 422, 'idempotent-replayed': 'true' })
  t.match(text(), /declined/)
})

t.test('handle can set another time limit, or none', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: false })
  const release = deferred()
  sessions.handle('limited', { handlerTimeout: 20 }, hang)
    .handle('unlimited', { handlerTimeout: false }, () => release.promise)
    .handle('release', () => { release.resolve() })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await withTimeout(postMessage(url, sessionId, {}, { event: 'limited' }), 'the response'), 504, 'FST_SSE_HANDLER_TIMEOUT')
  const unlimited = postMessage(url, sessionId, {}, { event: 'unlimited' })
  await postMessage(url, (await openStream(t, url)).sessionId, {}, { event: 'release' })
  t.equal((await unlimited).status, 202)
  for (const handlerTimeout of [-1, 1.5, '20', 2 ** 31]) {
    t.throws(() => Reflect.apply(sessions.handle, sessions, ['x', { handlerTimeout }, () => {}]), { code: 'FST_SSE_HANDLER_INVALID', message: /handlerTimeout/ })
  }
})

t.test('an error of a handler after its time limit is logged', async t => {
  const lines: Array<{ level: number, msg: string }> = []
  const { sessions, url } = await serve(t, { handlerTimeout: 20 }, { fastify: { logger: { level: 'warn', stream: { write: line => { lines.push(JSON.parse(line)) } } } } })
  sessions.handle('late', async (_session, _data, { reply: { signal } }) => {
    await once(signal, 'abort')
    throw new Error('late')
  })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'late' }), 504, 'FST_SSE_HANDLER_TIMEOUT')
  await waitUntil(() => lines.some(({ level, msg }) => level === 40 && /time limit/.test(msg)), 'the log line')
})

t.test('messages that wait behind a handler that does not settle get a response when the session is closed', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: false })
  const started = addHandlers(sessions)
  const { sessionId } = await openStream(t, url)
  const hanging = new AbortController()
  request(`${url}/upward/hang`, { method: 'POST', headers: { 'x-session-id': sessionId }, signal: hanging.signal }).catch(() => {})
  t.teardown(() => { hanging.abort() })
  await withTimeout(started, 'the handler')
  const waiting = postMessage(url, sessionId, {}, { event: 'fine' })
  const batch = postMessage(url, sessionId, '{"event":"fine"}', { headers: { 'content-type': 'application/x-ndjson' } })
  await waitForWaitingMessages(sessions, sessionId, 2)
  t.equal((await deleteSession(url, sessionId)).status, 204)
  assertErrorResponse(t, await withTimeout(waiting, 'the response to the message'), 404, 'FST_SSE_SESSION_UNKNOWN')
  matchList(t, await withTimeout(batch, 'the response to the batch'), { status: 200, body: [{ status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' } }] })
})

t.test('a message that waits behind a handler that does not settle gets a response when the server closes', async t => {
  const { app, sessions, url } = await serve(t, { handlerTimeout: false, closeTimeout: 2000 })
  const started = addHandlers(sessions)
  const { sessionId } = await openStream(t, url)
  request(`${url}/upward/hang`, { method: 'POST', headers: { 'x-session-id': sessionId } }).catch(() => {})
  await withTimeout(started, 'the handler')
  const waiting = postMessage(url, sessionId, {}, { event: 'fine' })
  await waitForWaitingMessages(sessions, sessionId, 1)
  const closing = app.close()
  assertErrorResponse(t, await withTimeout(waiting, 'the response'), 503, 'FST_SSE_CLOSING')
  await withTimeout(closing, 'the close')
})

t.test('a session whose onOpen or onResume hook does not settle is released after its client has disconnected', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: 100 })
  const first = await openStream(t, url)
  let running = 0
  const hook = async (): Promise<never> => {
    running++
    return await hang()
  }
  sessions.addHook('onOpen', hook).addHook('onResume', hook)
  const abortController = new AbortController()
  const requests = [{}, { 'x-session-id': first.sessionId }].map(headers => request(`${url}/downward`, { headers, signal: abortController.signal }))
  await waitUntil(() => running === 2, 'both hooks to run')
  first.destroy()
  abortController.abort()
  await Promise.allSettled(requests)
  await waitUntil(() => sessions.size === 0, 'the end of both sessions')
})

t.test('an error of an onOpen hook after its client has disconnected is logged', async t => {
  const lines: string[] = []
  const { sessions, url } = await serve(t, { resumeTimeout: 100 }, { fastify: { logger: { level: 'error', stream: { write: line => { lines.push(line) } } } } })
  const [started, gate] = [deferred(), deferred()]
  sessions.addHook('onOpen', async () => {
    started.resolve()
    await gate.promise
    throw new Error('late')
  })
  const aborted = new AbortController()
  request(`${url}/downward`, { signal: aborted.signal }).catch(() => {})
  await withTimeout(started.promise, 'the hook')
  aborted.abort()
  await waitUntil(() => sessions.size === 0, 'the end of the session')
  gate.resolve()
  await waitUntil(() => lines.some(line => /after its client had disconnected/.test(line)), 'the log line')
})

const HOOKS = ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'onSend'] as const

for (const name of HOOKS) {
  t.test(`a message of a batch whose ${name} hook never calls back gets a 504, and the queue continues`, async t => {
    const lines: Array<{ level: number, err?: { code: string } }> = []
    const blocked: Array<() => void> = []
    let handled = 0
    const { sessions, url } = await serve(t, { handlerTimeout: 200 }, {
      fastify: { logger: { level: 'error', stream: { write: line => { lines.push(JSON.parse(line)) } } } },
      beforeRegister: app => {
        Reflect.apply(app.addHook, app, [name, (request: FastifyRequest, _reply: unknown, ...rest: Array<() => void>) => {
          const done = rest.at(-1) as () => void
          if (request.headers['idempotency-key'] === 'blocked' && blocked.length === 0) blocked.push(done)
          else done()
        }])
      }
    })
    sessions.handle('count', () => ++handled)
    const { sessionId } = await openStream(t, url)
    const post = (): ReturnType<typeof postMessage> => postMessage(url, sessionId, '{"event":"count","id":"blocked"}\n{"event":"count"}', { headers: { 'content-type': 'application/x-ndjson' } })
    const isHandled = name === 'onSend'
    matchList(t, (await withTimeout(post(), 'the response')).body, [
      { status: 504, body: { statusCode: 504, code: 'FST_SSE_HANDLER_TIMEOUT', message: /hook/ } },
      { status: 200, body: isHandled ? 2 : 1 }
    ])
    matchList(t, lines, [{ level: 50, err: { code: 'FST_SSE_HANDLER_TIMEOUT' } }])
    // The hook calls back late.
    blocked[0]?.()
    // A message that the handler has not received can be repeated.
    matchList(t, (await post()).body, isHandled ? [{ status: 504, replayed: true }, { body: 3 }] : [{ status: 200, body: 2 }, { body: 3 }])
    t.equal(handled, 3)
    t.equal(lines.length, 1)
  })
}

t.test('without a time limit, a message of a batch waits for a hook', async t => {
  const blocked = deferred<() => void>()
  const { url, sessions } = await serve(t, { handlerTimeout: false }, {
    beforeRegister: app => {
      app.addHook('preHandler', ({ headers }, _reply, done) => {
        if (headers['idempotency-key'] === 'blocked') blocked.resolve(done)
        else done()
      })
    }
  })
  sessions.handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  const response = postMessage(url, sessionId, '{"event":"fine","id":"blocked"}', { headers: { 'content-type': 'application/x-ndjson' } })
  const done = await withTimeout(blocked.promise, 'the hook')
  done()
  matchList(t, (await response).body, [{ status: 200, body: 'fine' }])
})

t.test('the queue continues after an error for which the error handler sends no response', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: 200 }, {
    beforeRegister: app => {
      app.setErrorHandler((error: Error, _request, reply) => {
        if (error.message !== 'unanswered') reply.send(error)
      })
    }
  })
  const started = deferred()
  sessions
    .handle('fail', () => {
      started.resolve()
      throw new Error('unanswered')
    })
    .handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  const failed = postMessage(url, sessionId, undefined, { event: 'fail', key: 'k' })
  await withTimeout(started.promise, 'the handler')
  t.equal((await withTimeout(postMessage(url, sessionId, {}, { event: 'fine' }), 'the response')).body, 'fine')
  assertErrorResponse(t, await withTimeout(failed, 'the response'), 504, 'FST_SSE_HANDLER_TIMEOUT')
  assertErrorResponse(t, await withTimeout(postMessage(url, sessionId, undefined, { event: 'fail', key: 'k' }), 'the repeat'), 504, 'FST_SSE_HANDLER_TIMEOUT')
  matchList(t, (await withTimeout(postMessage(url, sessionId, '{"event":"fail"}\n{"event":"fine"}', { headers: { 'content-type': 'application/x-ndjson' } }), 'the batch')).body, [{ status: 504 }, { body: 'fine' }])
})

const REPLY_SENT = 'FST_ERR_REP_ALREADY_SENT'

for (const [what, add, logged] of [
  ['error handler', (app, wait) => { app.setErrorHandler(async (error: Error) => { await wait(); return error }) }, REPLY_SENT],
  ['onError hook', (app, wait) => { app.addHook('onError', wait) }, REPLY_SENT],
  ['onSend hook', (app, wait) => { app.addHook('onSend', async ({ method }) => { if (method === 'POST') await wait() }) }, undefined]
] satisfies Array<[string, (app: FastifyInstance, wait: () => Promise<void>) => void, string | undefined]>) {
  t.test(`a message gets a 504 if the ${what} does not finish in time after an error, and what it sends later is ignored`, async t => {
    const [gate, finished] = [deferred(), deferred()]
    const codes: unknown[] = []
    const { sessions, url } = await serve(t, { handlerTimeout: 50 }, {
      fastify: { logger: { level: 'warn', stream: { write: line => { codes.push((JSON.parse(line) as { err?: { code?: string } }).err?.code) } } } },
      beforeRegister: app => {
        app.addHook('onRequest', async (_request, reply) => { reply.header('x-early', 'yes') })
        add(app, async () => {
          await gate.promise
          finished.resolve()
        })
      }
    })
    sessions.handle('fail', () => { throw new Error('failed') })
    const { sessionId } = await openStream(t, url)
    const response = await withTimeout(postMessage(url, sessionId, {}, { event: 'fail' }), 'the response')
    assertErrorResponse(t, response, 504, 'FST_SSE_HANDLER_TIMEOUT')
    t.equal(response.headers['x-early'], 'yes')
    gate.resolve()
    await withTimeout(finished.promise, 'the late end')
    await nextEventLoopTick()
    t.equal(codes.includes(REPLY_SENT), logged !== undefined)
    t.equal((await postMessage(url, sessionId, {}, { event: 'fail' })).status, 500)
  })
}

t.test('a message whose validator does not settle gets a 504, and the queue continues', async t => {
  const { sessions, url } = await serve(t, { handlerTimeout: 200 }, { beforeRegister: app => { Reflect.apply(app.setValidatorCompiler, app, [() => hang]) } })
  sessions.handle('validate', { schema: {} }, () => 'valid').handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  const [validated, next] = await withTimeout(Promise.all([postMessage(url, sessionId, {}, { event: 'validate' }), postMessage(url, sessionId, {}, { event: 'fine' })]), 'both responses')
  assertErrorResponse(t, validated, 504, 'FST_SSE_HANDLER_TIMEOUT')
  t.equal(next.body, 'fine')
})

t.test('a logger that throws does not end the process when a handler fails after its time limit', async t => {
  const isLogged = deferred()
  const { sessions, url } = await serve(t, { handlerTimeout: 20 })
  sessions.handle('late', async (_session, _data, { reply: { signal }, request: { log } }) => {
    log.warn = () => {
      isLogged.resolve()
      throw new Error('from the logger')
    }
    await once(signal, 'abort')
    throw new Error('late')
  })
  const { sessionId } = await openStream(t, url)
  const warnings = collectProcessWarnings(t)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'late' }), 504, 'FST_SSE_HANDLER_TIMEOUT')
  await withTimeout(isLogged.promise, 'the log line')
  await waitUntil(() => warnings.length > 0, 'the warning')
})
