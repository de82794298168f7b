// Socket.IO, over WebSocket by default. With Redis, it uses its Redis streams adapter.
import { createAdapter } from '@socket.io/redis-streams-adapter'
import { Redis } from 'ioredis'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Server } from 'socket.io'

export async function start ({ heartbeatInterval: pingInterval = 25_000, redisPort, transport = 'websocket', connectionStateRecovery } = {}) {
  const server = createServer()
  const io = new Server(server, { transports: [transport], pingInterval, connectionStateRecovery, ...redisPort !== undefined && { adapter: await createReadyAdapter(redisPort) } })
  io.on('connection', socket => {
    socket.on('message', data => { socket.emit('message', data) })
    // Socket.IO puts each socket into a room with its own id.
    socket.on('relay', ({ to, ...data }) => { io.to(to).emit('message', data) })
    socket.on('request', ({ n }, acknowledge) => { acknowledge({ n, ok: true }) })
    socket.emit('welcome', { sessionId: socket.id })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    protocol: transport === 'polling' ? 'socket.io-polling' : 'socket.io',
    hasHeartbeats: true,
    size: () => io.engine.clientsCount,
    broadcast: data => { io.emit('message', data) }
  }
}

/** Resolves when the adapter has started to read. It would miss everything that is published before. */
async function createReadyAdapter (port) {
  const name = `node-${process.pid}`
  const client = new Redis({ port, connectionName: name })
  const adapter = createAdapter(client)
  const isReading = line => line.includes(`name=${name} `) && line.includes('cmd=xread')
  while (!(await client.client('LIST')).split('\n').some(isReading)) await sleep(10)
  return adapter
}
