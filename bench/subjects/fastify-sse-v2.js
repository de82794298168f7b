// fastify-sse-v2: a Map of replies, and a loop over them for each broadcast.
import Fastify from 'fastify'
import { FastifySSEPlugin } from 'fastify-sse-v2'
import { randomUUID } from 'node:crypto'

export async function start () {
  const replies = new Map()
  const app = Fastify()
  await app.register(FastifySSEPlugin)

  app.get('/downward', (request, reply) => {
    const sessionId = randomUUID()
    replies.set(sessionId, reply)
    request.socket.on('close', () => { replies.delete(sessionId) })
    reply.sse({ event: 'welcome', data: JSON.stringify({ sessionId }) })
  })

  app.post('/upward', async (request, reply) => {
    replies.get(request.headers['x-session-id']).sse(toEvent(request.body))
    reply.code(202)
    return { status: 'accepted' }
  })

  await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    port: app.server.address().port,
    protocol: 'sse',
    size: () => replies.size,
    broadcast: data => { for (const reply of replies.values()) reply.sse(toEvent(data)) }
  }
}

const toEvent = data => ({ id: String(data.n), data: JSON.stringify(data) })
