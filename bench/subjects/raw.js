// A hand-written node:http server: each event is framed once and written with one `response.write` per client. The other
// subjects are compared with it.
import { randomUUID } from 'node:crypto'
import { frame } from './support/frame.js'
import { serve } from './support/node-http.js'

/** If `isChunked` is false, closing the connection ends the stream. */
export async function start ({ heartbeatInterval = 15_000, isChunked = true } = {}) {
  const sessions = new Map()

  function open (_request, response) {
    const sessionId = randomUUID()
    sessions.set(sessionId, response)
    response.on('close', () => { sessions.delete(sessionId) })
    if (!isChunked) {
      response.removeHeader('transfer-encoding')
      response.setHeader('Connection', 'close')
    }
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', 'X-Session-ID': sessionId })
    response.write(`event: welcome\ndata: ${JSON.stringify({ sessionId })}\n\n`)
  }

  setInterval(() => { for (const response of sessions.values()) response.write(': heartbeat\n') }, heartbeatInterval)
  return {
    port: await serve(open, (sessionId, data) => { sessions.get(sessionId).write(frame(data)) }),
    protocol: 'sse',
    hasHeartbeats: true,
    size: () => sessions.size,
    broadcast (data) {
      const event = frame(data)
      for (const response of sessions.values()) response.write(event)
    }
  }
}
