import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { ask, http2Client, http2Server } from '../support/http2.js'
import { faultProxy } from '../support/proxy.js'
import { serve } from '../support/server.js'
import { FILL, flood, listOpened, numbersIn, streamsOpen } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

const GET = { ':path': '/downward' }

t.test('close() finishes within closeTimeout with stalled, idle and dead HTTP/2 connections', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 1500, retry: 10 }, { fastify: http2Server })
  const opened = listOpened(sessions)
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  const connections = Array.from({ length: 4 }, () => http2Client(t, { port }))
  const readers = await Promise.all(connections.flatMap(client => Array.from({ length: 50 }, () => ask(client, GET))))
  // Streams whose own flow-control window fills up, on connections whose other streams are read.
  const unread = await Promise.all(connections.flatMap(client => Array.from({ length: 5 }, () => ask(client, GET, { stalled: true }))))
  const idle = [http2Client(t, { port }), http2Client(t, { port })]
  await Promise.all(idle.map(client => within(new Promise(resolve => { client.once('remoteSettings', resolve) }), 'the connection')))
  // Connections that no longer receive anything: one with full buffers, one with an idle stream, one without streams.
  const proxy = await faultProxy(t, port)
  const full = http2Client(t, proxy, 2 ** 26)
  await Promise.all(Array.from({ length: 5 }, () => ask(full, GET)))
  await ask(http2Client(t, proxy), GET)
  const dead = http2Client(t, proxy)
  await within(new Promise(resolve => { dead.once('remoteSettings', resolve) }), 'the connection')
  await streamsOpen(sessions, 226)
  for (const { server } of proxy.connections) server.pause()

  const ids = unread.map(({ headers }) => String(headers['x-session-id']))
  const stalled = opened.map(({ session }) => session).filter((session, index) => ids.includes(session.id) || (index >= 220 && index < 225))
  for (const session of stalled) await session.join('stalled')
  await flood(stalled, () => sessions.channel('stalled').send(FILL))
  await sessions.broadcast('last', 1)
  await within(app.close(), 'close()', 1500 + 5000)
  await within(Promise.all([...readers, ...unread].map(({ ended }) => ended)), 'the end of the streams')
  t.equal(readers.filter(({ text }) => text().includes('event: last') && text().endsWith('\n\nretry: 1510\n\n')).length, 200, 'every reader received the last event and the final retry field')
  t.ok([...connections, ...idle].every(({ destroyed }) => destroyed), 'the connections are closed')
  t.strictSame(reasons, Array(226).fill('shutdown'))
  t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
})

t.test('the backlog of an HTTP/2 stream arrives completely within closeTimeout', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 9500, retry: 10, log: { bytes: 2 ** 23 } }, { fastify: http2Server })
  const stream = await ask(http2Client(t, { port }), GET, { stalled: true })
  const session = await sessions.find(String(stream.headers['x-session-id']))
  if (session === undefined) throw new Error('There is no session')
  const count = await flood([session], n => session.send({ n, FILL }))
  const closing = app.close()
  stream.read()
  await within(stream.ended, 'the end of the stream')
  t.strictSame(numbersIn(stream.text()), Array.from({ length: count }, (_, i) => i + 1))
  t.match(stream.text(), /\n\nretry: 9510\n\n$/)
  await within(closing, 'close()', 6000)
})

t.test('aborting a stalled HTTP/2 stream does not abort another request on the same connection', async t => {
  const started = signal()
  const release = signal<string>()
  const { app, sessions, port } = await serve(t, { closeTimeout: 200 }, {
    fastify: http2Server,
    before: app => app.get('/slow', () => {
      started.resolve()
      return release.promise
    })
  })
  const client = http2Client(t, { port })
  const slow = ask(client, { ':path': '/slow' })
  const stream = await ask(client, GET, { stalled: true })
  const session = await sessions.find(String(stream.headers['x-session-id']))
  if (session === undefined) throw new Error('There is no session')
  await flood([session], () => session.send(FILL))
  await within(started.promise, 'the request')
  const closing = app.close()
  await until(() => sessions.stats().streams === 0, 'the end of the stalled stream')
  // The closeTimeout of the connection has passed, too.
  await new Promise(resolve => { setTimeout(resolve, 50) })
  release.resolve('completed')
  const { headers, text, ended } = await slow
  await within(ended, 'the end of the response')
  t.match(headers, { ':status': 200 })
  t.equal(text(), 'completed')
  await within(closing, 'close()')
})

t.test('an HTTP/2 connection that opens while the server closes does not delay close()', async t => {
  const reached = signal()
  const release = signal()
  const after = (app: FastifyInstance): void => {
    app.addHook('preClose', () => {
      reached.resolve()
      return release.promise
    })
  }
  const { app, port } = await serve(t, { closeTimeout: 300 }, { fastify: http2Server, after })
  const closing = app.close()
  await within(reached.promise, 'the preClose hook')
  const late = http2Client(t, { port })
  await within(new Promise(resolve => { late.once('close', resolve) }), 'the end of the connection')
  release.resolve()
  await within(closing, 'close()', 6000)
  t.ok(late.destroyed)
})
