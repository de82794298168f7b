// The echo server of the tutorial, and a page to try it with. PORT and HOST are read from the environment.
import { readFile } from 'node:fs/promises'
import Fastify from 'fastify'
import sseSessions from 'fastify-sse-sessions'

const { PORT = '3000', HOST = '127.0.0.1' } = process.env

// While closing, a stream that comes back is told to wait a little: Fastify's own 503 would end an EventSource for good.
const app = Fastify({ return503OnClosing: false })

await app.register(sseSessions)

app.get('/', async (_request, reply) => {
  return reply.type('text/html; charset=utf-8').send(await readFile(new URL('index.html', import.meta.url)))
})

console.log(`Echo server: ${await app.listen({ port: Number(PORT), host: HOST })}`)

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
