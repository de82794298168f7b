import Fastify from 'fastify'
import { Redis } from 'ioredis'
import mcp from '../../../lib/mcp/index.js'
import { redisStore } from '../../../lib/redis.js'
import { serverWith, text } from './server.js'

// One node of a test, as a process that the test can kill. Prints its URL.
const client = new Redis({ port: Number(process.env.REDIS_PORT), host: '127.0.0.1' })
const { server } = serverWith(server => {
  server.registerTool('increment', {}, async () => text(String(await client.incr('count'))))
  // Sends a message, and never ends.
  server.registerTool('begin', {}, async ({ sendNotification }) => {
    await sendNotification({ method: 'notifications/message', params: { level: 'info', data: 'begun' } })
    return await new Promise(() => {})
  })
})
const app = Fastify()
await app.register(mcp, { server, store: redisStore({ client, lease: 1000 }), retry: 1 })
process.once('SIGTERM', () => { app.close().then(() => { client.disconnect() }, () => {}) })
console.log(`listening on ${await app.listen({ port: 0, host: '127.0.0.1' })}/mcp`)
