import t from 'tap'
import { refused } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { waitForWaiting } from './support/waiting-messages.js'
import { signal, until, within } from '../support/wait.js'

t.test('a request without a session id, or with malformed JSON, is 400', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, '', { text: 'hi' }), 400, 'FST_SSE_SESSION_ID_MISSING')
  refused(t, await post(url, sessionId, '{"text":'), 400, 'FST_ERR_CTP_INVALID_JSON_BODY')
  refused(t, await post(url, sessionId, '{"__proto__":{"text":"hi"}}'), 400, 'FST_ERR_CTP_INVALID_JSON_BODY')
  refused(t, await post(url, sessionId, ''), 400, 'FST_ERR_CTP_EMPTY_JSON_BODY')
})

t.test('a session that is unknown, ended or another principal\'s is 404, and all three look alike', async t => {
  const { sessions, url } = await serve(t, { principal: ({ headers }) => String(headers['x-user']) })
  const mine = { 'x-user': 'me' }
  const [live, over] = [await openStream(t, url, { headers: mine }), await openStream(t, url, { headers: mine })]
  await (await sessions.find(over.sessionId))?.close()
  const answers = [
    await post(url, 'A'.repeat(24), { text: 'hi' }, { headers: mine }),
    await post(url, over.sessionId, { text: 'hi' }, { headers: mine }),
    await post(url, live.sessionId, { text: 'hi' }, { headers: { 'x-user': 'you' } })
  ]
  for (const answer of answers) refused(t, answer, 404, 'FST_SSE_SESSION_UNKNOWN')
  const [first, ...others] = answers.map(({ status, body, headers: { date, ...headers } }) => ({ status, body, headers }))
  for (const other of others) t.strictSame(other, first)
  t.equal((await post(url, live.sessionId, { text: 'hi' }, { headers: mine })).status, 201)
})

t.test('a message that waits while its session ends is 404', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const begun = signal()
  const release = signal()
  sessions
    .handle('end', async session => {
      begun.resolve()
      await release.promise
      await session.close()
      return 'ended'
    })
    .handle('after', () => { t.fail('handled after the end') })
  const ending = post(url, sessionId, {}, { event: 'end' })
  await within(begun.promise, 'the handler')
  const waiting = post(url, sessionId, {}, { event: 'after', key: 'k' })
  await waitForWaiting(sessions, sessionId, 1)
  release.resolve()
  t.match(await ending, { status: 200, body: 'ended' })
  refused(t, await waiting, 404, 'FST_SSE_SESSION_UNKNOWN')
})

t.test('an event that nobody handles is 404', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, {}, { event: 'nobody' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  refused(t, await post(url, sessionId, {}, { event: 'no\r\nbody' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  refused(t, await post(url, sessionId, {}, { event: '' }), 400, 'FST_ERR_VALIDATION')
})

t.test('a body over the limit is 413 and one that is no JSON is 415', async t => {
  const { url } = await serve(t, { routes: { upward: { bodyLimit: 100 } } })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, { text: 'x'.repeat(100) }), 413, 'FST_ERR_CTP_BODY_TOO_LARGE')
  for (const type of ['text/plain', 'application/xml', 'application/x-www-form-urlencoded']) {
    refused(t, await post(url, sessionId, 'text=hi', { headers: { 'content-type': type } }), 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
  }
  t.equal((await post(url, sessionId, { text: 'x' }, { headers: { 'content-type': 'application/json; charset=utf-8' } })).status, 201)
})

t.test('too many waiting messages are 429 with Retry-After, and the others are handled', async t => {
  const { sessions, url } = await serve(t, { maxWaitingMessages: 2 })
  const { sessionId } = await openStream(t, url)
  const release = signal()
  let handled = 0
  sessions.handle('n', async () => {
    await release.promise
    handled++
  })
  const first = Array.from({ length: 3 }, () => post(url, sessionId, {}, { event: 'n' }))
  await waitForWaiting(sessions, sessionId, 2)
  const refusal = await post(url, sessionId, {}, { event: 'n' })
  refused(t, refusal, 429, 'FST_SSE_TOO_MANY_WAITING')
  t.equal(refusal.headers['retry-after'], '1')
  t.equal(refusal.headers['x-session-connected'], 'true')
  release.resolve()
  for (const answer of await Promise.all(first)) t.equal(answer.status, 202)
  t.equal(handled, 3)
  t.equal((await post(url, sessionId, {}, { event: 'n' })).status, 202)
})

t.test('a store that does not answer is 503, and the same key is handled when it does again', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { store: store.open })
  const stream = await openStream(t, url)
  store.down = true
  const refusal = await post(url, stream.sessionId, { text: 'hi' }, { key: 'k' })
  refused(t, refusal, 503, 'FST_SSE_STORE_UNAVAILABLE')
  t.equal(refusal.headers['retry-after'], '1')
  store.down = false
  const answer = await post(url, stream.sessionId, { text: 'hi' }, { key: 'k' })
  t.equal(answer.status, 201)
  t.notOk(answer.headers['idempotent-replayed'])
  t.match(await stream.waitFor(({ event }) => event === 'message'), { data: { text: 'Data received: hi' } })
})

t.test('a store that fails while a message is handled is 503, and the same key is handled anew', async t => {
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
  const answer = await post(url, stream.sessionId, {}, { event: 'down', key: 'k' })
  t.match(answer, { status: 200, body: 2 })
  t.notOk(answer.headers['idempotent-replayed'])
})

t.test('a message that meets a closing server is 503', async t => {
  const arrived = signal()
  const release = signal()
  const { app, url } = await serve(t, {}, {
    before: app => app.addHook('preValidation', async ({ method }) => {
      if (method !== 'POST') return
      arrived.resolve()
      await release.promise
    })
  })
  const { sessionId } = await openStream(t, url)
  const answer = post(url, sessionId, { text: 'hi' })
  await within(arrived.promise, 'the message')
  const closing = app.close()
  await until(() => app.sseSessions.closing, 'the closing')
  release.resolve()
  const refusal = await answer
  refused(t, refusal, 503, 'FST_SSE_CLOSING')
  t.equal(refusal.headers['retry-after'], '1')
  await within(closing, 'the close')
})
