import { once } from 'node:events'
import t from 'tap'
import { request } from 'undici'
import { assertErrorResponse } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, deleteSession } from '../support/http-client.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

const hang = async (): Promise<never> => await new Promise(() => {})

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
  t.match(reasons, [{ code: 'FST_SSE_HANDLER_TIMEOUT' }])
  t.match(await postMessage(url, sessionId, {}, { event: 'hang', key: 'k' }), { status: 504, headers: { 'idempotent-replayed': 'true' } })
  const batch = await postMessage(url, sessionId, '{"event":"hang without signal"}\n{"event":"fine"}', { headers: { 'content-type': 'application/x-ndjson' } })
  t.match(batch.body, [{ status: 504, body: { code: 'FST_SSE_HANDLER_TIMEOUT' } }, { status: 200, body: 'fine' }])
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
  const started = deferred()
  sessions.handle('hang', async () => {
    started.resolve()
    return await hang()
  }).handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  const hanging = new AbortController()
  request(`${url}/upward/hang`, { method: 'POST', headers: { 'x-session-id': sessionId }, signal: hanging.signal }).catch(() => {})
  t.teardown(() => { hanging.abort() })
  await withTimeout(started.promise, 'the handler')
  const waiting = postMessage(url, sessionId, {}, { event: 'fine' })
  const batch = postMessage(url, sessionId, '{"event":"fine"}', { headers: { 'content-type': 'application/x-ndjson' } })
  await waitForWaitingMessages(sessions, sessionId, 2)
  t.equal((await deleteSession(url, sessionId)).status, 204)
  assertErrorResponse(t, await withTimeout(waiting, 'the response to the message'), 404, 'FST_SSE_SESSION_UNKNOWN')
  t.match(await withTimeout(batch, 'the response to the batch'), { status: 200, body: [{ status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' } }] })
})

t.test('a message that waits behind a handler that does not settle gets a response when the server closes', async t => {
  const { app, sessions, url } = await serve(t, { handlerTimeout: false, closeTimeout: 2000 })
  const started = deferred()
  sessions.handle('hang', async () => {
    started.resolve()
    return await hang()
  }).handle('fine', () => 'fine')
  const { sessionId } = await openStream(t, url)
  request(`${url}/upward/hang`, { method: 'POST', headers: { 'x-session-id': sessionId } }).catch(() => {})
  await withTimeout(started.promise, 'the handler')
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
