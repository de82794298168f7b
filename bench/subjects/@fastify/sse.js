// @fastify/sse: a Map of its streams, and a loop over them for each broadcast.
import sse from '@fastify/sse'
import Fastify from 'fastify'
import { randomUUID } from 'node:crypto'
import { generateTokens } from '../../harness/payload.js'

export async function start ({ heartbeatInterval = 30_000 } = {}) {
  const streams = new Map()
  const app = Fastify()
  await app.register(sse, { heartbeatInterval })

  app.get('/downward', { sse: 'only' }, async (request, reply) => {
    const sessionId = randomUUID()
    streams.set(sessionId, reply.sse)
    reply.sse.keepAlive()
    reply.sse.onClose(() => { streams.delete(sessionId) })
    await reply.sse.send({ event: 'welcome', data: { sessionId } })
  })

  app.post('/upward', async (request, reply) => {
    const { body } = request
    await streams.get(request.headers['x-session-id']).send({ id: body.n, data: body })
    reply.code(202)
    return { status: 'accepted' }
  })

  await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    port: app.server.address().port,
    protocol: 'sse',
    hasHeartbeats: true,
    size: () => streams.size,
    broadcast: data => { for (const stream of streams.values()) stream.send({ id: data.n, data }) },
    streamTokens: async (first, count) => {
      const createEvents = () => generateTokens(first, count, data => ({ id: data.n, data }))
      await Promise.all([...streams.values()].map(stream => stream.send(createEvents())))
    }
  }
}
