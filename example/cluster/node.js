// One node of the cluster: the chat and the streamed answers, with their sessions and runs in Redis.
import Fastify from 'fastify'
import { redisStore } from 'fastify-sse-sessions/redis'
import { Redis } from 'ioredis'
import chat from '../chat/index.js'
import { addAssets } from '../site.js'
import tokens from '../tokens/index.js'

const [,, name = 'node', redisUrl = ''] = process.argv

const redis = new Redis(redisUrl)
redis.on('error', ({ message }) => { console.error(`${name}: Redis: ${message}`) })

// During close(), the plugin responds with `retry` to a client that reconnects. Fastify's own 503 would stop an EventSource permanently.
const app = Fastify({ return503OnClosing: false })
app.addHook('onSend', async ({ method, url }, reply) => {
  if (method === 'GET' && url.startsWith('/tokens/answers')) console.log(`${name} serves an answer`)
  if (method === 'GET' && url === '/chat/downward') console.log(`${name} serves the stream of session ${String(reply.getHeader('x-session-id')).slice(0, 6)}`)
})
app.addHook('onResponse', async ({ method, url }) => { if (method === 'POST') console.log(`${name} handled POST ${url}`) })
await app.register(chat, { store: redisStore({ client: redis, namespace: 'chat' }) })
await app.register(tokens, { store: redisStore({ client: redis, namespace: 'tokens' }) })
app.get('/', (_request, reply) => reply.redirect('/chat'))
addAssets(app)

await app.listen({ port: 0, host: '127.0.0.1' })
process.send?.(app.server.address())

process.once('SIGTERM', async () => {
  await app.close()
  redis.disconnect()
  process.disconnect()
})
// A node exits when the process of the proxy exits.
process.once('disconnect', () => process.exit())
