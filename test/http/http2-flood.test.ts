import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { FastifyServerOptions } from 'fastify'
import t from 'tap'
import { waitUntilCollected } from '../support/gc.js'
import { serve } from '../support/server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const PREFACE = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])])
const PING = Buffer.from([0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])

t.test('frees HTTP/2 connections that were reset with unread PINGs', async t => {
  const sockets: Array<WeakRef<Socket>> = []
  let closed = 0
  const { port } = await serve(t, {}, {
    // Fastify keeps a closed HTTP/2 session in memory until this time has passed.
    fastify: { http2: true, http2SessionTimeout: 50 } as FastifyServerOptions,
    beforeRegister: app => app.server.on('connection', socket => {
      sockets.push(new WeakRef(socket))
      socket.on('close', () => { closed++ })
    })
  })
  const count = 20
  for (let n = 0; n < count; n++) {
    const client = connect(port, '127.0.0.1').on('error', () => {})
    await withTimeout(once(client, 'connect'), 'the connection')
    client.pause().write(Buffer.concat([PREFACE, ...Array<Buffer>(5000).fill(PING)]))
    await waitUntil(() => (sockets[n]?.deref()?.bytesRead ?? 0) > 0, 'the server to read')
    client.resetAndDestroy()
  }
  await waitUntil(() => closed === count, 'the server to close the connections')
  for (const socket of sockets) await waitUntilCollected(socket, 'the socket')
})
