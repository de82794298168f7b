import t from 'tap'
import { refused } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { signal, until, within } from '../support/wait.js'

t.test('answers 400 to a message without a session id or with malformed JSON', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, '', { text: 'hi' }), 400, 'FST_SSE_SESSION_ID_MISSING')
  refused(t, await post(url, sessionId, '{"text":'), 400, 'FST_ERR_CTP_INVALID_JSON_BODY')
  refused(t, await post(url, sessionId, '{"__proto__":{"text":"hi"}}'), 400, 'FST_ERR_CTP_INVALID_JSON_BODY')
  refused(t, await post(url, sessionId, ''), 400, 'FST_ERR_CTP_EMPTY_JSON_BODY')
})

t.test('answers 404 with the same response to an unknown session, an ended one and one of another principal', async t => {
  const { sessions, url } = await serve(t, { principal: ({ headers }) => String(headers['x-user']) })
  const ann = { 'x-user': 'ann' }
  const [open, ended] = [await openStream(t, url, { headers: ann }), await openStream(t, url, { headers: ann })]
  await (await sessions.find(ended.sessionId))?.close()
  const responses = [
    await post(url, 'A'.repeat(24), { text: 'hi' }, { headers: ann }),
    await post(url, ended.sessionId, { text: 'hi' }, { headers: ann }),
    await post(url, open.sessionId, { text: 'hi' }, { headers: { 'x-user': 'bob' } })
  ]
  for (const response of responses) refused(t, response, 404, 'FST_SSE_SESSION_UNKNOWN')
  const [first, ...others] = responses.map(({ status, body, headers: { date, ...headers } }) => ({ status, body, headers }))
  for (const other of others) t.strictSame(other, first)
  t.equal((await post(url, open.sessionId, { text: 'hi' }, { headers: ann })).status, 201)
})

t.test('answers 404 to a message whose session ends while it waits', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const started = signal()
  const release = signal()
  sessions
    .handle('end', async session => {
      started.resolve()
      await release.promise
      await session.close()
      return 'ended'
    })
    .handle('after', () => { t.fail('handled after the end') })
  const ending = post(url, sessionId, {}, { event: 'end' })
  await within(started.promise, 'the handler')
  const waiting = post(url, sessionId, {}, { event: 'after', key: 'k' })
  await waitForWaitingMessages(sessions, sessionId, 1)
  release.resolve()
  t.match(await ending, { status: 200, body: 'ended' })
  refused(t, await waiting, 404, 'FST_SSE_SESSION_UNKNOWN')
})

t.test('answers 404 to an event without a handler', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, {}, { event: 'unknown' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  refused(t, await post(url, sessionId, {}, { event: 'un\r\nknown' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  refused(t, await post(url, sessionId, {}, { event: '' }), 400, 'FST_ERR_VALIDATION')
})

t.test('answers 413 to a body above bodyLimit, and 415 to a content type other than JSON', async t => {
  const { url } = await serve(t, { routes: { upward: { bodyLimit: 100 } } })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, { text: 'x'.repeat(100) }), 413, 'FST_ERR_CTP_BODY_TOO_LARGE')
  for (const type of ['text/plain', 'application/xml', 'application/x-www-form-urlencoded']) {
    refused(t, await post(url, sessionId, 'text=hi', { headers: { 'content-type': type } }), 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
  }
  t.equal((await post(url, sessionId, { text: 'x' }, { headers: { 'content-type': 'application/json; charset=utf-8' } })).status, 201)
})

t.test('answers 429 with Retry-After to a message above maxWaitingMessages, and handles the others', async t => {
  const { sessions, url } = await serve(t, { maxWaitingMessages: 2 })
  const { sessionId } = await openStream(t, url)
  const release = signal()
  let handled = 0
  sessions.handle('n', async () => {
    await release.promise
    handled++
  })
  const first = Array.from({ length: 3 }, () => post(url, sessionId, {}, { event: 'n' }))
  await waitForWaitingMessages(sessions, sessionId, 2)
  const refusal = await post(url, sessionId, {}, { event: 'n' })
  refused(t, refusal, 429, 'FST_SSE_TOO_MANY_WAITING')
  t.equal(refusal.headers['retry-after'], '1')
  t.equal(refusal.headers['x-session-connected'], 'true')
  release.resolve()
  for (const response of await Promise.all(first)) t.equal(response.status, 202)
  t.equal(handled, 3)
  t.equal((await post(url, sessionId, {}, { event: 'n' })).status, 202)
})

t.test('answers 503 while the store is unavailable, and handles the same key afterwards', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { store: store.open })
  const stream = await openStream(t, url)
  store.down = true
  const refusal = await post(url, stream.sessionId, { text: 'hi' }, { key: 'k' })
  refused(t, refusal, 503, 'FST_SSE_STORE_UNAVAILABLE')
  t.equal(refusal.headers['retry-after'], '1')
  store.down = false
  const response = await post(url, stream.sessionId, { text: 'hi' }, { key: 'k' })
  t.equal(response.status, 201)
  t.notOk(response.headers['idempotent-replayed'])
  t.match(await stream.waitFor(({ event }) => event === 'message'), { data: { text: 'Data received: hi' } })
})

t.test('answers 503 if the store becomes unavailable while a message is handled, and handles the same key again', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.open })
  let handled = 0
  sessions.handle('down', async session => {
    store.down = handled++ === 0
    await session.send('handled')
    return handled
  })
  const stream = await openStream(t, url)
  refused(t, await post(url, stream.sessionId, {}, { event: 'down', key: 'k' }), 503, 'FST_SSE_STORE_UNAVAILABLE')
  store.down = false
  const response = await post(url, stream.sessionId, {}, { event: 'down', key: 'k' })
  t.match(response, { status: 200, body: 2 })
  t.notOk(response.headers['idempotent-replayed'])
})

t.test('answers 503 to a message while the server closes', async t => {
  const received = signal()
  const release = signal()
  const { app, url } = await serve(t, {}, {
    before: app => app.addHook('preValidation', async ({ method }) => {
      if (method !== 'POST') return
      received.resolve()
      await release.promise
    })
  })
  const { sessionId } = await openStream(t, url)
  const response = post(url, sessionId, { text: 'hi' })
  await within(received.promise, 'the message')
  const closing = app.close()
  await until(() => app.sseSessions.closing, 'the closing')
  release.resolve()
  const refusal = await response
  refused(t, refusal, 503, 'FST_SSE_CLOSING')
  t.equal(refusal.headers['retry-after'], '1')
  await within(closing, 'the close')
})
