// Plain Fastify routes: each stream is hijacked and written by hand, without chunked encoding, like the streams of `ours`. This
// shows what Fastify itself costs.
import Fastify from 'fastify'
import { randomUUID } from 'node:crypto'
import { frame } from './support/frame.js'

export async function start () {
  const sessions = new Map()
  const app = Fastify()

  app.get('/downward', (_request, reply) => {
    const sessionId = randomUUID()
    const { raw } = reply.hijack()
    sessions.set(sessionId, raw)
    raw.on('close', () => { sessions.delete(sessionId) })
    raw.removeHeader('transfer-encoding')
    raw.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', 'X-Session-ID': sessionId, Connection: 'close' })
    raw.write(`event: welcome\ndata: ${JSON.stringify({ sessionId })}\n\n`)
  })

  app.post('/upward', (request, reply) => {
    sessions.get(request.headers['x-session-id']).write(frame(request.body))
    reply.code(202).send({ status: 'accepted' })
  })

  app.post('/upward/request', ({ body: { n } }, reply) => { reply.send({ n, ok: true }) })

  await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    port: app.server.address().port,
    protocol: 'sse',
    size: () => sessions.size,
    broadcast (data) {
      const event = frame(data)
      for (const raw of sessions.values()) raw.write(event)
    }
  }
}
