// The kitchen of a restaurant: receives orders, and sends the progress of each. Restart it whenever you like.
// Environment: PORT, REDIS_URL
import Fastify from 'fastify'
import sseSessions from 'fastify-sse-sessions'
import { redisStore } from 'fastify-sse-sessions/redis'
import { Redis } from 'ioredis'

const { PORT = '3000', REDIS_URL = 'redis://127.0.0.1:6379' } = process.env
const redis = new Redis(REDIS_URL)
redis.on('error', ({ message }) => { console.error(`Redis: ${message}`) })

const app = Fastify({ return503OnClosing: false })
await app.register(sseSessions, { prefix: '/orders', retry: 200, store: redisStore({ client: redis, namespace: 'orders' }) })

const schema = { type: 'object', required: ['number'], properties: { number: { type: 'integer' } } }
app.sseSessions.handle('order', { schema }, async (session, data) => {
  const { number } = /** @type {{ number: number }} */ (data)
  await session.emit('progress', { number, status: 'cooking' })
  await session.emit('progress', { number, status: 'ready' })
  console.log(`order ${number}`)
  return { accepted: number }
})

console.log(await app.listen({ port: Number(PORT), host: '127.0.0.1' }))

process.once('SIGTERM', async () => {
  await app.close()
  redis.disconnect()
})
