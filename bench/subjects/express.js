// A typical hand-written Express server: a Map of responses, and eventsource-encoder encodes each event for each client.
import { encode } from 'eventsource-encoder'
import express from 'express'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'

export async function start () {
  const sessions = new Map()
  const app = express()
  app.use(express.json())

  app.get('/downward', (request, response) => {
    const sessionId = randomUUID()
    sessions.set(sessionId, response)
    request.on('close', () => { sessions.delete(sessionId) })
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', Connection: 'keep-alive' })
    response.write(encode({ event: 'welcome', data: JSON.stringify({ sessionId }) }))
  })

  app.post('/upward', (request, response) => {
    const stream = sessions.get(request.get('X-Session-ID'))
    if (stream === undefined) return response.status(404).json({ error: 'Session not found' })
    stream.write(encode({ data: JSON.stringify(request.body) }))
    return response.status(201).json({ status: 'Message sent successfully' })
  })

  const server = app.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    protocol: 'sse',
    size: () => sessions.size,
    broadcast: data => { for (const response of sessions.values()) response.write(encode({ data: JSON.stringify(data) })) }
  }
}
