// better-sse on node:http, with one channel that contains every session.
import { createChannel, createSession } from 'better-sse'
import { randomUUID } from 'node:crypto'
import { serve } from './support/node-http.js'

export async function start ({ heartbeatInterval: keepAlive = 10_000 } = {}) {
  const sessions = new Map()
  const channel = createChannel()

  async function open (request, response) {
    const session = await createSession(request, response, { keepAlive })
    const sessionId = randomUUID()
    sessions.set(sessionId, session)
    session.on('disconnected', () => { sessions.delete(sessionId) })
    channel.register(session)
    session.push({ sessionId }, 'welcome')
  }

  return {
    port: await serve(open, (sessionId, data) => { sessions.get(sessionId).push(data) }),
    protocol: 'sse',
    hasHeartbeats: true,
    size: () => sessions.size,
    broadcast: data => { channel.broadcast(data) }
  }
}
