import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import t from 'tap'
import sseSessions from '../../lib/index.js'
import { redisStore } from '../../lib/redis.js'
import { openSession, attachMemoryStream } from '../support/memory-stream.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { openStream, postMessage } from '../support/http-client.js'
import { waitUntil } from '../support/wait.js'

t.test('works with an ioredis client that returns numbers as strings', needsRedis, async t => {
  const { sessions } = await openProxiedNode(t, await startRedis(t), {}, { stringNumbers: true })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await session.join('room')
  await sessions.channel('room').send(1)
  await session.leave('room')
  await session.update({ nick: 'ann' })
  await session.close()
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event), ['message', 'close'])
  await t.rejects(session.join('room'), { code: 'FST_SSE_SESSION_OVER' })
})

t.test('works with the client of @fastify/redis, and continues after its connections were killed', needsRedis, async t => {
  const redis = await startRedis(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyRedis, { host: '127.0.0.1', port: redis.port })
  await app.register(sseSessions, { store: redisStore({ client: app.redis }) })
  app.sseSessions.handle('echo', (session, data) => session.send(data))
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const stream = await openStream(t, url)
  const sendAndReceive = async (n: number): Promise<void> => {
    await waitUntil(async () => (await postMessage(url, stream.sessionId, n, { event: 'echo' })).status < 300, 'the message to be accepted')
    await stream.waitFor(({ data }) => data === n)
  }
  await sendAndReceive(1)
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'normal')
  await sendAndReceive(2)
})
