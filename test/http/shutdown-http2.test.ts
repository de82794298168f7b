import { mock } from 'node:test'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import t from 'tap'
import { requestHttp2, connectHttp2, http2Options } from '../support/http2.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { LONG_CLOSE_TIMEOUT, serve } from '../support/server.js'
import { finishClosing } from './support/finish-closing.js'
import { PADDING, sendUntilStalled, recordOpenedSessions, parseNumbers, waitForStreams } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const GET = { ':path': '/downward' }
const fastify = { ...http2Options, pluginTimeout: 0 } as FastifyServerOptions

t.test('close() aborts stalled HTTP/2 streams after closeTimeout, and closes idle and dead connections', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 1500, retry: 10 }, { fastify: http2Options })
  const opened = recordOpenedSessions(sessions)
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  const connections = Array.from({ length: 4 }, () => connectHttp2(t, { port }))
  const readers = await Promise.all(connections.flatMap(client => Array.from({ length: 50 }, () => requestHttp2(client, GET))))
  // Streams whose own flow-control window fills up, on connections whose other streams are read.
  const unread = await Promise.all(connections.flatMap(client => Array.from({ length: 5 }, () => requestHttp2(client, GET, { stalled: true }))))
  const idle = [connectHttp2(t, { port }), connectHttp2(t, { port })]
  await Promise.all(idle.map(client => withTimeout(new Promise(resolve => { client.once('remoteSettings', resolve) }), 'the connection')))
  // Connections that no longer receive anything: one with full buffers, one with an idle stream, one without streams.
  const proxy = await startFaultProxy(t, port)
  const full = connectHttp2(t, proxy, 2 ** 26)
  await Promise.all(Array.from({ length: 5 }, () => requestHttp2(full, GET)))
  await requestHttp2(connectHttp2(t, proxy), GET)
  const dead = connectHttp2(t, proxy)
  await withTimeout(new Promise(resolve => { dead.once('remoteSettings', resolve) }), 'the connection')
  await waitForStreams(sessions, 226)
  for (const { server } of proxy.connections) server.pause()

  const ids = unread.map(({ headers }) => String(headers['x-session-id']))
  const stalled = opened.map(({ session }) => session).filter((session, index) => ids.includes(session.id) || (index >= 220 && index < 225))
  for (const session of stalled) await session.join('stalled')
  await sendUntilStalled(stalled, () => sessions.channel('stalled').send(PADDING))
  await sessions.broadcast('last', 1)
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => { mock.timers.reset() })
  const closing = app.close()
  await withTimeout(Promise.all(readers.map(({ ended }) => ended)), 'the end of the streams that are read')
  mock.timers.tick(1499)
  await nextEventLoopTick()
  t.ok(sessions.stats().streams >= stalled.length, 'the stalled streams are still open')
  mock.timers.tick(1)
  await waitUntil(() => sessions.stats().streams === 0, 'the end of the stalled streams')
  await finishClosing(closing)
  await withTimeout(Promise.all([...readers, ...unread].map(({ ended }) => ended)), 'the end of the streams')
  t.equal(readers.filter(({ text }) => text().includes('event: last') && text().endsWith('\n\nretry: 1510\n\n')).length, 200, 'every reader received the last event and the final retry field')
  t.ok([...connections, ...idle].every(({ destroyed }) => destroyed), 'the connections are closed')
  t.strictSame(reasons, Array(226).fill('shutdown'))
  t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
})

t.test('the backlog of an HTTP/2 stream arrives completely within closeTimeout', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: LONG_CLOSE_TIMEOUT, retry: 10, log: { bytes: 2 ** 23 } }, { fastify })
  const stream = await requestHttp2(connectHttp2(t, { port }), GET, { stalled: true })
  const session = await sessions.find(String(stream.headers['x-session-id']))
  if (session === undefined) throw new Error('There is no session')
  const count = await sendUntilStalled([session], n => session.send({ n, padding: PADDING }))
  const closing = app.close()
  stream.read()
  await withTimeout(stream.ended, 'the end of the stream')
  t.strictSame(parseNumbers(stream.text()), Array.from({ length: count }, (_, i) => i + 1))
  t.match(stream.text(), /\n\nretry: 60010\n\n$/)
  await withTimeout(closing, 'close()')
})

t.test('aborting a stalled HTTP/2 stream does not abort another request on the same connection', async t => {
  const started = deferred()
  const release = deferred<string>()
  const { sessions, port } = await serve(t, {}, {
    fastify: http2Options,
    beforeRegister: app => app.get('/slow', () => {
      started.resolve()
      return release.promise
    })
  })
  const client = connectHttp2(t, { port })
  const slow = requestHttp2(client, { ':path': '/slow' })
  const stream = await requestHttp2(client, GET, { stalled: true })
  const session = await sessions.find(String(stream.headers['x-session-id']))
  if (session === undefined) throw new Error('There is no session')
  await sendUntilStalled([session], () => session.send(PADDING))
  await withTimeout(started.promise, 'the request')
  // Another stream of the session replaces the stalled one.
  await requestHttp2(connectHttp2(t, { port }), { ...GET, 'x-session-id': session.id })
  await waitUntil(() => sessions.stats().streams === 1, 'the end of the stalled stream')
  release.resolve('completed')
  const { headers, text, ended } = await slow
  await withTimeout(ended, 'the end of the response')
  t.match(headers, { ':status': 200 })
  t.equal(text(), 'completed')
})

t.test('an HTTP/2 connection that opens while the server closes does not delay close()', async t => {
  const reached = deferred()
  const release = deferred()
  const after = (app: FastifyInstance): void => {
    app.addHook('preClose', () => {
      reached.resolve()
      return release.promise
    })
  }
  const { app, port } = await serve(t, { closeTimeout: LONG_CLOSE_TIMEOUT }, { fastify, afterRegister: after })
  const closing = app.close()
  await withTimeout(reached.promise, 'the preClose hook')
  const late = connectHttp2(t, { port })
  await withTimeout(new Promise(resolve => { late.once('close', resolve) }), 'the end of the connection')
  release.resolve()
  await withTimeout(closing, 'close()')
})
