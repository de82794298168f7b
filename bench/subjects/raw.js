// By hand on node:http: an event is framed once, and one res.write a client. What the others are compared with.
import { randomUUID } from 'node:crypto'
import { frame } from './support/frame.js'
import { serve } from './support/node-http.js'

/** Without `chunked`, a stream ends with its connection. */
export async function start ({ heartbeatInterval = 15_000, chunked = true } = {}) {
  const sessions = new Map()

  function open (_request, response) {
    const sessionId = randomUUID()
    sessions.set(sessionId, response)
    response.on('close', () => { sessions.delete(sessionId) })
    if (!chunked) {
      response.removeHeader('transfer-encoding')
      response.setHeader('Connection', 'close')
    }
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', 'X-Session-ID': sessionId })
    response.write(`event: welcome\ndata: ${JSON.stringify({ sessionId })}\n\n`)
  }

  setInterval(() => { for (const response of sessions.values()) response.write(': heartbeat\n') }, heartbeatInterval)
  return {
    port: await serve(open, (sessionId, data) => { sessions.get(sessionId).write(frame(data)) }),
    dialect: 'sse',
    heartbeats: true,
    size: () => sessions.size,
    broadcast (data) {
      const ready = frame(data)
      for (const response of sessions.values()) response.write(ready)
    }
  }
}
