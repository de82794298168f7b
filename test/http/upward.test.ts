import t from 'tap'
import { request } from 'undici'
import { refused } from '../support/error-response.js'
import { random, seedOf } from '../support/random.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

t.test('messages of a session are handled one at a time in the order of their arrival', async t => {
  const next = random(seedOf(t))
  const arrived: unknown[] = []
  const handled: unknown[] = []
  let running = 0
  const { sessions, url } = await serve(t, {}, {
    before: app => app.addHook('preHandler', async ({ body }) => { if (body !== undefined) arrived.push(body) })
  })
  sessions.handle('n', async (_session, data) => {
    t.equal(++running, 1)
    for (let turns = Math.floor(next() * 4); turns > 0; turns--) await new Promise(setImmediate)
    handled.push(data)
    running--
  })
  const { sessionId } = await openStream(t, url)
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => post(url, sessionId, { i }, { event: 'n' })))
  t.ok(answers.every(({ status }) => status === 202))
  t.equal(handled.length, 100)
  t.strictSame(handled, arrived)
})

t.test('a message that comes from inside a handler, by inject, is handled when that is done, and once a key', async t => {
  const { app, sessions, url } = await serve(t)
  const done: string[] = []
  const answered = signal()
  const inject = (event: string, sessionId: string, key?: string): void => {
    app.inject({ method: 'POST', url: `/upward/${event}`, headers: { 'x-session-id': sessionId, ...key !== undefined && { 'idempotency-key': key } } }, () => { answered.resolve() })
  }
  sessions
    .handle('outer', async ({ id }) => {
      inject('inner', id)
      await new Promise(setImmediate)
      done.push('outer')
    })
    .handle('inner', () => { done.push('inner') })
    .handle('keyed', ({ id }) => {
      done.push('keyed')
      if (done.length < 5) inject('keyed', id, 'k')
    })
  const { sessionId } = await openStream(t, url)
  await post(url, sessionId, {}, { event: 'outer' })
  await within(answered.promise, 'the answer to inject')
  t.strictSame(done, ['outer', 'inner'])
  const headers = { 'x-session-id': sessionId, 'idempotency-key': 'k' }
  t.equal((await request(`${url}/upward/keyed`, { method: 'POST', headers })).statusCode, 202)
  await post(url, sessionId, {}, { event: 'inner' })
  t.strictSame(done, ['outer', 'inner', 'keyed', 'inner'])
})

t.test('a handler that takes long delays no other session', async t => {
  const { sessions, url } = await serve(t)
  const release = signal()
  sessions.handle('wait', () => release.promise).handle('go', () => { release.resolve() })
  const [one, other] = [await openStream(t, url), await openStream(t, url)]
  const waiting = post(url, one.sessionId, {}, { event: 'wait' })
  await within(post(url, other.sessionId, {}, { event: 'go' }), 'the other session')
  t.equal((await within(waiting, 'the first session')).status, 202)
})

t.test('what a handler returns is the body of a 200, and nothing is a 202', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  sessions
    .handle('nothing', () => {})
    .handle('object', async () => ({ a: 1 }))
    .handle('null', () => null)
    .handle('zero', () => 0)
    .handle('false', () => false)
    .handle('text', () => 'as it is')
    .handle('reply', (_session, _data, { reply }) => reply.code(204))
    .handle('send', (_session, _data, { reply }) => reply.code(418).header('x-tea', 'pot').send({ short: 'stout' }))
    .handle('send nothing', (_session, _data, { reply }) => { reply.send() })
    .handle('send null', (_session, _data, { reply }) => { reply.send(null) })
    .handle('send first', (_session, _data, { reply }) => {
      reply.send(null)
      return 'too late'
    })
    .handle('code', (_session, _data, { reply }) => {
      reply.code(201).header('location', '/it')
      return { made: true }
    })
  const answer = async (event: string): Promise<{ status: number, body: unknown }> => {
    const { status, body, headers } = await post(url, sessionId, {}, { event })
    t.equal(headers['x-session-connected'], 'true', event)
    return { status, body }
  }
  t.strictSame(await answer('nothing'), { status: 202, body: { status: 'accepted' } })
  t.strictSame(await answer('object'), { status: 200, body: { a: 1 } })
  t.strictSame(await answer('null'), { status: 200, body: null })
  t.strictSame(await answer('zero'), { status: 200, body: 0 })
  t.strictSame(await answer('false'), { status: 200, body: false })
  t.strictSame(await answer('text'), { status: 200, body: 'as it is' })
  t.strictSame(await answer('reply'), { status: 204, body: '' })
  t.strictSame(await answer('send'), { status: 418, body: { short: 'stout' } })
  t.strictSame(await answer('send nothing'), { status: 200, body: '' })
  t.strictSame(await answer('send null'), { status: 200, body: null })
  t.strictSame(await answer('send first'), { status: 200, body: null })
  t.strictSame(await answer('code'), { status: 201, body: { made: true } })
  t.equal((await post(url, sessionId, {}, { event: 'send' })).headers['x-tea'], 'pot')
  t.equal((await post(url, sessionId, {}, { event: 'code' })).headers.location, '/it')
})

t.test('a handler is given the session, the data, the request and the message', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  sessions.handle('näme/?', (session, data, { request, message }) => ({ id: session.id, data, via: request.headers['x-via'], message }))
  const { body } = await post(url, sessionId, { deep: [1] }, { event: 'näme/?', key: 'k', headers: { 'x-via': 'me' } })
  t.strictSame(body, { id: sessionId, data: { deep: [1] }, via: 'me', message: { event: 'näme/?', data: { deep: [1] }, id: 'k' } })
})

t.test('a message without a body has no data', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  sessions.handle('ping', (_session, data) => ({ type: typeof data }))
  const { statusCode, body } = await request(`${url}/upward/ping`, { method: 'POST', headers: { 'x-session-id': sessionId } })
  t.equal(statusCode, 200)
  t.strictSame(await body.json(), { type: 'undefined' })
})

t.test('a handler that throws gives the error to that POST alone', async t => {
  const { sessions, url } = await serve(t)
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const begun = signal()
  const release = signal()
  sessions
    .handle('throw', async () => {
      begun.resolve()
      await release.promise
      throw Object.assign(new Error('not you'), { statusCode: 403, code: 'APP_NOT_YOU' })
    })
    .handle('bug', () => { throw new Error('boom') })
    .handle('no error', () => { throw 'a string' }) // eslint-disable-line no-throw-literal
    .handle('odd', () => { throw Object.assign(new Error('odd'), { statusCode: 42 }) })
    .handle('unserializable', () => ({ big: 1n }))
    .handle('fine', session => session.send('fine'))
  const thrown = post(url, sessionId, {}, { event: 'throw' })
  await within(begun.promise, 'the handler')
  const after = post(url, sessionId, {}, { event: 'fine' })
  release.resolve()
  refused(t, await thrown, 403, 'APP_NOT_YOU')
  t.equal((await after).status, 202)
  t.match(await post(url, sessionId, {}, { event: 'bug' }), { status: 500, body: { statusCode: 500, message: 'boom' } })
  t.match(await post(url, sessionId, {}, { event: 'no error' }), { status: 500, body: { message: /a string/ } })
  t.equal((await post(url, sessionId, {}, { event: 'odd' })).status, 500)
  t.equal((await post(url, sessionId, {}, { event: 'unserializable' })).status, 500)
  t.equal((await post(url, sessionId, {}, { event: 'fine' })).status, 202)
  await until(() => stream.events.filter(({ data }) => data === 'fine').length === 2, 'both that are fine')
})

t.test('every answer tells whether the session has a stream', async t => {
  const { sessions, url } = await serve(t, {}, {
    before: app => app.addHook('onRequest', async ({ headers }) => {
      if (headers['x-forbidden'] !== undefined) throw Object.assign(new Error('no'), { statusCode: 401 })
    })
  })
  sessions.handle('bug', () => { throw new Error('boom') })
  const disconnected = signal()
  sessions.addHook('onDisconnect', () => { disconnected.resolve() })
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const tell = async (expected: string): Promise<void> => {
    const answers = [
      await post(url, sessionId, { text: 'hi' }),
      await post(url, sessionId, {}),
      await post(url, sessionId, {}, { event: 'bug' }),
      await post(url, sessionId, {}, { event: 'nobody' }),
      await post(url, sessionId, '{'),
      await post(url, sessionId, 'x', { headers: { 'content-type': 'text/plain' } }),
      await post(url, sessionId, {}, { headers: { 'x-forbidden': '1' } }),
      await post(url, sessionId, '{"data":{"text":"hi"}}', { headers: { 'content-type': 'application/x-ndjson' } })
    ]
    t.strictSame(answers.map(({ status }) => status), [201, 400, 500, 404, 400, 415, 401, 200])
    for (const { status, headers } of answers) t.equal(headers['x-session-connected'], expected, `on a ${status}`)
  }
  await tell('true')
  stream.destroy()
  await within(disconnected.promise, 'the disconnect')
  await tell('false')
  await openStream(t, url, { headers: { 'x-session-id': sessionId } })
  await tell('true')
  t.equal((await post(url, 'unknown', {})).headers['x-session-connected'], 'false')
  t.equal((await post(url, '', {})).headers['x-session-connected'], 'false')
})
