// ws: each broadcast is serialized once. One timer pings all clients, as in its documentation.
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { WebSocketServer } from 'ws'

export async function start ({ heartbeatInterval = 15_000 } = {}) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 })
  server.on('connection', socket => {
    socket.isAlive = true
    socket.on('pong', pong)
    socket.on('message', echo)
    socket.on('error', console.error)
    socket.send(JSON.stringify({ sessionId: randomUUID() }))
  })
  setInterval(() => {
    for (const socket of server.clients) {
      if (!socket.isAlive) {
        socket.terminate()
        continue
      }
      socket.isAlive = false
      socket.ping()
    }
  }, heartbeatInterval)
  await once(server, 'listening')
  return {
    port: server.address().port,
    protocol: 'ws',
    hasHeartbeats: true,
    size: () => server.clients.size,
    broadcast (data) {
      const json = JSON.stringify(data)
      for (const socket of server.clients) socket.send(json)
    }
  }
}

function echo (message) {
  this.send(JSON.stringify(JSON.parse(message)))
}

function pong () {
  this.isAlive = true
}
