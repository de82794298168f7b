import { setTimeout as delay } from 'node:timers/promises'
import cookie from '@fastify/cookie'
import t, { type Test } from 'tap'
import { memoryStore, type Session, type SseSessionsOptions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { FlakyStore } from '../support/flaky-store.js'
import { openStream, postMessage, type ClientStream, type HttpResponse } from '../support/http-client.js'
import { matchList } from '../support/match-list.js'
import { LONG_CLOSE_TIMEOUT, serve, type ServeOptions, type TestServer } from '../support/server.js'
import { addEndless, isEnd, partsOf } from '../support/streaming-handlers.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

interface Served extends TestServer {
  readonly stream: ClientStream
  readonly logged: () => Array<{ readonly level: number, readonly msg: string, readonly err?: { readonly message: string } }>
  post (event: string, data?: unknown, key?: string): Promise<HttpResponse>
}

async function serveSession (t: Test, options: SseSessionsOptions = {}, { fastify, ...serveOptions }: ServeOptions = {}): Promise<Served> {
  let log = ''
  const served = await serve(t, options, { ...serveOptions, fastify: { logger: { level: 'info', stream: { write: (line: string) => { log += line } } }, ...fastify } })
  const stream = await openStream(t, served.url)
  return {
    ...served,
    stream,
    logged: () => log.split('\n').filter(line => line !== '').map(line => JSON.parse(line)),
    post: (event, data = {}, key) => withTimeout(postMessage(served.url, stream.sessionId, JSON.stringify(data), { event, ...key !== undefined && { key } }), `the response to ${event}`)
  }
}

t.test('the values of an async generator arrive as parts, and later messages do not wait for them', async t => {
  const { sessions, stream, post } = await serveSession(t)
  const gate = deferred()
  sessions.handle('ask', async function * (_session, data) {
    yield { got: data }
    await gate.promise
    yield undefined
  })
  sessions.handle('stop', () => { gate.resolve() })
  t.match(await post('ask', 'why', 'm1'), { status: 202, body: { status: 'streaming', message: 'm1' } })
  await post('stop')
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [
    { message: 'm1', data: { got: 'why' } },
    { message: 'm1', data: null },
    { message: 'm1', end: { status: 'finished' } }
  ])
  // A repeat does not run the handler again.
  t.match(await post('ask', 'why', 'm1'), { status: 202, headers: { 'idempotent-replayed': 'true' } })
})

t.test('a message without a key gets an id, and every async iterable is streamed', async t => {
  const { sessions, stream, post } = await serveSession(t)
  sessions.handle('ask', async () => ({ async * [Symbol.asyncIterator] () { yield 'a' } }))
  const { body } = await post('ask') as { body: { message: string } }
  t.match(body.message, /^[\w-]{36}$/)
  await stream.waitFor(isEnd)
  matchList(t, partsOf(stream), [{ message: body.message, data: 'a' }, { message: body.message, end: { status: 'finished' } }])
})

t.test('a generator that fails because it was stopped is not an error', async t => {
  const { sessions, stream, post, logged } = await serveSession(t)
  sessions.handle('ask', async function * (_session, _data, { signal }) {
    yield 1
    await delay(60_000, undefined, { signal })
  })
  await post('ask', null, 'm1')
  await stream.waitFor(({ event }) => event === 'part')
  await post('part', { message: 'm1' })
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', data: 1 }, { message: 'm1', end: { status: 'stopped' } }])
  t.strictSame(logged().filter(({ level }) => level > 30), [])
})

t.test('a message "part" stops the generator at once, while another message is being handled', async t => {
  const { sessions, stream, post } = await serveSession(t)
  const { closed } = addEndless(sessions)
  const gate = deferred()
  sessions.handle('slow', () => gate.promise)
  await post('endless', {}, 'm1')
  await stream.waitFor(({ event }) => event === 'part')
  const slow = post('slow')
  t.match(await post('part', { message: 'm1' }), { status: 202 })
  t.match(await withTimeout(closed, 'the finally block'), { code: 'FST_SSE_RUN_OVER' })
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', data: 1 }, { message: 'm1', end: { status: 'stopped' } }])
  gate.resolve()
  await slow
  t.match(await post('part', { message: 'unknown' }), { status: 202 }, 'an unknown message is ignored')
  for (const data of [{}, null, 'm1', { message: 1 }]) t.match(await post('part', data), { status: 400, body: { code: 'FST_SSE_PART_INVALID' } })
  t.throws(() => sessions.handle('part', () => {}), { code: 'FST_SSE_HANDLER_INVALID' })
})

t.test('an error of a generator after it was stopped is logged', async t => {
  const { sessions, stream, post, logged } = await serveSession(t)
  sessions.handle('ask', async function * () {
    try {
      for (;;) yield await new Promise(resolve => { setImmediate(resolve, 1) })
    } finally {
      await Promise.reject(new Error('in the finally block'))
    }
  })
  await post('ask', null, 'm1')
  await post('part', { message: 'm1' })
  await stream.waitFor(isEnd)
  await waitUntil(() => logged().some(({ err }) => err?.message === 'in the finally block'), 'the log')
  t.match(logged().filter(({ level }) => level > 30), [{ level: 40, msg: 'an async iterable failed after its delivery had ended' }])
})

t.test('the close of the session aborts the signal and closes the generator', async t => {
  const { sessions, stream, post, logged } = await serveSession(t)
  const { closed } = addEndless(sessions)
  await post('endless')
  await stream.waitFor(({ event }) => event === 'part')
  await (await sessions.find(stream.sessionId))?.close()
  t.match(await withTimeout(closed, 'the finally block'), { code: 'FST_SSE_SESSION_OVER' })
  t.strictSame(logged().filter(({ level }) => level > 30), [])
})

t.test('an error of the generator arrives as the response of the error handler of the app, and is logged', async t => {
  const { sessions, stream, post, logged } = await serveSession(t, {}, {
    beforeRegister: app => {
      app.setErrorHandler((error: Error, _request, reply) => { reply.code(418).send({ code: 'APP', message: `hidden ${error.message.length}` }) })
    }
  })
  sessions.handle('fail', async function * () {
    yield 1
    throw new Error('secret')
  })
  // A value that is not JSON is an error, too.
  sessions.handle('invalid', async function * () { yield 1n })
  await post('fail', {}, 'm1')
  await stream.waitFor(isEnd)
  await post('invalid', {}, 'm2')
  await stream.waitFor(({ data }) => (data as { message?: string }).message === 'm2')
  matchList(t, partsOf(stream), [
    { message: 'm1', data: 1 },
    { message: 'm1', end: { status: 'failed', response: { status: 418, body: { code: 'APP', message: 'hidden 6' } } } },
    { message: 'm2', end: { status: 'failed', response: { status: 418 } } }
  ])
  t.notMatch(stream.text(), /secret/)
  matchList(t, logged().filter(({ level }) => level === 50).map(({ err }) => err?.message), ['secret', /BigInt/])
})

t.test('the error handler for an error of the generator finds the decorators that hooks of the app have set', async t => {
  const { sessions, stream, post } = await serveSession(t, {}, {
    beforeRegister: app => app
      .register(cookie)
      .decorateReply('tenant')
      .addHook('onRequest', async (_request, reply) => { Object.assign(reply, { tenant: { name: 'acme' } }) })
      .addHook('onSend', async (_request, reply) => { reply.header('x-tenant', reply.getDecorator<{ name: string }>('tenant').name) })
      .setErrorHandler((_error, _request, reply) => { reply.clearCookie('user').code(418).send(reply.getDecorator('tenant')) })
  })
  sessions.handle('fail', async function * () { throw new Error('expected') })
  await post('fail', {}, 'm1')
  await stream.waitFor(isEnd)
  matchList(t, partsOf(stream), [{ message: 'm1', end: { status: 'failed', response: { status: 418, body: { name: 'acme' } } } }])
})

t.test('close() does not wait for a message whose generator has failed before its response was sent', async t => {
  const gate = deferred()
  const { app, sessions, stream, post } = await serveSession(t, { closeTimeout: LONG_CLOSE_TIMEOUT }, {
    fastify: { pluginTimeout: 0 },
    beforeRegister: app => app.addHook('onSend', async (_request, { statusCode }) => { if (statusCode === 202) await gate.promise })
  })
  sessions.handle('fail', async function * () { throw new Error('expected') })
  const posted = post('fail', {}, 'm1')
  await stream.waitFor(isEnd)
  gate.resolve()
  t.match(await posted, { status: 202 })
  await withTimeout(app.close(), 'close()')
})

t.test('a generator that fails because another session is closed has failed', async t => {
  const { sessions, stream, post, logged, url } = await serveSession(t)
  const other = await openStream(t, url)
  const session = await sessions.find(other.sessionId)
  await session?.close()
  sessions.handle('forward', async function * () {
    yield 1
    await session?.emit('tick', 1)
  })
  await post('forward', {}, 'm1')
  await stream.waitFor(isEnd)
  matchList(t, partsOf(stream), [
    { message: 'm1', data: 1 },
    { message: 'm1', end: { status: 'failed', response: { status: 410, body: { code: 'FST_SSE_SESSION_OVER' } } } }
  ])
  t.equal(logged().filter(({ level }) => level === 50).length, 1)
})

t.test('a message of a batch streams, too, and its error has the code of the error', async t => {
  const { sessions, stream, url } = await serveSession(t)
  sessions.handle('fail', async function * () { throw Object.assign(new Error('no'), { statusCode: 409, code: 'NO' }) })
  const { body } = await postMessage(url, stream.sessionId, '{"event":"fail","data":{"a":1},"id":"m1"}', { headers: { 'content-type': 'application/x-ndjson' } })
  t.strictSame(body, [{ status: 202, body: { status: 'streaming', message: 'm1' } }])
  await stream.waitFor(isEnd)
  matchList(t, partsOf(stream), [{ message: 'm1', end: { status: 'failed', response: { status: 409, body: { code: 'NO', message: 'no' } } } }])
})

t.test('a session has a limited number of running generators; a message beyond it is refused and can be repeated', async t => {
  const { sessions, stream, post } = await serveSession(t, { maxWaitingMessages: 1, maxRuns: 1 })
  const { count } = addEndless(sessions)
  await post('endless', {}, 'm1')
  await post('endless', {}, 'm2')
  t.match(await post('endless', {}, 'm3'), { status: 429, body: { code: 'FST_SSE_TOO_MANY_DELIVERIES' } })
  await post('part', { message: 'm1' })
  await stream.waitFor(isEnd)
  await waitUntil(async () => (await post('endless', {}, 'm3')).status === 202, 'room')
  await waitUntil(() => count() === 3, 'the third generator')
})

t.test('the time limit of a handler does not apply to its values', async t => {
  const { sessions, stream, post } = await serveSession(t, { handlerTimeout: 50 })
  sessions.handle('slow', async function * () {
    await new Promise(resolve => { setTimeout(resolve, 150) })
    yield 'late'
  })
  await post('slow')
  await stream.waitFor(isEnd)
  matchList(t, partsOf(stream), [{ data: 'late' }, { end: { status: 'finished' } }])
})

t.test('a client that is disconnected meanwhile receives each value once, at its speed', async t => {
  const { sessions, stream, post, url } = await serveSession(t, { log: { entries: 20 } })
  let produced = 0
  sessions.handle('count', async function * () { while (produced < 100) yield ++produced })
  stream.destroy()
  const session = await sessions.find(stream.sessionId)
  await waitUntil(() => session?.connected === false, 'the disconnect')
  const { id = '' } = stream.events[0] ?? {}
  await post('count')
  await waitUntil(() => produced >= 10, 'half of the log')
  t.ok(produced < 15, 'it waits for the client')
  const second = await openStream(t, url, { headers: { 'last-event-id': id } })
  await second.waitFor(isEnd)
  t.strictSame(partsOf(second).slice(0, -1).map(part => (part as { data: unknown }).data), Array.from({ length: 100 }, (_, index) => index + 1))
})

t.test('when the server closes, generators may finish within closeTimeout, and are aborted then', async t => {
  const { app, sessions, stream, post } = await serveSession(t, { closeTimeout: 100 })
  const { closed } = addEndless(sessions)
  await post('endless')
  await stream.waitFor(({ event }) => event === 'part')
  await withTimeout(app.close(), 'the close')
  t.match(await withTimeout(closed, 'the finally block'), { code: 'FST_SSE_RUN_OVER' })
})

t.test('a generator that fails while the server closes fails with its error', async t => {
  const { app, sessions, stream, post } = await serveSession(t, { closeTimeout: 9000 }, {
    beforeRegister: app => { app.setErrorHandler((error: Error, _request, reply) => { reply.code(418).send({ code: error.message }) }) }
  })
  const gate = deferred()
  sessions.handle('ask', async function * () {
    yield 1
    await gate.promise
    throw new Error('late')
  })
  await post('ask', null, 'm1')
  await stream.waitFor(({ event }) => event === 'part')
  const { log } = ((await sessions.find(stream.sessionId)) as Session)[kInternals].state
  const closing = app.close()
  await waitUntil(() => sessions.closing, 'the begin of the close')
  gate.resolve()
  await withTimeout(closing, 'the close')
  t.match(log?.frameAt(log.end - 1), /"end":\{"status":"failed","response":\{"status":418,"body":\{"code":"late"\}\}\}/)
})

t.test('the end of a handler arrives although the response to its error is too large for the log of the session', async t => {
  const { sessions, stream, post } = await serveSession(t, { log: { bytes: 1000 } }, {
    beforeRegister: app => { app.setErrorHandler((_error, _request, reply) => reply.code(500).send({ text: 'x'.repeat(2000) })) }
  })
  let reason: unknown
  sessions.handle('ask', async function * (_session, _data, { signal }) {
    signal.addEventListener('abort', () => { reason = signal.reason })
    throw new Error('expected')
  })
  await post('ask', null, 'm1')
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', end: { status: 'failed' } }])
  t.match(reason, { message: 'expected' }, 'what else uses the signal ends, too')
})

t.test('calls at the same time count for the limit, and an iterable that is refused is closed', async t => {
  const store = new FlakyStore()
  const { sessions, post } = await serveSession(t, { store: store.createStore, maxWaitingMessages: 1 })
  const closed: unknown[] = []
  sessions.handle('ask', { concurrent: true }, (_session, data, { signal }) => ({
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise<IteratorResult<unknown>>(() => {}),
      return: async () => {
        closed.push(data, signal.aborted)
        return { done: true, value: undefined }
      }
    })
  }))
  const responses = await Promise.all([1, 2, 3].map(async n => await post('ask', n, `m${n}`)))
  t.strictSame(responses.map(({ status }) => status).sort(), [202, 202, 429])
  t.strictSame(closed, [responses.findIndex(({ status }) => status === 429) + 1, true])
})

t.test('a handler whose run has ended before its start was confirmed is aborted', async t => {
  const { sessions, stream, post } = await serveSession(t, {
    store: (settings, callbacks) => {
      const store = memoryStore(settings, callbacks)
      const { runs } = store
      const start = runs.start.bind(runs)
      // Ends the run as another process may do while the reply is on its way.
      const startAndEnd = (...args: Parameters<typeof start>): ReturnType<typeof start> => {
        const run = start(...args)
        if (run !== undefined) runs.end(run as Parameters<typeof runs.end>[0], { status: 'stopped' })
        return run
      }
      return Object.assign(store, { runs: Object.assign(runs, { start: startAndEnd }) })
    }
  })
  const endless = addEndless(sessions)
  await post('endless', null, 'm1')
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', end: { status: 'stopped' } }])
  t.equal(endless.count(), 0)
})
