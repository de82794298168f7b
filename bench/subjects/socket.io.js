// Socket.IO over its WebSocket transport.
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Server } from 'socket.io'

export async function start ({ heartbeatInterval: pingInterval = 25_000 } = {}) {
  const server = createServer()
  const io = new Server(server, { transports: ['websocket'], pingInterval })
  io.on('connection', socket => {
    socket.on('message', data => { socket.emit('message', data) })
    socket.emit('welcome', { sessionId: socket.id })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    dialect: 'socket.io',
    heartbeats: true,
    size: () => io.engine.clientsCount,
    broadcast: data => { io.emit('message', data) }
  }
}
