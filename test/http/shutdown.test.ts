import { once } from 'node:events'
import { connect } from 'node:net'
import { mock } from 'node:test'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import sseSessions, { type Session, type SseSessionsOptions } from '../../lib/index.js'
import { eventSources } from '../support/event-sources.js'
import { FlakyStore } from '../support/flaky-store.js'
import { LONG_CLOSE_TIMEOUT, serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { PADDING, sendUntilStalled, recordOpenedSessions, waitForStreams, openRawClient } from '../support/raw-client.js'
import { finishClosing } from './support/finish-closing.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const FINAL_RETRY = /\n\nretry: (\d+)\n\n$/

/** Parses the retry field at the end of a stream. NaN if the stream does not end with one. */
const parseFinalRetry = (text: string): number => Number(FINAL_RETRY.exec(text)?.[1])

t.test('close() ends 1,000 open streams, and aborts the 20 stalled ones of them after closeTimeout', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 1500, retry: 10 })
  const opened = recordOpenedSessions(sessions)
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  sessions.addHook('onOpen', async (session, { headers }) => { if (headers['x-stalled'] !== undefined) await session.join('stalled') })
  const readers = Array.from({ length: 980 }, () => openRawClient(t, port))
  await waitForStreams(sessions, 980)
  for (let i = 0; i < 20; i++) openRawClient(t, port, { stalled: true, headers: { 'X-Stalled': '1' } })
  await waitForStreams(sessions, 1000)
  const stalled = opened.filter(({ request }) => request.headers['x-stalled'] !== undefined)
  await sendUntilStalled(stalled.map(({ session }) => session), () => sessions.channel('stalled').send(PADDING))
  await sessions.broadcast('last', 1)
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => { mock.timers.reset() })
  const closing = app.close()
  await waitUntil(() => sessions.stats().streams === 20, 'the end of the streams that are read')
  mock.timers.tick(1499)
  await nextEventLoopTick()
  t.ok(stalled.every(({ socket }) => !socket.destroyed), 'the stalled connections are still open')
  mock.timers.tick(1)
  await waitUntil(() => sessions.stats().streams === 0, 'the end of the stalled streams')
  await finishClosing(closing)
  await withTimeout(Promise.all(readers.map(({ closed }) => closed)), 'the end of every connection')
  t.equal(readers.filter(({ text }) => text().includes('event: last') && parseFinalRetry(text()) === 1510).length, 980, 'every reader received the last event and the final retry field')
  t.ok(stalled.every(({ socket }) => socket.destroyed), 'the stalled connections were destroyed')
  t.strictSame(reasons, Array(1000).fill('shutdown'))
  t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
})

t.test('close() does not wait for closeTimeout when all clients read', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: LONG_CLOSE_TIMEOUT }, { fastify: { pluginTimeout: 0 } })
  for (let i = 0; i < 50; i++) openRawClient(t, port)
  await waitForStreams(sessions, 50)
  await withTimeout(app.close(), 'close()')
})

t.test('connections without a request do not delay close()', async t => {
  const { app, port } = await serve(t, { closeTimeout: LONG_CLOSE_TIMEOUT }, { fastify: { pluginTimeout: 0 } })
  const sockets = Array.from({ length: 5 }, () => connect(port, '127.0.0.1').on('error', () => {}))
  t.teardown(() => { for (const socket of sockets) socket.destroy() })
  let accepted = 0
  app.server.on('connection', () => { accepted++ })
  await waitUntil(() => accepted === 5, 'the connections')
  await withTimeout(app.close(), 'close()')
  await Promise.all(sockets.map(async socket => { if (!socket.destroyed) await withTimeout(once(socket, 'close'), 'the end of a connection') }))
})

t.test('a backlog arrives completely within closeTimeout, followed by the final retry field', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: LONG_CLOSE_TIMEOUT, retry: [1000, 2000], log: { bytes: 2 ** 26 } }, { fastify: { pluginTimeout: 0 } })
  const opened = recordOpenedSessions(sessions)
  const client = openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  const [{ session }] = opened as [typeof opened[0]]
  const count = await sendUntilStalled([session], n => session.send({ n, padding: PADDING }))
  const closing = app.close()
  client.read()
  await withTimeout(client.closed, 'the end of the connection')
  t.strictSame(client.numbers(), Array.from({ length: count }, (_, i) => i + 1))
  const retry = parseFinalRetry(client.text())
  t.ok(retry >= 61_000 && retry <= 62_000, `the retry delay includes closeTimeout: ${retry}`)
  t.notMatch(client.text(), 'event: close')
  await withTimeout(closing, 'close()')
})

t.test('the closeTimeouts of several registrations run at the same time', async t => {
  const closeTimeout = LONG_CLOSE_TIMEOUT
  const { app, sessions, url, port } = await serve(t, { closeTimeout }, {
    fastify: { pluginTimeout: 0 },
    afterRegister: app => app.register(sseSessions, { prefix: '/other', decorator: 'others', closeTimeout })
  })
  const opened = recordOpenedSessions(sessions)
  const stalled = openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  await sendUntilStalled(opened.map(({ session }) => session), () => sessions.broadcast('fill', PADDING))
  const other = await openStream(t, url, { path: '/other/downward' })
  const closing = app.close()
  await withTimeout(other.ended, 'the end of the stream that is not stalled')
  t.equal(sessions.stats().streams, 1, 'the stalled stream is still open')
  stalled.read()
  await withTimeout(closing, 'close()')
})

t.test('with closeTimeout 0, close() aborts a stalled stream immediately', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 0 })
  const opened = recordOpenedSessions(sessions)
  openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  await sendUntilStalled(opened.map(({ session }) => session), () => sessions.broadcast('fill', PADDING))
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => { mock.timers.reset() })
  const closing = app.close()
  await waitUntil(() => sessions.closing, 'close() to begin')
  // The timer of a timeout of 0.
  mock.timers.tick(1)
  await waitUntil(() => opened[0]?.socket.destroyed === true, 'the end of the stalled connection')
  await finishClosing(closing)
})

t.test('with closeTimeout 0, clients that read still receive the last event and the final retry field', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 0, retry: 10 })
  const clients = Array.from({ length: 300 }, () => openRawClient(t, port))
  await waitForStreams(sessions, 300)
  sessions.broadcast('last', 1)
  await withTimeout(app.close(), 'close()')
  await withTimeout(Promise.all(clients.map(({ closed }) => closed)), 'the end of every connection')
  t.equal(clients.filter(({ text }) => text().includes('event: last') && parseFinalRetry(text()) === 10).length, 300)
})

t.test('close() closes connected and disconnected sessions with reason shutdown, and aborts their signals', async t => {
  const { app, sessions, url } = await serve(t)
  const opened: Session[] = []
  const signals = new Map<Session, AbortSignal>()
  const closed: Array<[string, string, boolean | undefined]> = []
  sessions.addHook('onOpen', session => {
    opened.push(session)
    signals.set(session, session.signal)
  })
  sessions.addHook('onClose', (session, reason) => { closed.push([session.id, reason, signals.get(session)?.aborted]) })
  await openStream(t, url)
  const lost = await openStream(t, url)
  const [first, second] = opened as [Session, Session]
  t.notOk(signals.get(first)?.aborted)
  lost.destroy()
  await waitUntil(() => !second.connected, 'the disconnect')
  await withTimeout(app.close(), 'close()')
  t.strictSame(closed, [[first.id, 'shutdown', true], [second.id, 'shutdown', true]])
  t.match(signals.get(first)?.reason, { code: 'FST_SSE_SESSION_OVER' })
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} reconnects to the restarted server`, async t => {
    const options = { closeTimeout: 500, retry: 10 }
    const { app, url, port } = await serve(t, options)
    const source = open(t, `${url}/downward`)
    const welcomes: Array<{ sessionId: string, previous?: string }> = []
    const first = deferred()
    const second = deferred()
    let closes = 0
    source.addEventListener('close', () => { closes++ })
    source.addEventListener('welcome', ({ data }) => {
      if (welcomes.push(JSON.parse(String(data)) as { sessionId: string }) === 1) first.resolve()
      else second.resolve()
    })
    await withTimeout(first.promise, 'the welcome')
    await withTimeout(app.close(), 'close()')
    const restarted = Fastify()
    t.teardown(() => restarted.close())
    await restarted.register(sseSessions, options)
    await restarted.listen({ port, host: '127.0.0.1' })
    await withTimeout(second.promise, 'the welcome of the restarted server')
    t.equal(welcomes[1]?.previous, 'unknown')
    t.not(welcomes[1]?.sessionId, welcomes[0]?.sessionId)
    t.equal(closes, 0)
  })
}

/** Serves an app whose close() waits, after the plugin has closed its streams, until `release` is called. `reached` resolves when it waits. */
async function serveWithBlockedClose (t: Test, options: SseSessionsOptions = {}): Promise<Awaited<ReturnType<typeof serve>> & { reached: Promise<void>, release: () => void }> {
  const blocked = deferred()
  const reached = deferred()
  const after = (app: FastifyInstance): void => {
    app.addHook('preClose', () => {
      reached.resolve()
      return blocked.promise
    })
  }
  return { ...await serve(t, options, { fastify: { return503OnClosing: false }, afterRegister: after }), reached: withTimeout(reached.promise, 'the preClose hook'), release: () => { blocked.resolve() } }
}

t.test('while the server closes, a stream request gets only a retry delay, and other requests get 503', async t => {
  const { app, sessions, url, reached, release } = await serveWithBlockedClose(t, { closeTimeout: 700, retry: 10 })
  const { sessionId, events: [welcome] } = await openStream(t, url)
  const closing = app.close()
  await reached
  for (const headers of [{}, { 'last-event-id': String(welcome?.id) }, { 'x-session-id': sessionId }]) {
    const { status, headers: got, text, ended } = await openStream(t, url, { headers, skipWelcome: true })
    await withTimeout(ended, 'the end of the response')
    t.equal(status, 200)
    t.match(got['content-type'], /^text\/event-stream/)
    t.equal(text(), 'retry: 710\n\n')
  }
  const refusal = { statusCode: 503, code: 'FST_SSE_CLOSING' }
  const response = await postMessage(url, sessionId, { text: 'hi' })
  t.match(response, { status: 503, headers: { 'retry-after': '1' }, body: refusal })
  const deletion = await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId } })
  t.match(deletion, { statusCode: 503, headers: { 'retry-after': '1' } })
  t.match(await deletion.body.json(), refusal)
  t.equal(sessions.size, 0)
  release()
  await withTimeout(closing, 'close()')
})

for (const where of ['principal', 'onOpen', 'onSend', 'onResume']) {
  t.test(`a request whose ${where} is still running when close() begins gets only a retry delay`, async t => {
    const started = deferred()
    const release = deferred()
    let isEnabled = false
    const createBlocker = (place: string) => async () => {
      if (place !== where || !isEnabled) return
      started.resolve()
      await release.promise
    }
    const { app, sessions, url } = await serve(t, {
      closeTimeout: 300,
      retry: 10,
      principal: async () => {
        await createBlocker('principal')()
        return 'ann'
      },
      routes: { downward: { onSend: createBlocker('onSend') } }
    })
    const calls: string[] = []
    sessions.addHook('onOpen', () => { calls.push('open') })
    sessions.addHook('onOpen', createBlocker('onOpen'))
    sessions.addHook('onResume', createBlocker('onResume'))
    sessions.addHook('onClose', (_session, reason) => { calls.push(reason) })
    const first = where === 'onResume' ? await openStream(t, url) : undefined
    isEnabled = true
    const opening = openStream(t, url, { skipWelcome: true, headers: first === undefined ? {} : { 'x-session-id': first.sessionId } })
    await withTimeout(started.promise, 'the request')
    const closing = app.close()
    await waitUntil(() => sessions.closing, 'close() to begin')
    release.resolve()
    const { status, text, ended } = await withTimeout(opening, 'the response')
    await withTimeout(ended, 'the end of the response')
    t.equal(status, 200)
    t.equal(text(), 'retry: 310\n\n')
    await withTimeout(closing, 'close()')
    t.strictSame(calls, ['open', 'shutdown'])
    t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
  })
}

t.test('a message that got 503 at the end of closeTimeout is not handled later, while the store is being closed', async t => {
  const store = new FlakyStore()
  const { app, sessions, url } = await serve(t, { closeTimeout: 50, store: store.createStore })
  const [started, first, end] = [deferred(), deferred(), deferred()]
  const handled: unknown[] = []
  sessions.handle('message', async (_session, data) => {
    handled.push(data)
    started.resolve()
    await first.promise
  })
  // The end of this run delays the close of the store.
  await sessions.runs.start('endless', {}, () => ({ [Symbol.asyncIterator]: () => ({ next: async () => await new Promise<never>(() => {}) }) }))
  store.delay = name => name === 'end' ? end.promise : undefined
  const { sessionId } = await openStream(t, url)
  const running = postMessage(url, sessionId, 1)
  await withTimeout(started.promise, 'the handler')
  const waiting = postMessage(url, sessionId, 2)
  await waitForWaitingMessages(sessions, sessionId, 1)
  const closed = app.close()
  t.match(await withTimeout(Promise.all([running, waiting]), 'the responses'), [{ status: 504 }, { status: 503, body: { code: 'FST_SSE_CLOSING' } }])
  first.resolve()
  await nextEventLoopTick()
  t.strictSame(handled, [1])
  end.resolve()
  await withTimeout(closed, 'close()')
})
