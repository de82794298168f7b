// better-sse on node:http, with a channel that every session is in.
import { createChannel, createSession } from 'better-sse'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'

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

  function receive (request, response) {
    let body = ''
    request.setEncoding('utf8')
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      sessions.get(request.headers['x-session-id']).push(JSON.parse(body))
      const answer = '{"status":"accepted"}'
      response.writeHead(202, { 'Content-Type': 'application/json', 'Content-Length': answer.length })
      response.end(answer)
    })
  }

  const server = createServer((request, response) => {
    if (request.method === 'GET') open(request, response)
    else receive(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    dialect: 'sse',
    heartbeats: true,
    size: () => sessions.size,
    broadcast: data => { channel.broadcast(data) }
  }
}
