import { inspect } from 'node:util'
import t from 'tap'
import { assertErrorResponse } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, type HttpResponse, type ClientStream } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** A `resumeTimeout` in which a client can reconnect even on a slow machine. */
const RESUME_TIMEOUT = 1000

/** Converts the response of a stream that was refused. */
async function toResponse (stream: ClientStream): Promise<HttpResponse> {
  await withTimeout(stream.ended, 'the end')
  return { status: stream.status, headers: stream.headers, body: JSON.parse(stream.text()) }
}

t.test('onOpen hooks run in order, and what they return is in the welcome event', async t => {
  const { sessions, url } = await serve(t)
  const order: string[] = []
  sessions
    .addHook('onOpen', async (session, request) => {
      order.push(`first ${request.headers['x-name']?.toString()}`)
      await session.update({ nick: 'a' })
      await new Promise(setImmediate)
      return { a: 1, b: 1, sessionId: 'forged', resumed: true }
    })
    .addHook('onOpen', () => { order.push('second') })
    .addHook('onOpen', async ({ data }) => {
      order.push('third')
      return { b: 2, nick: data.nick }
    })
  const { events, sessionId } = await openStream(t, url, { headers: { 'x-name': 'me' } })
  t.strictSame(events[0]?.data, { sessionId, resumed: false, heartbeatInterval: 15_000, a: 1, b: 2, nick: 'a' })
  t.strictSame(order, ['first me', 'second', 'third'])
})

t.test('events that an onOpen hook sends follow the welcome event', async t => {
  const { sessions, url } = await serve(t)
  sessions.addHook('onOpen', async session => {
    await session.join('room')
    await session.send('from the hook')
    await sessions.channel('room').send('to the room')
  })
  const stream = await openStream(t, url)
  await stream.waitFor(({ data }) => data === 'to the room')
  matchList(t, stream.events.map(({ data }) => data), [{ resumed: false }, 'from the hook', 'to the room'])
})

t.test('the welcome event has no default text if the app has hooks or a handler of its own', async t => {
  for (const customize of [
    ({ sessions }) => { sessions.addHook('onOpen', () => {}) },
    ({ sessions }) => { sessions.addHook('onMessage', () => {}) },
    ({ sessions }) => { sessions.handle('message', () => {}) }
  ] as Array<(served: Awaited<ReturnType<typeof serve>>) => void>) {
    const served = await serve(t, { heartbeatInterval: false })
    customize(served)
    const { events, sessionId } = await openStream(t, served.url)
    t.strictSame(events[0]?.data, { sessionId, resumed: false })
  }
})

t.test('an error of an onOpen hook refuses the session and becomes the response', async t => {
  const { sessions, url } = await serve(t)
  const closed: unknown[] = []
  let thrown: unknown
  sessions
    .addHook('onOpen', () => { throw thrown })
    .addHook('onOpen', () => { t.fail('a hook ran after one that threw') })
    .addHook('onClose', (session, reason) => { closed.push([session.closed, reason]) })
  thrown = Object.assign(new Error('not allowed'), { statusCode: 403, code: 'APP_FORBIDDEN' })
  assertErrorResponse(t, await toResponse(await openStream(t, url, { skipWelcome: true })), 403, 'APP_FORBIDDEN')
  for (const value of ['a string', undefined, { statusCode: 200 }, Object.create(null)]) {
    thrown = value
    const response = await toResponse(await openStream(t, url, { skipWelcome: true }))
    t.match(response, { status: 500, body: { statusCode: 500 } }, `for ${inspect(value)}`)
  }
  t.strictSame(closed, Array.from({ length: 5 }, () => [true, 'refused']))
  t.equal(sessions.size, 0)
})

t.test('responds with 500 if what onOpen or onResume returns is not serializable as JSON', async t => {
  const { sessions, url } = await serve(t)
  let returned: object = { n: 1n }
  sessions.addHook('onOpen', () => returned).addHook('onResume', () => ({ n: 1n }))
  assertErrorResponse(t, await toResponse(await openStream(t, url, { skipWelcome: true })), 500, 'FST_SSE_DATA_INVALID')
  t.equal(sessions.size, 0)
  returned = {}
  const stream = await openStream(t, url)
  const headers = { 'x-session-id': stream.sessionId }
  assertErrorResponse(t, await toResponse(await openStream(t, url, { skipWelcome: true, headers })), 500, 'FST_SSE_DATA_INVALID')
  await (await sessions.find(stream.sessionId))?.send('after the refusal')
  t.ok(await stream.waitFor(({ data }) => data === 'after the refusal'))
})

t.test('sends only a retry delay if the store becomes unavailable while onOpen runs', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.createStore, retry: 7, resumeTimeout: 50 })
  sessions.addHook('onOpen', async session => {
    store.isDown = true
    await session.send('never')
  })
  const stream = await openStream(t, url, { skipWelcome: true })
  await withTimeout(stream.ended, 'the end')
  t.strictSame([stream.status, stream.text()], [200, 'retry: 7\n\n'])
  // The plugin cannot close the session either, so it expires.
  await waitUntil(() => sessions.size === 0, 'the session to expire')
  const second = await openStream(t, url, { skipWelcome: true })
  await withTimeout(second.ended, 'the end')
  t.strictSame([second.status, second.text()], [200, 'retry: 7\n\n'])
  t.equal(sessions.size, 0)
})

t.test('a session does not expire while onOpen runs, even after the resumeTimeout', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: 1 })
  const expired = deferred()
  let opened = 0
  sessions
    .addHook('onOpen', async () => { if (opened++ === 0) await expired.promise })
    .addHook('onClose', () => { expired.resolve() })
  const opening = openStream(t, url)
  await waitUntil(() => opened === 1, 'the first session')
  // The hook of the first session returns when the second one expires.
  const second = await openStream(t, url)
  second.destroy()
  const { sessionId } = await withTimeout(opening, 'the first stream')
  t.equal((await sessions.find(sessionId))?.connected, true)
})

t.test('onResume hooks run when a client reconnects, and their data is in its welcome event', async t => {
  const { sessions, url } = await serve(t)
  const resumed: unknown[] = []
  sessions.addHook('onResume', async (session, request) => {
    resumed.push([session.id, request.headers['x-case'], session.connected])
    if (request.headers['x-case'] === 'refused') throw Object.assign(new Error('not allowed'), { statusCode: 403, code: 'APP_FORBIDDEN' })
    return { missed: 3, resumed: false }
  })
  const first = await openStream(t, url)
  const headers = { 'x-session-id': first.sessionId }
  t.notOk('missed' in Object(first.events[0]?.data))
  const replacing = await openStream(t, url, { headers: { ...headers, 'x-case': 'replacing' } })
  t.strictSame(replacing.events[0]?.data, { sessionId: first.sessionId, resumed: true, heartbeatInterval: 15_000, missed: 3 })
  assertErrorResponse(t, await toResponse(await openStream(t, url, { headers: { ...headers, 'x-case': 'refused' }, skipWelcome: true })), 403, 'APP_FORBIDDEN')
  t.equal((await sessions.find(first.sessionId))?.connected, true, 'a refused request does not replace the current stream')
  replacing.destroy()
  await waitUntil(async () => (await sessions.find(first.sessionId))?.connected === false, 'the disconnect')
  await openStream(t, url, { headers: { ...headers, 'x-case': 'reconnecting' } })
  t.strictSame(resumed, [[first.sessionId, 'replacing', true], [first.sessionId, 'refused', true], [first.sessionId, 'reconnecting', false]])
})

t.test('a session does not expire while onResume runs, and expires when the resumed stream is lost', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: RESUME_TIMEOUT })
  const started = deferred()
  const release = deferred()
  const closed = deferred<string>()
  sessions
    .addHook('onResume', async () => {
      started.resolve()
      await release.promise
    })
    .addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await waitUntil(async () => (await sessions.find(sessionId))?.connected === false, 'the disconnect')
  const headers = { 'x-session-id': sessionId }
  const resuming = openStream(t, url, { headers })
  await withTimeout(started.promise, 'onResume')
  // Another session that was opened and lost later expires, so the resumeTimeout has passed.
  const other = await openStream(t, url)
  other.destroy()
  t.equal(await withTimeout(closed.promise, 'the other session to expire'), 'expired')
  t.equal(await sessions.find(other.sessionId), undefined)
  release.resolve()
  const resumed = await resuming
  t.match(resumed.events[0]?.data, { resumed: true })
  t.equal((await sessions.find(sessionId))?.connected, true)
  resumed.destroy()
  await waitUntil(() => sessions.size === 0, 'the session to expire')
})

t.test('when two requests resume a session at the same time and one is refused, the session does not expire', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: RESUME_TIMEOUT })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await waitUntil(async () => (await sessions.find(sessionId))?.connected === false, 'the disconnect')
  const started = deferred()
  const release = deferred()
  const expired = deferred()
  sessions
    .addHook('onResume', async (_session, { headers }) => {
      if (headers['x-case'] === 'refused') throw new Error('hook failed')
      started.resolve()
      await release.promise
    })
    .addHook('onClose', () => { expired.resolve() })
  const resuming = openStream(t, url, { headers: { 'x-session-id': sessionId } })
  await withTimeout(started.promise, 'onResume')
  await openStream(t, url, { headers: { 'x-session-id': sessionId, 'x-case': 'refused' }, skipWelcome: true })
  release.resolve()
  await resuming
  const other = await openStream(t, url)
  other.destroy()
  await withTimeout(expired.promise, 'the other session to expire')
  t.equal((await sessions.find(sessionId))?.connected, true)
  t.equal(await sessions.find(other.sessionId), undefined)
})

t.test('onMessage hooks run in order until one returns a value or sends', async t => {
  const { sessions, url } = await serve(t)
  const ran: string[] = []
  sessions
    .addHook('onMessage', (_session, { event, data, id }) => { ran.push(`${event} ${JSON.stringify(data)} ${id}`) })
    .addHook('onMessage', async (_session, { event }) => event === 'returns' ? { by: 'second' } : undefined)
    .addHook('onMessage', (_session, { event }, request, reply) => { if (event === 'sends') reply.code(203).send({ via: request.headers['x-via'] }) })
    .addHook('onMessage', (_session, { event }) => {
      ran.push('last')
      if (event === 'throws') throw Object.assign(new Error('conflict'), { statusCode: 409, code: 'APP_CONFLICT' })
    })
    .handle('handled', () => 'handled')
  const { sessionId } = await openStream(t, url)
  t.match(await postMessage(url, sessionId, { n: 1 }, { event: 'returns', key: 'k' }), { status: 200, body: { by: 'second' } })
  t.match(await postMessage(url, sessionId, 2, { event: 'sends', headers: { 'x-via': 'test' } }), { status: 203, body: { via: 'test' } })
  t.strictSame(ran, ['returns {"n":1} k', 'sends 2 undefined'])
  t.match(await postMessage(url, sessionId, 3, { event: 'nothing' }), { status: 202, body: { status: 'accepted' } })
  t.match(await postMessage(url, sessionId, 4), { status: 202 }, 'with hooks there is no echo')
  assertErrorResponse(t, await postMessage(url, sessionId, 5, { event: 'throws' }), 409, 'APP_CONFLICT')
  t.strictSame(ran.slice(2), ['nothing 3 undefined', 'last', 'message 4 undefined', 'last', 'throws 5 undefined', 'last'])
  t.match(await postMessage(url, sessionId, 6, { event: 'handled' }), { body: 'handled' })
  t.equal(ran.length, 8, 'no hook runs for an event that has a handler')
})

t.test('onDisconnect runs once when the stream is lost, and onClose once when the session is closed', async t => {
  const { sessions, url } = await serve(t)
  const calls: unknown[] = []
  sessions
    .addHook('onDisconnect', session => { calls.push(['onDisconnect', session.id, session.connected, session.closed]) })
    .addHook('onClose', (session, reason) => { calls.push(['onClose', session.id, session.closed, reason]) })
  const [lost, closed] = [await openStream(t, url), await openStream(t, url)]
  lost.destroy()
  await waitUntil(() => calls.length > 0, 'the disconnect')
  await (await sessions.find(lost.sessionId))?.close('while disconnected')
  await (await sessions.find(closed.sessionId))?.close('while connected')
  await withTimeout(closed.ended, 'the end')
  await waitUntil(() => sessions.stats().streams === 0, 'the stream to go')
  t.strictSame(calls, [
    ['onDisconnect', lost.sessionId, false, false],
    ['onClose', lost.sessionId, true, 'while disconnected'],
    ['onClose', closed.sessionId, true, 'while connected']
  ])
})

t.test('close waits for the onClose hooks', async t => {
  const { sessions, url } = await serve(t)
  let done = 0
  sessions.addHook('onClose', async () => {
    await new Promise(setImmediate)
    done++
  })
  const { sessionId } = await openStream(t, url)
  await (await sessions.find(sessionId))?.close()
  t.equal(done, 1)
})

t.test('an error of onDisconnect or onClose is logged with the short session id, and the next hook runs', async t => {
  const lines: Array<Record<string, unknown>> = []
  const { sessions, url } = await serve(t, {}, { fastify: { logger: { level: 'error', stream: { write: (line: string) => { lines.push(JSON.parse(line) as Record<string, unknown>) } } } } })
  const ran: string[] = []
  sessions
    .addHook('onDisconnect', () => { throw new Error('sync') })
    .addHook('onDisconnect', () => { ran.push('onDisconnect') })
    .addHook('onClose', async () => { throw new Error('async') })
    .addHook('onClose', () => { ran.push('onClose') })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await waitUntil(() => ran.length === 1, 'the second onDisconnect hook')
  await (await sessions.find(sessionId))?.close()
  t.strictSame(ran, ['onDisconnect', 'onClose'])
  matchList(t, lines, [
    { msg: 'the onDisconnect hook failed', err: { message: 'sync' }, session: sessionId.slice(0, 6) },
    { msg: 'the onClose hook failed', err: { message: 'async' }, session: sessionId.slice(0, 6) }
  ])
  t.notMatch(JSON.stringify(lines), sessionId)
})

t.test('invalid hooks are rejected', async t => {
  const { sessions } = await serve(t)
  const code = 'FST_SSE_HOOK_INVALID'
  for (const name of ['onclose', 'onRequest', 'toString', '__proto__', '', 7, undefined]) {
    t.throws(() => Reflect.apply(sessions.addHook, sessions, [name, () => {}]), { code }, String(name))
  }
  for (const hook of [undefined, null, 'onOpen', {}]) {
    t.throws(() => Reflect.apply(sessions.addHook, sessions, ['onOpen', hook]), { code })
  }
})

t.test('preHandle hooks run before each handler, and an error of one is the response', async t => {
  const { sessions, url } = await serve(t)
  const order: string[] = []
  sessions
    .addHook('preHandle', (_session, { event, data }, request) => {
      order.push(`first ${event} ${JSON.stringify(data)} ${String(request.headers['x-role'])}`)
      if (event === 'delete' && request.headers['x-role'] !== 'admin') throw Object.assign(new Error('admins only'), { statusCode: 403, code: 'FORBIDDEN' })
    })
    .addHook('preHandle', async (_session, { event }, _request, reply) => {
      await new Promise(setImmediate)
      if (event === 'cached') reply.code(203).send('from the hook')
    })
    .addHook('preHandle', (_session, { event }) => { order.push(`last ${event}`) })
    .addHook('onMessage', (_session, { event }) => ({ unhandled: event }))
    .handle('delete', () => ({ deleted: true }))
    .handle('checked', { schema: { type: 'object', required: ['n'] } }, () => 'checked')
    .handle('cached', () => t.fail('the hook has sent the response'))
  const { sessionId } = await openStream(t, url)
  const post = (event: string, data: unknown, headers = {}): Promise<HttpResponse> => postMessage(url, sessionId, data, { event, headers })
  assertErrorResponse(t, await post('delete', 1), 403, 'FORBIDDEN')
  t.match(await post('delete', 2, { 'x-role': 'admin' }), { status: 200, body: { deleted: true } })
  t.match(await post('other', 3), { status: 200, body: { unhandled: 'other' } })
  t.match(await post('cached', 4), { status: 203 })
  assertErrorResponse(t, await post('checked', {}), 400, 'FST_ERR_VALIDATION')
  t.strictSame(order, ['first delete 1 undefined', 'first delete 2 admin', 'last delete', 'first other 3 undefined', 'last other', 'first cached 4 undefined'])
})
