// By hand on node:http: an event is framed once, and one res.write a client. What the others are compared with.
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'

export async function start ({ heartbeatInterval = 15_000 } = {}) {
  const sessions = new Map()

  function open (response) {
    const sessionId = randomUUID()
    sessions.set(sessionId, response)
    response.on('close', () => { sessions.delete(sessionId) })
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', 'X-Session-ID': sessionId })
    response.write(`event: welcome\ndata: ${JSON.stringify({ sessionId })}\n\n`)
  }

  function receive (request, response) {
    let body = ''
    request.setEncoding('utf8')
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      const data = JSON.parse(body)
      sessions.get(request.headers['x-session-id']).write(frame(data))
      const answer = '{"status":"accepted"}'
      response.writeHead(202, { 'Content-Type': 'application/json', 'Content-Length': answer.length })
      response.end(answer)
    })
  }

  const server = createServer((request, response) => {
    if (request.method === 'GET') open(response)
    else receive(request, response)
  })
  setInterval(() => { for (const response of sessions.values()) response.write(': heartbeat\n') }, heartbeatInterval)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    dialect: 'sse',
    heartbeats: true,
    size: () => sessions.size,
    broadcast (data) {
      const ready = frame(data)
      for (const response of sessions.values()) response.write(ready)
    }
  }
}

const frame = data => `id: ${data.n}\ndata: ${JSON.stringify(data)}\n\n`
