import type { Socket } from 'node:net'
import t from 'tap'
import { serve } from '../support/server.js'
import { openStream } from '../support/stream.js'
import { warnings } from '../support/process-warnings.js'
import { get, wire } from '../support/wire.js'
import { turn, until, within } from '../support/wait.js'

t.test('a stream over HTTP/1.1 is not chunked, and its end closes the connection', async t => {
  const { sessions, port } = await serve(t)
  sessions.addHook('onOpen', session => { session.close('done') })
  const client = wire(t, port)
  await within(client.closed, 'the end of the connection')
  const [head = '', body = ''] = client.text().split('\r\n\r\n')
  t.match(head, /^connection: close$/im)
  t.notMatch(head, /^(transfer-encoding|content-length):/im)
  t.match(body, /^retry: \d+\nevent: welcome\n[^]+\nevent: close\nid: closed\ndata: {"reason":"done"}\n\n$/)
})

t.test('an onSend hook of the app can make the stream chunked', async t => {
  const { sessions, url } = await serve(t, {}, {
    before: app => app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('transfer-encoding', 'chunked')
      done(null, payload)
    })
  })
  const { waitFor, events } = await openStream(t, url)
  for (const n of [1, 2, 3]) {
    sessions.broadcast('n', n)
    await waitFor(({ data }) => data === n)
  }
  t.strictSame(events.map(({ event }) => event), ['welcome', 'n', 'n', 'n'])
})

t.test('pipelined requests that get no stream leave no listeners on their socket', async t => {
  const sockets = new Set<Socket>()
  const { port } = await serve(t, {}, { before: app => app.addHook('onRequest', async ({ socket }) => { sockets.add(socket) }) })
  const warned = warnings(t)
  const client = wire(t, port, { request: get({ 'last-event-id': 'closed' }) })
  await client.waitFor('204')
  const [socket] = sockets
  const before = socket?.listenerCount('close')
  client.socket.write(get({ 'last-event-id': 'closed' }).repeat(20))
  await until(() => client.text().split('204').length === 22, 'all responses')
  await turn()
  t.equal(socket?.listenerCount('close'), before)
  t.strictSame(warned, [])
})
