// Socket.IO, over WebSocket unless told otherwise; on many nodes with its adapter of Redis streams.
import { createAdapter } from '@socket.io/redis-streams-adapter'
import { Redis } from 'ioredis'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Server } from 'socket.io'

export async function start ({ heartbeatInterval: pingInterval = 25_000, redis, transport = 'websocket' } = {}) {
  const server = createServer()
  const io = new Server(server, { transports: [transport], pingInterval, ...redis !== undefined && { adapter: await adapterOn(redis) } })
  io.on('connection', socket => {
    socket.on('message', data => { socket.emit('message', data) })
    // Each socket is in a room of its own by itself.
    socket.on('tell', ({ to, ...data }) => { io.to(to).emit('message', data) })
    socket.on('ask', ({ n }, answer) => { answer({ n, ok: true }) })
    socket.emit('welcome', { sessionId: socket.id })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    dialect: transport === 'polling' ? 'socket.io polling' : 'socket.io',
    heartbeats: true,
    size: () => io.engine.clientsCount,
    broadcast: data => { io.emit('message', data) }
  }
}

/** Resolves when the adapter reads: what comes before that it never sees. */
async function adapterOn (port) {
  const name = `node-${process.pid}`
  const client = new Redis({ port, connectionName: name })
  const adapter = createAdapter(client)
  const reads = line => line.includes(`name=${name} `) && line.includes('cmd=xread')
  while (!(await client.client('LIST')).split('\n').some(reads)) await sleep(10)
  return adapter
}
