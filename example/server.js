// Serves all examples on one port. Each example is a Fastify plugin in its own folder. Environment: PORT, HOST.
import Fastify from 'fastify'
import ai from './ai/index.js'
import chat from './chat/index.js'
import clock from './clock/index.js'
import echo from './echo/index.js'
import { addAssets } from './site.js'
import tokens from './tokens/index.js'

const { PORT = '3000', HOST = '127.0.0.1' } = process.env

// During close(), the plugin responds with `retry` to a client that reconnects. Fastify's own 503 would stop an EventSource permanently.
const app = Fastify({ return503OnClosing: false })

for (const example of [echo, chat, clock, tokens, ai]) await app.register(example)
addAssets(app)

console.log(`Examples: ${await app.listen({ port: Number(PORT), host: HOST })}`)

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
