import { once } from 'node:events'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { memoryStore, type SessionState } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { FlakyStore } from '../support/flaky-store.js'
import { refused } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'
import { wire } from '../support/wire.js'

/** Delays the calls of one method of a store until `release` is called. `reached` resolves at the first of them. */
function delayCalls (store: FlakyStore, method: string): { reached: Promise<void>, release: () => void } {
  const [reached, released] = [signal(), signal()]
  store.delay = name => {
    if (name !== method) return
    reached.resolve()
    return released.promise
  }
  return { reached: reached.promise, release: released.resolve }
}

/** Resolves when the server has no connections any more. */
function waitForNoConnections ({ server }: FastifyInstance): Promise<void> {
  return until(async () => await promisify(server.getConnections.bind(server))() === 0, 'all connections to close')
}

t.test('a client that disconnects while the store finds its session does not resume it', async t => {
  const store = new FlakyStore()
  const { app, sessions, url, port } = await serve(t, { store: store.open })
  sessions.addHook('onResume', () => { t.fail('onResume ran for a client that has disconnected') })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(() => store.done.at(-1) === 'detach', 'the disconnect')
  const { reached, release } = delayCalls(store, 'find')
  const { socket } = wire(t, port, { headers: { 'x-session-id': sessionId } })
  await within(reached, 'the call of the store')
  socket.destroy()
  await waitForNoConnections(app)
  const before = store.done.length
  release()
  await post(url, sessionId, { text: 'hi' })
  t.strictSame(store.done.slice(before), ['find', 'findCached', 'messageQueue', 'send'])
})

t.test('a client that disconnects while the store attaches the stream has resumed and then left its session, which expires', async t => {
  const store = new FlakyStore()
  // Long enough for a client to reconnect even on a slow machine.
  const { app, sessions, url, port } = await serve(t, { store: store.open, resumeTimeout: 1000 })
  const calls: string[] = []
  const closed = signal()
  sessions.addHook('onResume', () => { calls.push('resume') })
    .addHook('onDisconnect', () => { calls.push('disconnect') })
    .addHook('onClose', (_session, reason) => {
      calls.push(reason)
      closed.resolve()
    })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(() => store.done.at(-1) === 'detach', 'the disconnect')
  const before = store.done.length
  const { reached, release } = delayCalls(store, 'attach')
  const { socket } = wire(t, port, { headers: { 'x-session-id': sessionId } })
  await within(reached, 'the call of the store')
  socket.destroy()
  await waitForNoConnections(app)
  release()
  await within(closed.promise, 'the end')
  t.strictSame(store.done.slice(before), ['find', 'cancelExpiry', 'attach', 'detach'], 'detach follows attach')
  t.strictSame(calls, ['disconnect', 'resume', 'disconnect', 'expired'])
})

t.test('a client that disconnects while the store attaches its first stream leaves no session behind', async t => {
  const store = new FlakyStore()
  const { app, sessions, port } = await serve(t, { store: store.open })
  const closed = signal<string>()
  sessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  const { reached, release } = delayCalls(store, 'attach')
  const { socket } = wire(t, port)
  await within(reached, 'the call of the store')
  socket.destroy()
  await waitForNoConnections(app)
  release()
  t.equal(await within(closed.promise, 'the end'), 'aborted')
  await until(() => store.done.at(-1) === 'detach', 'the detach')
  t.strictSame(store.done, ['open', 'attach', 'end', 'detach'])
  t.equal(sessions.size, 0)
})

t.test('a refused session is detached, and expires if the store fails to end it', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.open, resumeTimeout: 50 })
  const closed: string[] = []
  sessions.addHook('onOpen', () => {
    throw Object.assign(new Error('not allowed'), { statusCode: 403 })
  }).addHook('onClose', (_session, reason) => { closed.push(reason) })
  t.equal((await openStream(t, url, { raw: true })).status, 403)
  t.strictSame([...store.done, ...closed], ['open', 'end', 'detach', 'refused'])
  store.delay = name => { store.down = name === 'end' }
  t.equal((await openStream(t, url, { raw: true })).status, 403)
  await until(() => closed.length === 2, 'the session to expire')
  t.strictSame([...store.done.slice(3), ...closed], ['open', 'detach', 'refused', 'expired'])
})

t.test('sends only a retry delay if the store has lost the session before it attaches the stream', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.open, retry: 7 })
  const { sessionId, ended, destroy } = await openStream(t, url)
  destroy()
  await within(ended, 'the end')
  await until(() => store.done.at(-1) === 'detach', 'the disconnect')
  store.forgets = true
  for (const headers of [{ 'x-session-id': sessionId }, {}]) {
    const stream = await openStream(t, url, { raw: true, headers })
    await within(stream.ended, 'the end')
    t.strictSame([stream.status, stream.raw()], [200, 'retry: 7\n\n'])
    await until(() => store.done.at(-1) === 'detach', 'the detach')
  }
  t.equal(sessions.stats().streams, 0)
})

t.test('a stream ends without a close event if the store loses its session while onSend hooks run', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.open }, {
    before: app => app.addHook('onSend', async () => {
      if (state === undefined) return
      state.closeReason = 'lost'
      state.listener?.onLost()
    })
  })
  let state: SessionState | undefined
  sessions.addHook('onOpen', session => { state = session[kStream].state })
  const stream = await openStream(t, url)
  await within(stream.ended, 'the end')
  t.strictSame(stream.events.map(({ event }) => event), ['welcome'])
})

t.test('sends X-Session-Connected only if it is known, and calls the store at most once', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { store: store.open })
  const { sessionId } = await openStream(t, url)
  t.equal((await post(url, sessionId, '{')).headers['x-session-connected'], 'true', 'the request fails before the session lookup')
  let calls = 0
  store.down = true
  store.delay = () => { calls++ }
  const unavailable = await post(url, sessionId, { text: 'hi' })
  refused(t, unavailable, 503, 'FST_SSE_STORE_UNAVAILABLE')
  t.strictSame([unavailable.headers['x-session-connected'], calls], [undefined, 1])
  const malformed = await post(url, sessionId, '{')
  t.strictSame([malformed.status, malformed.headers['x-session-connected']], [400, undefined])
})

t.test('an onSend hook of the app that returns an invalid payload causes an error response', async t => {
  const store = new FlakyStore()
  let sent = 0
  const onSend = async (_request: FastifyRequest, _reply: FastifyReply, payload: unknown): Promise<unknown> => sent++ === 0 ? {} : payload
  const { url } = await serve(t, { store: store.open, routes: { upward: { onSend } } })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, '{'), 400, 'FST_ERR_REP_INVALID_PAYLOAD_TYPE')
})

t.test('onClose hooks run for a session that expired while the app was booting', async t => {
  const closed = signal<string>()
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
    after: async app => {
      await new Promise(setImmediate)
      app.sseSessions.addHook('onClose', ({ id }, reason) => { closed.resolve(`${id} ${reason}`) })
    }
  })
  t.equal(await within(closed.promise, 'the end'), 'old expired')
})

t.test('a store that fails to close does not stop the server from closing', async t => {
  const store = new FlakyStore()
  const { app, port } = await serve(t, { store: store.open })
  const connected = once(app.server, 'connection')
  const idle = connect(port, '127.0.0.1')
  t.teardown(() => { idle.destroy() })
  await within(connected, 'the connection')
  store.down = true
  await within(app.close(), 'the server to close')
})
