import t, { type Test } from 'tap'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import type { SseSessionsOptions } from '../../lib/index.js'
import { assertErrorResponse } from '../support/error-response.js'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'
import { FlakyStore } from '../support/flaky-store.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

interface Served extends TestServer {
  readonly sessionId: string
  post (event: string, key?: string): Promise<HttpResponse>
  postBatch (...lines: object[]): Promise<HttpResponse>
}

async function serveSession (t: Test, options: SseSessionsOptions = {}): Promise<Served> {
  const served = await serve(t, options)
  const { sessionId } = await openStream(t, served.url)
  return {
    ...served,
    sessionId,
    post: (event, key) => withTimeout(postMessage(served.url, sessionId, {}, { event, ...key !== undefined && { key } }), `the response to ${event}`),
    postBatch: (...lines) => withTimeout(postMessage(served.url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } }), 'the batch')
  }
}

for (const [title, isAskConcurrent] of [['a concurrent handler waits for another message', true], ['a handler waits for a concurrent message', false]] as const) {
  t.test(`${title} of its client, sent alone or in the same batch`, async t => {
    const { sessions, post, postBatch } = await serveSession(t)
    let answered = deferred<string>()
    sessions.handle('ask', { concurrent: isAskConcurrent }, () => answered.promise)
    sessions.handle('answer', { concurrent: !isAskConcurrent }, () => { answered.resolve('42') })
    const [asked] = await Promise.all([post('ask'), post('answer')])
    t.equal(asked.body, '42')
    answered = deferred()
    t.strictSame((await postBatch({ event: 'ask' }, { event: 'answer' })).body, [{ status: 200, body: '42' }, { status: 202, body: { status: 'accepted' } }])
  })
}

t.test('ordered messages keep their order around concurrent ones, in a batch', async t => {
  const { sessions, postBatch } = await serveSession(t)
  const order: unknown[] = []
  const gate = deferred()
  sessions.handle('ordered', async (_session, data) => {
    if (data === 1) await gate.promise
    order.push(data)
  })
  sessions.handle('concurrent', { concurrent: true }, (_session, data) => {
    order.push(data)
    gate.resolve()
  })
  await postBatch({ event: 'ordered', data: 1 }, { event: 'ordered', data: 2 }, { event: 'concurrent', data: 'first' }, { event: 'ordered', data: 3 })
  t.strictSame(order, ['first', 1, 2, 3])
})

t.test('a repeat of a concurrent message gets the response of its one run', async t => {
  const { sessions, post, postBatch } = await serveSession(t)
  const gate = deferred()
  let runs = 0
  sessions.handle('slow', { concurrent: true }, async () => {
    runs++
    await gate.promise
    return runs
  })
  const first = post('slow', 'k')
  await waitUntil(() => runs === 1, 'the handler')
  const repeat = post('slow', 'k')
  const batch = postBatch({ event: 'slow', id: 'k', data: {} }, { event: 'slow', id: 'other' })
  await waitUntil(() => runs === 2, 'the other message')
  gate.resolve()
  matchList(t, await Promise.all([first, repeat, batch]), [{ body: 2 }, { body: 2, headers: { 'idempotent-replayed': 'true' } }, { body: [{ body: 2, replayed: true }, { body: 2 }] }])
  t.equal(runs, 2)
})

t.test('a message that a concurrent handler sends synchronously is handled once per key', async t => {
  const { app, sessions, sessionId, post } = await serveSession(t)
  let runs = 0
  let inner: Promise<unknown> | undefined
  sessions.handle('nested', { concurrent: true }, () => {
    runs++
    inner ??= app.inject({ method: 'POST', url: '/upward/nested', headers: { 'x-session-id': sessionId, 'idempotency-key': 'k' }, payload: {} }).then(({ headers }) => headers)
    return runs
  })
  t.equal((await post('nested', 'k')).body, 1)
  t.match(await inner, { 'idempotent-replayed': 'true' })
  t.equal(runs, 1)
})

t.test('handlerTimeout limits a concurrent handler', async t => {
  const { sessions, post } = await serveSession(t, { handlerTimeout: 20 })
  sessions.handle('hang', { concurrent: true }, () => new Promise(() => {}))
  assertErrorResponse(t, await post('hang'), 504, 'FST_SSE_HANDLER_TIMEOUT')
})

t.test('responds with 429 to more concurrent messages than maxWaitingMessages allows', async t => {
  const { sessions, post } = await serveSession(t, { maxWaitingMessages: 1 })
  const gate = deferred()
  let runs = 0
  sessions.handle('slow', { concurrent: true }, async () => {
    runs++
    await gate.promise
  })
  sessions.handle('fail', { concurrent: true }, () => { throw new Error('failed') })
  const running = [post('slow'), post('slow')]
  await waitUntil(() => runs === 2, 'both handlers')
  assertErrorResponse(t, await post('slow'), 429, 'FST_SSE_TOO_MANY_WAITING')
  gate.resolve()
  await Promise.all(running)
  for (let n = 0; n < 3; n++) t.equal((await post('fail')).status, 500)
})

t.test('a concurrent handler finishes when its session is closed, and close() of the app waits for it', async t => {
  const { app, sessions, sessionId, post } = await serveSession(t, { closeTimeout: 5000 })
  const gate = deferred()
  let runs = 0
  sessions.handle('slow', { concurrent: true }, async () => {
    runs++
    await gate.promise
    return 'done'
  })
  const running = post('slow')
  await waitUntil(() => runs === 1, 'the handler')
  await (await sessions.find(sessionId))?.close('bye')
  assertErrorResponse(t, await post('slow'), 404, 'FST_SSE_SESSION_UNKNOWN')
  const closed = app.close()
  gate.resolve()
  t.equal((await running).body, 'done')
  await withTimeout(closed, 'close()')
})

t.test('after a failure of the store, a batch handles its concurrent messages, but not the ordered ones after the failed one', async t => {
  const store = new FlakyStore()
  const { sessions, postBatch } = await serveSession(t, { store: store.createStore })
  const handled: unknown[] = []
  const gate = deferred()
  sessions.handle('fail', async session => {
    store.isDown = true
    try {
      await session.emit('x', 1)
    } finally {
      store.isDown = false
      gate.resolve()
    }
  })
  sessions.handle('concurrent', { concurrent: true }, async () => {
    await gate.promise
    handled.push('concurrent')
  })
  sessions.handle('ordered', () => { handled.push('ordered') })
  matchList(t, (await postBatch({ event: 'fail' }, { event: 'concurrent' }, { event: 'ordered' })).body, [{ status: 503 }, { status: 202 }, { status: 503 }])
  t.strictSame(handled, ['concurrent'])
})

t.test('the welcome event contains the event names of the concurrent handlers, if there are any', async t => {
  const { sessions, url } = await serve(t)
  const welcomeOf = async (): Promise<unknown> => (await openStream(t, url)).events[0]?.data
  t.notOk(Object.keys(await welcomeOf() as object).includes('concurrent'))
  sessions.handle('a', () => {}).handle('b', { concurrent: true }, () => {}).handle('c', { concurrent: false }, () => {})
  matchList(t, await welcomeOf(), { concurrent: ['b'] })
  sessions.addHook('onOpen', () => ({ concurrent: 'other' }))
  matchList(t, await welcomeOf(), { concurrent: ['b'] })
})

t.test('option concurrent must be a boolean', async t => {
  const { sessions } = await serve(t)
  for (const concurrent of [1, 'true', null]) t.throws(() => Reflect.apply(sessions.handle, sessions, ['x', { concurrent }, () => {}]), { code: 'FST_SSE_HANDLER_INVALID', message: /"concurrent"/ })
})
