import { once } from 'node:events'
import { constants, type ClientHttp2Stream } from 'node:http2'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import type { FastifyRequest, FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { Session, Sessions, SseSessionsOptions } from '../../lib/index.js'
import { attachStream } from '../../lib/routes/attach-stream.js'
import { kInternals } from '../../lib/sessions/session.js'
import { ResponseSink, startStream } from '../../lib/stream/response-sink.js'
import { eventSources } from '../support/event-sources.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { serve } from '../support/server.js'
import { openStream, type ClientStream } from '../support/http-client.js'
import { connectHttp2, http2Options } from '../support/http2.js'
import { formatGet, openRawClient } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const messagesOf = ({ events }: ClientStream): unknown[] => events.filter(({ event }) => event === 'message').map(({ data }) => data)

t.test('a second stream replaces the first at once, and the first ends without a close event', async t => {
  const { sessions, url } = await serve(t)
  const hookCalls: string[] = []
  sessions.addHook('onDisconnect', () => { hookCalls.push('disconnect') })
    .addHook('onResume', () => { hookCalls.push('resume') })
    .addHook('onClose', () => { hookCalls.push('close') })
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  await session?.send(1)
  await first.waitFor(({ data }) => data === 1)
  const second = await openStream(t, url, { headers: { 'last-event-id': first.events.at(-1)?.id ?? '' } })
  await withTimeout(first.ended, 'the first stream to end')
  t.match(second.events[0], { event: 'welcome', data: { resumed: true, sessionId: first.sessionId } })
  await session?.send(2)
  await second.waitFor(({ data }) => data === 2)
  t.strictSame([messagesOf(first), messagesOf(second)], [[1], [2]])
  t.strictSame(first.events.map(({ event }) => event), ['welcome', 'message', 'replaced'])
  t.match(first.text(), /\nevent: replaced\nid: closed\ndata: \{\}\n\n$/)
  t.strictSame(hookCalls, ['resume'], 'the session was never disconnected')
  t.strictSame(sessions.stats(), { sessions: 1, streams: 1, channels: 0 })
  t.equal(session?.connected, true)
})

t.test('only the end of the last stream disconnects the session, not the end of a replaced one', async t => {
  const { sessions, url } = await serve(t)
  let disconnects = 0
  sessions.addHook('onDisconnect', () => { disconnects++ })
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  const streams = [first]
  for (let i = 0; i < 5; i++) streams.push(await openStream(t, url, { headers: { 'x-session-id': first.sessionId } }))
  for (const { ended } of streams.slice(0, -1)) await withTimeout(ended, 'the end of a replaced stream')
  await waitUntil(() => sessions.stats().streams === 1, 'one stream')
  t.strictSame([session?.connected, disconnects], [true, 0])
  streams.at(-1)?.destroy()
  await waitUntil(() => session?.connected === false, 'the disconnect')
  t.equal(disconnects, 1)
})

const { https } = http2Options as { https: object }

for (const [what, fastify, open, abort] of [
  ['closed', {}, openSocket, stream => { stream.destroy() }],
  ['reset', {}, openSocket, stream => { (stream as Socket).resetAndDestroy() }],
  ['closed over TLS', { https }, openSocket, stream => { stream.destroy() }],
  ['cancelled over HTTP/2', http2Options, openHttp2Stream, stream => { (stream as ClientHttp2Stream).close(constants.NGHTTP2_CANCEL) }]
] as Array<[string, FastifyServerOptions, typeof openSocket, (stream: Duplex) => void]>) {
  t.test(`a late request that its client has ${what} does not replace a newer stream`, async t => {
    const closed = deferred()
    let session: Session | undefined
    const { sessions, port } = await serve(t, {}, {
      fastify,
      beforeRegister: app => app.addHook('onRequest', async ({ headers }, { raw }) => { if (headers['x-late'] !== undefined) raw.once('close', closed.resolve) })
    })
    sessions.addHook('onOpen', opened => { session = opened })
    const stream = await open(t, port, {}, 'https' in fastify)
    let text = ''
    stream.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
    await waitUntil(() => text.includes('event: welcome'), 'the stream')
    const late = await open(t, port, { 'x-session-id': (session as Session).id, 'x-late': '1' }, 'https' in fastify)
    abort(late)
    await withTimeout(closed.promise, 'the end of the late request')
    await session?.send('still here')
    await waitUntil(() => text.includes('still here'), 'the event')
    t.equal(session?.connected, true)
    t.notOk(text.includes('event: replaced'))
  })
}

/** Connects to a server with or without TLS, and sends the GET of a stream. */
async function openSocket (t: Test, port: number, headers: Record<string, string>, isSecure: boolean): Promise<Duplex> {
  const socket = isSecure ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }) : connect(port, '127.0.0.1')
  t.teardown(() => { socket.destroy() })
  socket.on('error', () => {})
  await once(socket, isSecure ? 'secureConnect' : 'connect')
  socket.write(formatGet(headers))
  return socket
}

/** Sends the GET of a stream on an HTTP/2 connection of its own. */
async function openHttp2Stream (t: Test, port: number, headers: Record<string, string>): Promise<Duplex> {
  const client = connectHttp2(t, { port })
  await once(client, 'connect')
  const stream = client.request({ ':path': '/downward', accept: 'text/event-stream', ...headers })
  stream.on('error', () => {})
  await nextEventLoopTick()
  return stream
}

for (const hook of ['onResume', 'onRequest'] as const) {
  t.test(`an earlier request whose ${hook} hook takes longer does not replace the stream of a later request`, async t => {
    const [hookStarted, gate] = [deferred(), deferred()]
    const wait = async ({ headers }: FastifyRequest): Promise<void> => {
      if (headers['x-slow'] === undefined) return
      hookStarted.resolve()
      await gate.promise
    }
    const { sessions, url, port } = await serve(t, {}, { beforeRegister: app => { if (hook === 'onRequest') app.addHook('onRequest', wait) } })
    const hookCalls: string[] = []
    sessions.addHook('onDisconnect', () => { hookCalls.push('disconnect') })
    if (hook === 'onResume') sessions.addHook('onResume', async (_session, request) => { await wait(request) })
    const { sessionId } = await openStream(t, url)
    const slow = openRawClient(t, port, { headers: { 'x-session-id': sessionId, 'x-slow': '1' } })
    await withTimeout(hookStarted.promise, 'the hook of the earlier request')
    const later = await openStream(t, url, { headers: { 'x-session-id': sessionId } })
    gate.resolve()
    await withTimeout(slow.closed, 'the end of the earlier request')
    t.match(slow.text(), /\r\n\r\nevent: replaced\nid: closed\n/)
    const session = await sessions.find(sessionId)
    await session?.send('still here')
    await later.waitFor(({ data }) => data === 'still here')
    t.strictSame(hookCalls, [])
    later.destroy()
    await waitUntil(() => hookCalls.length > 0, 'the disconnect')
    t.strictSame([hookCalls, session?.connected, sessions.stats().streams], [['disconnect'], false, 0])
  })
}

t.test('a response that is refused because of a later request is not attached', async t => {
  const [hookStarted, gate] = [deferred(), deferred()]
  let isAttached = false
  const { sessions, url, port } = await serve(t, {}, {
    // As the MCP routes do.
    afterRegister: app => app.get('/early', {
      onSend: [async () => {
        hookStarted.resolve()
        await gate.promise
      }, startStream]
    }, async ({ headers }, reply) => {
      app.sseSessions.trackReply(reply, false)
      const session = await app.sseSessions.find(String(headers['x-session-id'])) as Session
      const stream = session[kInternals]
      stream.retainForResume()
      await attachStream(app.sseSessions, session, {
        sink: new ResponseSink(reply.raw),
        cursor: stream.cursor,
        requestedAt: performance.now(),
        welcome: '{}',
        resumed: true,
        headers: {},
        onAbort: () => { stream.releaseAborted() },
        onAttach: () => { isAttached = true }
      }, reply)
      return reply
    })
  })
  const { sessionId } = await openStream(t, url)
  const early = openRawClient(t, port, { request: formatGet({ 'x-session-id': sessionId }).replace('/downward', '/early') })
  await withTimeout(hookStarted.promise, 'the hook of the earlier request')
  const later = await openStream(t, url, { headers: { 'x-session-id': sessionId } })
  gate.resolve()
  await withTimeout(early.closed, 'the end of the earlier request')
  t.match(early.text(), /\r\n\r\nevent: replaced\nid: closed\n/)
  t.equal(isAttached, false)
  t.equal((await sessions.find(sessionId))?.connected, true)
  later.destroy()
})

t.test('a client replaces its own half-open stream and receives nothing twice', async t => {
  const { sessions, url, port } = await serve(t)
  const proxy = await startFaultProxy(t, port)
  const before = await openStream(t, proxy.url)
  const session = await sessions.find(before.sessionId)
  await session?.join('room')
  for (let n = 0; n < 50; n++) await (n % 2 === 0 ? session?.send(n) : sessions.channel('room').send(n))
  await before.waitFor(({ data }) => data === 49)
  proxy.breakConnection('half-open')
  await withTimeout(before.ended, 'the client to detect the disconnect')
  t.equal(session?.connected, true, 'the server has not detected the disconnect')
  for (let n = 50; n < 100; n++) await (n % 2 === 0 ? session?.send(n) : sessions.channel('room').send(n))
  const after = await openStream(t, url, { headers: { 'last-event-id': before.events.at(-1)?.id ?? '' } })
  await after.waitFor(({ data }) => data === 99)
  t.strictSame([...messagesOf(before), ...messagesOf(after)], Array.from({ length: 100 }, (_, n) => n))
})

t.test('replaces a stalled stream without waiting for it', async t => {
  const { sessions, url } = await serve(t, { log: { bytes: 64 * 1024 * 1024 } })
  const stalled = await openStream(t, url)
  stalled.body.pause()
  const session = await sessions.find(stalled.sessionId)
  const text = 'x'.repeat(64 * 1024)
  for (let n = 0; n < 200; n++) await session?.send(text)
  const second = await openStream(t, url, { headers: { 'last-event-id': stalled.events[0]?.id ?? '' } })
  await waitUntil(() => messagesOf(second).length === 200, 'all messages')
  await waitUntil(() => sessions.stats().streams === 1, 'the server to end the stalled stream')
  stalled.body.resume()
  await withTimeout(stalled.ended, 'the stalled stream to end')
  t.notMatch(stalled.text(), /event: close/)
})

t.test('delivers every event exactly once over streams that replace each other at random times', async t => {
  const next = createRandom(chooseSeed(t))
  const { sessions, url } = await serve(t)
  const count = 500
  const first = await openStream(t, url)
  const session = await sessions.find(first.sessionId)
  let last = first
  const received: unknown[] = []
  const collect = async (stream: ClientStream): Promise<void> => {
    await withTimeout(stream.ended, 'the replaced stream to end')
    received.push(...messagesOf(stream))
  }
  const sending = (async () => {
    for (let n = 0; n < count; n++) {
      session?.send(n)
      if (next() < 0.3) await new Promise(setImmediate)
    }
  })()
  for (let i = 0; i < 20; i++) {
    for (let ticks = Math.floor(next() * 5); ticks > 0; ticks--) await new Promise(setImmediate)
    const replaced = last
    // With X-Session-ID the stream resumes after what the server has written, all of which arrives in this test.
    last = await openStream(t, url, { headers: { 'x-session-id': first.sessionId } })
    await collect(replaced)
  }
  await sending
  // The last stream may have been opened after all messages were sent.
  await session?.send(count)
  await last.waitFor(({ data }) => data === count)
  received.push(...messagesOf(last))
  t.strictSame(received, Array.from({ length: count + 1 }, (_, n) => n))
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} stops when it is replaced, and does not reconnect to the session`, async t => {
    const gets: unknown[] = []
    const { sessions, url } = await serve(t, { retry: 1 }, {
      beforeRegister: app => app.addHook('onRequest', async ({ method, headers }) => { if (method === 'GET') gets.push(headers['last-event-id']) })
    })
    const source = open(t, `${url}/downward`)
    const welcome = deferred<string>()
    const messages: unknown[] = []
    source.addEventListener('welcome', ({ data }) => { welcome.resolve((JSON.parse(String(data)) as { sessionId: string }).sessionId) })
    source.addEventListener('message', ({ data }) => { messages.push(data) })
    for (const event of ['close', 'gap']) source.addEventListener(event, () => { t.fail(event) })
    const id = await withTimeout(welcome.promise, 'the welcome')
    const second = await openStream(t, url, { headers: { 'x-session-id': id } })
    await waitUntil(() => source.readyState === 2, 'the EventSource to stop')
    t.strictSame(gets, [undefined, undefined, 'closed'])
    await (await sessions.find(id))?.send('for the second')
    await second.waitFor(({ data }) => data === 'for the second')
    t.strictSame(messages, [])
    t.strictSame(sessions.stats(), { sessions: 1, streams: 1, channels: 0 })
  })
}

/** Serves a session whose first stream was replaced but not read to its end. The stream that replaced it is destroyed. */
async function serveReplacedUnread (t: Test, options: SseSessionsOptions, hookCalls: string[]): Promise<{ sessions: Sessions, first: Socket }> {
  const { app, sessions, url, port } = await serve(t, options)
  const opened = deferred<Session>()
  sessions.addHook('onOpen', session => { opened.resolve(session) })
    .addHook('onDisconnect', () => { hookCalls.push('disconnect') })
    .addHook('onClose', (_session, reason) => { hookCalls.push(reason) })
  const accepted = once(app.server, 'connection')
  const { socket: first } = openRawClient(t, port, { stalled: true })
  const [socket] = await withTimeout(accepted, 'the connection') as [Socket]
  const session = await withTimeout(opened.promise, 'the session')
  await waitUntil(() => session.connected, 'the stream')
  // The buffers of the operating system are full, but the stream does not wait for a drain yet.
  while (socket.writableLength === 0) {
    await session.send('x'.repeat(8000))
    await new Promise(setImmediate)
    await new Promise(setImmediate)
  }
  const second = await openStream(t, url, { headers: { 'x-session-id': session.id } })
  t.equal(sessions.stats().streams, 2, 'the first stream has not ended')
  second.destroy()
  await waitUntil(() => hookCalls[0] === 'disconnect', 'the disconnect')
  return { sessions, first }
}

t.test('a session expires although the client of a replaced stream does not read its end', async t => {
  const hookCalls: string[] = []
  const { sessions } = await serveReplacedUnread(t, { resumeTimeout: 50 }, hookCalls)
  await waitUntil(() => hookCalls.length === 2, 'the expiry')
  t.strictSame(hookCalls, ['disconnect', 'expired'])
  t.equal(sessions.stats().streams, 1)
})

t.test('a replaced stream that ends after its successor does not disconnect the session again', async t => {
  const hookCalls: string[] = []
  const { sessions, first } = await serveReplacedUnread(t, {}, hookCalls)
  t.equal(sessions.stats().streams, 1)
  first.destroy()
  await waitUntil(() => sessions.stats().streams === 0, 'the end of the first stream')
  t.strictSame(hookCalls, ['disconnect'])
})
