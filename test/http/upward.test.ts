import t from 'tap'
import { request } from 'undici'
import { assertErrorResponse } from '../support/error-response.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

t.test('messages of a session are handled one at a time, in order of arrival', async t => {
  const next = createRandom(chooseSeed(t))
  const received: unknown[] = []
  const handled: unknown[] = []
  let running = 0
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('preHandler', async ({ body }) => { if (body !== undefined) received.push(body) })
  })
  sessions.handle('n', async (_session, data) => {
    t.equal(++running, 1)
    for (let ticks = Math.floor(next() * 4); ticks > 0; ticks--) await new Promise(setImmediate)
    handled.push(data)
    running--
  })
  const { sessionId } = await openStream(t, url)
  const responses = await Promise.all(Array.from({ length: 100 }, (_, i) => postMessage(url, sessionId, { i }, { event: 'n' })))
  t.ok(responses.every(({ status }) => status === 202))
  t.equal(handled.length, 100)
  t.strictSame(handled, received)
})

t.test('a message that a handler posts with inject is handled after that handler, and once per key', async t => {
  const { app, sessions, url } = await serve(t)
  const handled: string[] = []
  const injected = deferred()
  const inject = (event: string, sessionId: string, key?: string): void => {
    app.inject({ method: 'POST', url: `/upward/${event}`, headers: { 'x-session-id': sessionId, ...key !== undefined && { 'idempotency-key': key } } }, () => { injected.resolve() })
  }
  sessions
    .handle('outer', async ({ id }) => {
      inject('inner', id)
      await new Promise(setImmediate)
      handled.push('outer')
    })
    .handle('inner', () => { handled.push('inner') })
    .handle('keyed', ({ id }) => {
      handled.push('keyed')
      if (handled.length < 5) inject('keyed', id, 'k')
    })
  const { sessionId } = await openStream(t, url)
  await postMessage(url, sessionId, {}, { event: 'outer' })
  await withTimeout(injected.promise, 'the response to inject')
  t.strictSame(handled, ['outer', 'inner'])
  const headers = { 'x-session-id': sessionId, 'idempotency-key': 'k' }
  t.equal((await request(`${url}/upward/keyed`, { method: 'POST', headers })).statusCode, 202)
  await postMessage(url, sessionId, {}, { event: 'inner' })
  t.strictSame(handled, ['outer', 'inner', 'keyed', 'inner'])
})

t.test('a slow handler does not delay other sessions', async t => {
  const { sessions, url } = await serve(t)
  const release = deferred()
  sessions.handle('wait', () => release.promise).handle('release', () => { release.resolve() })
  const [one, other] = [await openStream(t, url), await openStream(t, url)]
  const waiting = postMessage(url, one.sessionId, {}, { event: 'wait' })
  await withTimeout(postMessage(url, other.sessionId, {}, { event: 'release' }), 'the other session')
  t.equal((await withTimeout(waiting, 'the first session')).status, 202)
})

t.test('what a handler returns is the body of a 200 response; without a result the status is 202', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  sessions
    .handle('nothing', () => {})
    .handle('object', async () => ({ a: 1 }))
    .handle('null', () => null)
    .handle('zero', () => 0)
    .handle('false', () => false)
    .handle('text', () => 'text')
    .handle('reply', (_session, _data, { reply }) => reply.code(204))
    .handle('send', (_session, _data, { reply }) => reply.code(418).header('x-custom', 'a').send({ sent: true }))
    .handle('send nothing', (_session, _data, { reply }) => { reply.send() })
    .handle('send null', (_session, _data, { reply }) => { reply.send(null) })
    .handle('send first', (_session, _data, { reply }) => {
      reply.send(null)
      return 'ignored'
    })
    .handle('code', (_session, _data, { reply }) => {
      reply.code(201).header('location', '/item')
      return { created: true }
    })
  const postEvent = async (event: string): Promise<{ status: number, body: unknown }> => {
    const { status, body, headers } = await postMessage(url, sessionId, {}, { event })
    t.equal(headers['x-session-connected'], 'true', event)
    return { status, body }
  }
  t.strictSame(await postEvent('nothing'), { status: 202, body: { status: 'accepted' } })
  t.strictSame(await postEvent('object'), { status: 200, body: { a: 1 } })
  t.strictSame(await postEvent('null'), { status: 200, body: null })
  t.strictSame(await postEvent('zero'), { status: 200, body: 0 })
  t.strictSame(await postEvent('false'), { status: 200, body: false })
  t.strictSame(await postEvent('text'), { status: 200, body: 'text' })
  t.strictSame(await postEvent('reply'), { status: 204, body: '' })
  t.strictSame(await postEvent('send'), { status: 418, body: { sent: true } })
  t.strictSame(await postEvent('send nothing'), { status: 200, body: '' })
  t.strictSame(await postEvent('send null'), { status: 200, body: null })
  t.strictSame(await postEvent('send first'), { status: 200, body: null })
  t.strictSame(await postEvent('code'), { status: 201, body: { created: true } })
  t.equal((await postMessage(url, sessionId, {}, { event: 'send' })).headers['x-custom'], 'a')
  t.equal((await postMessage(url, sessionId, {}, { event: 'code' })).headers.location, '/item')
})

t.test('a handler receives the session, the data, the request and the message', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  sessions.handle('näme/?', (session, data, { request, message }) => ({ id: session.id, data, via: request.headers['x-via'], message }))
  const { body } = await postMessage(url, sessionId, { deep: [1] }, { event: 'näme/?', key: 'k', headers: { 'x-via': 'test' } })
  t.strictSame(body, { id: sessionId, data: { deep: [1] }, via: 'test', message: { event: 'näme/?', data: { deep: [1] }, id: 'k' } })
})

t.test('the data of a message without a body is undefined', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  sessions.handle('ping', (_session, data) => ({ type: typeof data }))
  const { statusCode, body } = await request(`${url}/upward/ping`, { method: 'POST', headers: { 'x-session-id': sessionId } })
  t.equal(statusCode, 200)
  t.strictSame(await body.json(), { type: 'undefined' })
})

t.test('an error of a handler becomes the response to its message only', async t => {
  const { sessions, url } = await serve(t)
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const started = deferred()
  const release = deferred()
  sessions
    .handle('forbidden', async () => {
      started.resolve()
      await release.promise
      throw Object.assign(new Error('not allowed'), { statusCode: 403, code: 'APP_FORBIDDEN' })
    })
    .handle('throws', () => { throw new Error('handler failed') })
    .handle('throws a string', () => { throw 'a string' }) // eslint-disable-line no-throw-literal
    .handle('invalid status', () => { throw Object.assign(new Error('invalid status'), { statusCode: 42 }) })
    .handle('unserializable', () => ({ big: 1n }))
    .handle('send', session => session.send('sent'))
  const failing = postMessage(url, sessionId, {}, { event: 'forbidden' })
  await withTimeout(started.promise, 'the handler')
  const next = postMessage(url, sessionId, {}, { event: 'send' })
  release.resolve()
  assertErrorResponse(t, await failing, 403, 'APP_FORBIDDEN')
  t.equal((await next).status, 202)
  t.match(await postMessage(url, sessionId, {}, { event: 'throws' }), { status: 500, body: { statusCode: 500, message: /unexpected/ } })
  t.match(await postMessage(url, sessionId, {}, { event: 'throws a string' }), { status: 500, body: { message: /unexpected/ } })
  t.equal((await postMessage(url, sessionId, {}, { event: 'invalid status' })).status, 500)
  t.equal((await postMessage(url, sessionId, {}, { event: 'unserializable' })).status, 500)
  t.equal((await postMessage(url, sessionId, {}, { event: 'send' })).status, 202)
  await waitUntil(() => stream.events.filter(({ data }) => data === 'sent').length === 2, 'both events')
})

t.test('X-Session-Connected is on every response, and says whether the session has a stream', async t => {
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => app.addHook('onRequest', async ({ headers }) => {
      if (headers['x-forbidden'] !== undefined) throw Object.assign(new Error('unauthorized'), { statusCode: 401 })
    })
  })
  sessions.handle('throws', () => { throw new Error('handler failed') })
  const disconnected = deferred()
  sessions.addHook('onDisconnect', () => { disconnected.resolve() })
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const assertConnected = async (expected: string): Promise<void> => {
    const responses = [
      await postMessage(url, sessionId, { text: 'hi' }),
      await postMessage(url, sessionId, {}),
      await postMessage(url, sessionId, {}, { event: 'throws' }),
      await postMessage(url, sessionId, {}, { event: 'unknown' }),
      await postMessage(url, sessionId, '{'),
      await postMessage(url, sessionId, 'x', { headers: { 'content-type': 'text/plain' } }),
      await postMessage(url, sessionId, {}, { headers: { 'x-forbidden': '1' } }),
      await postMessage(url, sessionId, '{"data":{"text":"hi"}}', { headers: { 'content-type': 'application/x-ndjson' } })
    ]
    t.strictSame(responses.map(({ status }) => status), [201, 400, 500, 404, 400, 415, 401, 200])
    for (const { status, headers } of responses) t.equal(headers['x-session-connected'], expected, `the response with status ${status}`)
  }
  await assertConnected('true')
  stream.destroy()
  await withTimeout(disconnected.promise, 'the disconnect')
  await assertConnected('false')
  await openStream(t, url, { headers: { 'x-session-id': sessionId } })
  await assertConnected('true')
  t.equal((await postMessage(url, 'unknown', {})).headers['x-session-connected'], 'false')
  t.equal((await postMessage(url, '', {})).headers['x-session-connected'], 'false')
})
