import { once } from 'node:events'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { memoryStore, type Hooks, type SessionState } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { FlakyStore } from '../support/flaky-store.js'
import { assertErrorResponse } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { openRawClient } from '../support/raw-client.js'

/** Delays the calls of one method of a store until `release` is called. `reached` resolves at the first of them. */
function delayCalls (store: FlakyStore, method: string): { reached: Promise<void>, release: () => void } {
  const [reached, released] = [deferred(), deferred()]
  store.delay = name => {
    if (name !== method) return
    reached.resolve()
    return released.promise
  }
  return { reached: reached.promise, release: released.resolve }
}

/** Resolves when the server has no connections any more. */
function waitForNoConnections ({ server }: FastifyInstance): Promise<void> {
  return waitUntil(async () => await promisify(server.getConnections.bind(server))() === 0, 'all connections to close')
}

t.test('a client that disconnects while the store finds its session does not resume it', async t => {
  const store = new FlakyStore()
  const { app, sessions, url, port } = await serve(t, { store: store.createStore })
  sessions.addHook('onResume', () => { t.fail('onResume ran for a client that has disconnected') })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await waitUntil(() => store.calls.at(-1) === 'detach', 'the disconnect')
  const { reached, release } = delayCalls(store, 'find')
  const { socket } = openRawClient(t, port, { headers: { 'x-session-id': sessionId } })
  await withTimeout(reached, 'the call of the store')
  socket.destroy()
  await waitForNoConnections(app)
  const before = store.calls.length
  release()
  await postMessage(url, sessionId, { text: 'hi' })
  t.strictSame(store.calls.slice(before), ['find', 'findCached', 'messageQueue', 'send'])
})

t.test('a session expires if its client disconnects while the store attaches the stream that resumes it', async t => {
  const store = new FlakyStore()
  // Long enough for a client to reconnect even on a slow machine.
  const { app, sessions, url, port } = await serve(t, { store: store.createStore, resumeTimeout: 1000 })
  const calls: string[] = []
  const closed = deferred()
  sessions.addHook('onResume', () => { calls.push('resume') })
    .addHook('onDisconnect', () => { calls.push('disconnect') })
    .addHook('onClose', (_session, reason) => {
      calls.push(reason)
      closed.resolve()
    })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await waitUntil(() => store.calls.at(-1) === 'detach', 'the disconnect')
  const before = store.calls.length
  const { reached, release } = delayCalls(store, 'attach')
  const { socket } = openRawClient(t, port, { headers: { 'x-session-id': sessionId } })
  await withTimeout(reached, 'the call of the store')
  socket.destroy()
  await waitForNoConnections(app)
  release()
  await withTimeout(closed.promise, 'the end')
  t.strictSame(store.calls.slice(before), ['find', 'cancelExpiry', 'attach', 'detach'], 'detach follows attach')
  t.strictSame(calls, ['disconnect', 'resume', 'disconnect', 'expired'])
})

/** Opens a session whose client disconnects during a call of the store. Resolves when the session is closed, with the reason. */
async function disconnectDuring (t: Test, method: 'open' | 'attach', onOpen?: Hooks['onOpen']) {
  const store = new FlakyStore()
  const { app, sessions, port } = await serve(t, { store: store.createStore })
  const closed = deferred<string>()
  sessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  if (onOpen !== undefined) sessions.addHook('onOpen', onOpen)
  const { reached, release } = delayCalls(store, method)
  const { socket } = openRawClient(t, port)
  await withTimeout(reached, 'the call of the store')
  socket.destroy()
  await waitForNoConnections(app)
  release()
  return { store, sessions, reason: await withTimeout(closed.promise, 'the end') }
}

t.test('a session is closed if its client disconnects while the store attaches its first stream', async t => {
  const { store, sessions, reason } = await disconnectDuring(t, 'attach')
  t.equal(reason, 'aborted')
  await waitUntil(() => store.calls.at(-1) === 'detach', 'the detach')
  t.strictSame(store.calls, ['open', 'attach', 'end', 'detach'])
  t.equal(sessions.size, 0)
})

t.test('a session is closed if its client disconnects while the store opens it, even if an onOpen hook does not settle', async t => {
  const { reason } = await disconnectDuring(t, 'open', () => new Promise(() => {}))
  t.equal(reason, 'aborted')
})

t.test('a refused session is detached, and expires if the store fails to close it', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.createStore, resumeTimeout: 50 })
  const closed: string[] = []
  sessions.addHook('onOpen', () => {
    throw Object.assign(new Error('not allowed'), { statusCode: 403 })
  }).addHook('onClose', (_session, reason) => { closed.push(reason) })
  t.equal((await openStream(t, url, { skipWelcome: true })).status, 403)
  t.strictSame([...store.calls, ...closed], ['open', 'end', 'detach', 'refused'])
  store.delay = name => { store.isDown = name === 'end' }
  t.equal((await openStream(t, url, { skipWelcome: true })).status, 403)
  await waitUntil(() => closed.length === 2, 'the session to expire')
  t.strictSame([...store.calls.slice(3), ...closed], ['open', 'detach', 'refused', 'expired'])
})

t.test('sends only a retry delay if the store has lost the session before it attaches the stream', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.createStore, retry: 7 })
  const { sessionId, ended, destroy } = await openStream(t, url)
  destroy()
  await withTimeout(ended, 'the end')
  await waitUntil(() => store.calls.at(-1) === 'detach', 'the disconnect')
  store.losesSessions = true
  for (const headers of [{ 'x-session-id': sessionId }, {}]) {
    const stream = await openStream(t, url, { skipWelcome: true, headers })
    await withTimeout(stream.ended, 'the end')
    t.strictSame([stream.status, stream.text()], [200, 'retry: 7\n\n'])
    await waitUntil(() => store.calls.at(-1) === 'detach', 'the detach')
  }
  t.equal(sessions.stats().streams, 0)
})

t.test('a stream ends without a close event if the store loses its session while onSend hooks run', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.createStore }, {
    beforeRegister: app => app.addHook('onSend', async () => {
      if (state === undefined) return
      state.closeReason = 'lost'
      state.listener?.onLost()
    })
  })
  let state: SessionState | undefined
  sessions.addHook('onOpen', session => { state = session[kInternals].state })
  const stream = await openStream(t, url)
  await withTimeout(stream.ended, 'the end')
  t.strictSame(stream.events.map(({ event }) => event), ['welcome'])
})

t.test('sends X-Session-Connected only if it is known, and calls the store at most once', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { store: store.createStore })
  const { sessionId } = await openStream(t, url)
  t.equal((await postMessage(url, sessionId, '{')).headers['x-session-connected'], 'true', 'the request fails before the session lookup')
  let calls = 0
  store.isDown = true
  store.delay = () => { calls++ }
  const unavailable = await postMessage(url, sessionId, { text: 'hi' })
  assertErrorResponse(t, unavailable, 503, 'FST_SSE_STORE_UNAVAILABLE')
  t.strictSame([unavailable.headers['x-session-connected'], calls], [undefined, 1])
  const malformed = await postMessage(url, sessionId, '{')
  t.strictSame([malformed.status, malformed.headers['x-session-connected']], [400, undefined])
})

t.test('an onSend hook of the app that returns an invalid payload causes an error response', async t => {
  const store = new FlakyStore()
  let sent = 0
  const onSend = async (_request: FastifyRequest, _reply: FastifyReply, payload: unknown): Promise<unknown> => sent++ === 0 ? {} : payload
  const { url } = await serve(t, { store: store.createStore, routes: { upward: { onSend } } })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, '{'), 400, 'FST_ERR_REP_INVALID_PAYLOAD_TYPE')
})

t.test('onClose hooks run for a session that expired while the app was booting', async t => {
  const closed = deferred<string>()
  await serve(t, {
    store: (settings, callbacks) => {
      const store = memoryStore(settings, callbacks)
      const state = store.open('old', undefined)
      if (state === undefined) throw new Error('There is no session')
      store.end(state, 'expired', false)
      callbacks.onExpire(state)
      return store
    }
  }, {
    afterRegister: async app => {
      await new Promise(setImmediate)
      app.sseSessions.addHook('onClose', ({ id }, reason) => { closed.resolve(`${id} ${reason}`) })
    }
  })
  t.equal(await withTimeout(closed.promise, 'the end'), 'old expired')
})

t.test('a store that fails to close does not stop the server from closing', async t => {
  const store = new FlakyStore()
  const { app, port } = await serve(t, { store: store.createStore })
  const connected = once(app.server, 'connection')
  const idle = connect(port, '127.0.0.1')
  t.teardown(() => { idle.destroy() })
  await withTimeout(connected, 'the connection')
  store.isDown = true
  await withTimeout(app.close(), 'the server to close')
})
