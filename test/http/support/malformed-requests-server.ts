import Fastify from 'fastify'
import sseSessions from '../../../lib/index.js'

// Receives malformed requests in a process of its own. GET /health collects garbage and returns the memory in use. An uncaught error ends the process.
const app = Fastify({ bodyLimit: 20_000, forceCloseConnections: true })
await app.register(sseSessions, { resumeTimeout: 200, heartbeatInterval: false, closeTimeout: 100 })
app.get('/health', async () => {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.()
    await new Promise(resolve => { setImmediate(resolve) })
  }
  const { heapUsed, external } = process.memoryUsage()
  const connections = await new Promise<number>(resolve => { app.server.getConnections((_error, count) => { resolve(count) }) })
  return { ...app.sseSessions.stats(), connections, bytes: heapUsed + external }
})
console.log(await app.listen({ port: 0, host: '127.0.0.1' }))
