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

/** Has a store wait in calls of a name until it is let go on. */
function holdUp (store: FlakyStore, held: string): { reached: Promise<void>, go: () => void } {
  const [reached, go] = [signal(), signal()]
  store.delay = name => {
    if (name !== held) return
    reached.resolve()
    return go.promise
  }
  return { reached: reached.promise, go: go.resolve }
}

/** Resolves when the server knows of no connection any more. */
function allGone ({ server }: FastifyInstance): Promise<void> {
  return until(async () => await promisify(server.getConnections.bind(server))() === 0, 'the connections to be gone')
}

t.test('a client that leaves while the store looks for its session has come for nothing', async t => {
  const store = new FlakyStore()
  const { app, sessions, url, port } = await serve(t, { store: store.open })
  sessions.addHook('onResume', () => { t.fail('nobody is back') })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(() => store.done.at(-1) === 'detach', 'the disconnect')
  const { reached, go } = holdUp(store, 'find')
  const { socket } = wire(t, port, { headers: { 'x-session-id': sessionId } })
  await within(reached, 'the store to be asked')
  socket.destroy()
  await allGone(app)
  const before = store.done.length
  go()
  await post(url, sessionId, { text: 'hi' })
  t.strictSame(store.done.slice(before), ['find', 'findCached', 'messageQueue', 'send'])
})

t.test('a client that leaves while the store gives its stream leave has left a session that it came back to, which waits again', async t => {
  const store = new FlakyStore()
  // Long enough for a client to be back, however slow the machine is.
  const { app, sessions, url, port } = await serve(t, { store: store.open, resumeTimeout: 1000 })
  const told: string[] = []
  const over = signal()
  sessions.addHook('onResume', () => { told.push('resume') })
    .addHook('onDisconnect', () => { told.push('disconnect') })
    .addHook('onClose', (_session, reason) => {
      told.push(reason)
      over.resolve()
    })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(() => store.done.at(-1) === 'detach', 'the disconnect')
  const before = store.done.length
  const { reached, go } = holdUp(store, 'attach')
  const { socket } = wire(t, port, { headers: { 'x-session-id': sessionId } })
  await within(reached, 'the store to be asked')
  socket.destroy()
  await allGone(app)
  go()
  await within(over.promise, 'the end')
  t.strictSame(store.done.slice(before), ['find', 'cancelExpiry', 'attach', 'detach'], 'the store hears that it is gone when it has answered')
  t.strictSame(told, ['disconnect', 'resume', 'disconnect', 'expired'])
})

t.test('a client that leaves while the store gives its stream leave leaves no new session behind', async t => {
  const store = new FlakyStore()
  const { app, sessions, port } = await serve(t, { store: store.open })
  const over = signal<string>()
  sessions.addHook('onClose', (_session, reason) => { over.resolve(reason) })
  const { reached, go } = holdUp(store, 'attach')
  const { socket } = wire(t, port)
  await within(reached, 'the store to be asked')
  socket.destroy()
  await allGone(app)
  go()
  t.equal(await within(over.promise, 'the end'), 'aborted')
  await until(() => store.done.at(-1) === 'detach', 'the store to be told')
  t.strictSame(store.done, ['open', 'attach', 'end', 'detach'])
  t.equal(sessions.size, 0)
})

t.test('a session that is refused, or whose end the store refuses, is not held any more', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.open, resumeTimeout: 50 })
  const closed: string[] = []
  sessions.addHook('onOpen', () => {
    throw Object.assign(new Error('no'), { statusCode: 403 })
  }).addHook('onClose', (_session, reason) => { closed.push(reason) })
  t.equal((await openStream(t, url, { raw: true })).status, 403)
  t.strictSame([...store.done, ...closed], ['open', 'end', 'detach', 'refused'])
  store.delay = name => { store.down = name === 'end' }
  t.equal((await openStream(t, url, { raw: true })).status, 403)
  await until(() => closed.length === 2, 'it to expire')
  t.strictSame([...store.done.slice(3), ...closed], ['open', 'detach', 'refused', 'expired'])
})

t.test('a client whose session the store has just lost is to come again', async t => {
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
    await until(() => store.done.at(-1) === 'detach', 'the store to be told')
  }
  t.equal(sessions.stats().streams, 0)
})

t.test('a stream whose session is lost while its response is on the way ends, and its client is to come back', async t => {
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

t.test('X-Session-Connected is told where it is known, and the store is asked for it once at most', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { store: store.open })
  const { sessionId } = await openStream(t, url)
  t.equal((await post(url, sessionId, '{')).headers['x-session-connected'], 'true', 'the request failed before its session was looked up')
  let asked = 0
  store.down = true
  store.delay = () => { asked++ }
  const unanswered = await post(url, sessionId, { text: 'hi' })
  refused(t, unanswered, 503, 'FST_SSE_STORE_UNAVAILABLE')
  t.strictSame([unanswered.headers['x-session-connected'], asked], [undefined, 1])
  const malformed = await post(url, sessionId, '{')
  t.strictSame([malformed.status, malformed.headers['x-session-connected']], [400, undefined])
})

t.test('what the app\'s own onSend does wrong is an error here, too', async t => {
  const store = new FlakyStore()
  let sent = 0
  const onSend = async (_request: FastifyRequest, _reply: FastifyReply, payload: unknown): Promise<unknown> => sent++ === 0 ? {} : payload
  const { url } = await serve(t, { store: store.open, routes: { upward: { onSend } } })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, '{'), 400, 'FST_ERR_REP_INVALID_PAYLOAD_TYPE')
})

t.test('what has expired while the app was booting is told to the hooks that it has added by then', async t => {
  const closed = signal<string>()
  await serve(t, {
    store: (settings, user) => {
      const store = memoryStore(settings, user)
      const state = store.open('long gone', undefined)
      if (state === undefined) throw new Error('no session')
      store.end(state, 'expired', false)
      user.onExpire(state)
      return store
    }
  }, {
    after: async app => {
      await new Promise(setImmediate)
      app.sseSessions.addHook('onClose', ({ id }, reason) => { closed.resolve(`${id} ${reason}`) })
    }
  })
  t.equal(await within(closed.promise, 'the end'), 'long gone expired')
})

t.test('a store that cannot be closed does not keep the server from closing', async t => {
  const store = new FlakyStore()
  const { app, port } = await serve(t, { store: store.open })
  const connected = once(app.server, 'connection')
  const idle = connect(port, '127.0.0.1')
  t.teardown(() => { idle.destroy() })
  await within(connected, 'the connection')
  store.down = true
  await within(app.close(), 'the server to close')
})
