import t from 'tap'
import { assertErrorResponse } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

t.test('responds with 400 to a message without a session id or with malformed JSON', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, '', { text: 'hi' }), 400, 'FST_SSE_SESSION_ID_MISSING')
  assertErrorResponse(t, await postMessage(url, sessionId, '{"text":'), 400, 'FST_ERR_CTP_INVALID_JSON_BODY')
  assertErrorResponse(t, await postMessage(url, sessionId, '{"__proto__":{"text":"hi"}}'), 400, 'FST_ERR_CTP_INVALID_JSON_BODY')
})

t.test('responds with the same 404 to an unknown session, a closed one and one of another principal', async t => {
  const { sessions, url } = await serve(t, { principal: ({ headers }) => String(headers['x-user']) })
  const ann = { 'x-user': 'ann' }
  const [open, ended] = [await openStream(t, url, { headers: ann }), await openStream(t, url, { headers: ann })]
  await (await sessions.find(ended.sessionId))?.close()
  const responses = [
    await postMessage(url, 'A'.repeat(24), { text: 'hi' }, { headers: ann }),
    await postMessage(url, ended.sessionId, { text: 'hi' }, { headers: ann }),
    await postMessage(url, open.sessionId, { text: 'hi' }, { headers: { 'x-user': 'bob' } })
  ]
  for (const response of responses) assertErrorResponse(t, response, 404, 'FST_SSE_SESSION_UNKNOWN')
  const [first, ...others] = responses.map(({ status, body, headers: { date, ...headers } }) => ({ status, body, headers }))
  for (const other of others) t.strictSame(other, first)
  t.equal((await postMessage(url, open.sessionId, { text: 'hi' }, { headers: ann })).status, 201)
})

t.test('responds with 404 to a message whose session is closed while it waits', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const started = deferred()
  const release = deferred()
  sessions
    .handle('end', async session => {
      started.resolve()
      await release.promise
      await session.close()
      return 'ended'
    })
    .handle('after', () => { t.fail('handled after the end') })
  const ending = postMessage(url, sessionId, {}, { event: 'end' })
  await withTimeout(started.promise, 'the handler')
  const waiting = postMessage(url, sessionId, {}, { event: 'after', key: 'k' })
  await waitForWaitingMessages(sessions, sessionId, 1)
  release.resolve()
  t.match(await ending, { status: 200, body: 'ended' })
  assertErrorResponse(t, await waiting, 404, 'FST_SSE_SESSION_UNKNOWN')
})

t.test('responds with 404 to an event without a handler', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'unknown' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'un\r\nknown' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: '' }), 400, 'FST_ERR_VALIDATION')
})

t.test('responds with 413 to a body above bodyLimit, and 415 to a content type other than JSON', async t => {
  const { url } = await serve(t, { routes: { upward: { bodyLimit: 100 } } })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'x'.repeat(100) }), 413, 'FST_ERR_CTP_BODY_TOO_LARGE')
  for (const type of ['text/plain', 'application/xml', 'application/x-www-form-urlencoded']) {
    assertErrorResponse(t, await postMessage(url, sessionId, 'text=hi', { headers: { 'content-type': type } }), 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
  }
  t.equal((await postMessage(url, sessionId, { text: 'x' }, { headers: { 'content-type': 'application/json; charset=utf-8' } })).status, 201)
})

t.test('responds with 429 with Retry-After to a message above maxWaitingMessages, and handles the others', async t => {
  const { sessions, url } = await serve(t, { maxWaitingMessages: 2 })
  const { sessionId } = await openStream(t, url)
  const release = deferred()
  let handled = 0
  sessions.handle('n', async () => {
    await release.promise
    handled++
  })
  const first = Array.from({ length: 3 }, () => postMessage(url, sessionId, {}, { event: 'n' }))
  await waitForWaitingMessages(sessions, sessionId, 2)
  const refusal = await postMessage(url, sessionId, {}, { event: 'n' })
  assertErrorResponse(t, refusal, 429, 'FST_SSE_TOO_MANY_WAITING')
  t.equal(refusal.headers['retry-after'], '1')
  t.equal(refusal.headers['x-session-connected'], 'true')
  release.resolve()
  for (const response of await Promise.all(first)) t.equal(response.status, 202)
  t.equal(handled, 3)
  t.equal((await postMessage(url, sessionId, {}, { event: 'n' })).status, 202)
})

t.test('responds with 503 while the store is unavailable, and handles the same key afterwards', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { store: store.createStore })
  const stream = await openStream(t, url)
  store.isDown = true
  const refusal = await postMessage(url, stream.sessionId, { text: 'hi' }, { key: 'k' })
  assertErrorResponse(t, refusal, 503, 'FST_SSE_STORE_UNAVAILABLE')
  t.equal(refusal.headers['retry-after'], '1')
  store.isDown = false
  const response = await postMessage(url, stream.sessionId, { text: 'hi' }, { key: 'k' })
  t.equal(response.status, 201)
  t.notOk(response.headers['idempotent-replayed'])
  t.match(await stream.waitFor(({ event }) => event === 'message'), { data: { text: 'Data received: hi' } })
})

t.test('responds with 503 if the store becomes unavailable while a message is handled, and handles the same key again', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.createStore })
  let handled = 0
  sessions.handle('down', async session => {
    store.isDown = handled++ === 0
    await session.send('handled')
    return handled
  })
  const stream = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, stream.sessionId, {}, { event: 'down', key: 'k' }), 503, 'FST_SSE_STORE_UNAVAILABLE')
  store.isDown = false
  const response = await postMessage(url, stream.sessionId, {}, { event: 'down', key: 'k' })
  t.match(response, { status: 200, body: 2 })
  t.notOk(response.headers['idempotent-replayed'])
})

t.test('responds with 503 to a message while the server closes', async t => {
  const received = deferred()
  const release = deferred()
  const { app, url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('preValidation', async ({ method }) => {
      if (method !== 'POST') return
      received.resolve()
      await release.promise
    })
  })
  const { sessionId } = await openStream(t, url)
  const response = postMessage(url, sessionId, { text: 'hi' })
  await withTimeout(received.promise, 'the message')
  const closing = app.close()
  await waitUntil(() => app.sseSessions.closing, 'the closing')
  release.resolve()
  const refusal = await response
  assertErrorResponse(t, refusal, 503, 'FST_SSE_CLOSING')
  t.equal(refusal.headers['retry-after'], '1')
  await withTimeout(closing, 'the close')
})
