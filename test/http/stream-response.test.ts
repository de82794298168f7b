import { get } from 'node:http'
import type { Socket } from 'node:net'
import t from 'tap'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { collectProcessWarnings } from '../support/process-warnings.js'
import { formatGet, openRawClient, recordOpenedSessions } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

t.test('over HTTP/1.1, each write is one chunk and one write to the socket, and the end of a stream closes the connection', async t => {
  const { sessions, port } = await serve(t)
  const opened = recordOpenedSessions(sessions)
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  const [{ session, socket }] = opened as [typeof opened[0]]
  const writes: unknown[] = []
  const { write } = socket
  socket.write = ((...args: unknown[]) => {
    writes.push(args[0])
    return Reflect.apply(write, socket, args)
  }) as typeof write
  for (const text of ['first', 'naïve 😀']) {
    await session.send(text)
    await client.waitFor(text)
  }
  t.equal(writes.length, 2)
  await session.close('done')
  await withTimeout(client.closed, 'the end of the connection')

  const [head = '', ...rest] = client.rawText().split('\r\n\r\n')
  t.match(head, /^connection: close$/im)
  t.match(head, /^transfer-encoding: chunked$/im)
  const chunks = Array.from(rest.join('\r\n\r\n').matchAll(/([\da-f]+)\r\n([^\r]*)\r\n/g), ([, size = '', data = '']) => {
    t.equal(Number.parseInt(size, 16), Buffer.byteLength(data), 'the size is the number of bytes')
    return data
  })
  matchList(t, chunks, [
    /^retry: \d+\nevent: welcome\n[^]+\n\n$/,
    /\ndata: "first"\n\n$/,
    /\ndata: "naïve 😀"\n\n$/,
    /^event: close\nid: closed\ndata: {"reason":"done"}\n\n$/,
    /^$/
  ])
})

t.test('over HTTP/1.0, a stream has no chunks', async t => {
  const { sessions, port } = await serve(t)
  const client = openRawClient(t, port, { request: 'GET /downward HTTP/1.0\r\n\r\n' })
  await client.waitFor('event: welcome')
  await sessions.broadcast('news', 'naïve')
  await client.waitFor('naïve')
  await (await sessions.find(/"sessionId":"([^"]+)/.exec(client.rawText())?.[1] ?? ''))?.close('done')
  await withTimeout(client.closed, 'the end of the connection')
  const [head = '', body = ''] = client.rawText().split('\r\n\r\n')
  t.notMatch(head, /^(transfer-encoding|content-length):/im)
  t.match(body, /^retry: \d+\nevent: welcome\n[^]+\n\nid: [^]+data: "naïve"\n\nevent: close\nid: closed\ndata: {"reason":"done"}\n\n$/)
})

t.test('a stream that ends is a complete response, and one whose connection is lost is an aborted one', async t => {
  const { sessions, port } = await serve(t)
  for (const isComplete of [true, false]) {
    const opened = recordOpenedSessions(sessions)
    const done = deferred<boolean>()
    get({ port, path: '/downward', agent: false }, response => {
      response.resume().on('error', () => {}).on('close', () => { done.resolve(response.complete) })
    })
    await waitUntil(() => opened.length === 1 && opened[0]?.session.connected === true, 'the stream')
    if (isComplete) await opened[0]?.session.close('done')
    else opened[0]?.socket.destroy()
    t.equal(await withTimeout(done.promise, 'the end of the response'), isComplete)
  }
})

t.test('pipelined requests that get no stream leave no listeners on their socket', async t => {
  const sockets = new Set<Socket>()
  const { port } = await serve(t, {}, { beforeRegister: app => app.addHook('onRequest', async ({ socket }) => { sockets.add(socket) }) })
  const warned = collectProcessWarnings(t)
  const client = openRawClient(t, port, { request: formatGet({ 'last-event-id': 'closed' }) })
  await client.waitFor('204')
  const [socket] = sockets
  const before = socket?.listenerCount('close')
  client.socket.write(formatGet({ 'last-event-id': 'closed' }).repeat(20))
  await waitUntil(() => client.text().split('204').length === 22, 'all responses')
  await nextEventLoopTick()
  t.equal(socket?.listenerCount('close'), before)
  t.strictSame(warned, [])
})

t.test('with padding, a proxy that forwards blocks of 4 KiB forwards the welcome', async t => {
  const { port } = await serve(t, { padding: true })
  const client = openRawClient(t, port)
  await client.waitFor('\n\n: ')
  const [head = '', ...rest] = client.rawText().split('\r\n\r\n')
  t.ok(Buffer.byteLength(`${head}\r\n\r\n${rest.join('\r\n\r\n')}`) > 4096)
  t.match(client.text(), /\r\n\r\nretry: \d+\nevent: welcome\nid: .*\ndata: .*\n\n: {4093}\n\n$/, 'the comment has 4 KiB, and the welcome precedes it')
})
