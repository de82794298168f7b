// This package.
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { generateTokens } from '../harness/payload.js'
import { importBuild } from './support/build.js'

const { default: sseSessions } = await importBuild()

async function createRedisStore (port) {
  const { redisStore } = await importBuild('redis.js')
  return redisStore({ client: new Redis(port) })
}

/**
 * `keepSessions` keeps the sessions in an array, for workloads that send to each. `joinOwnChannel` joins each session to a
 * channel with its id, through which other nodes reach it. `http2` uses HTTP/2 without TLS. All other options are options of the plugin.
 */
export async function start ({ keepSessions = false, joinOwnChannel = false, http2 = false, redisPort, ...options } = {}) {
  const app = Fastify({ http2 })
  await app.register(sseSessions, redisPort === undefined ? options : { ...options, store: await createRedisStore(redisPort) })
  const { sseSessions: sessions } = app
  const kept = []
  if (keepSessions) sessions.addHook('onOpen', session => { kept.push(session) })
  if (joinOwnChannel) sessions.addHook('onOpen', session => session.join(session.id))
  sessions.handle('message', (session, data) => session.send(data))
  sessions.handle('relay', (_session, { to, ...data }) => sessions.channel(to).send(data))
  sessions.handle('request', (_session, { n }) => ({ n, ok: true }))
  await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    port: app.server.address().port,
    protocol: http2 ? 'sse-http2' : 'sse',
    hasEventIds: true,
    hasHeartbeats: true,
    size: () => sessions.size,
    streamCount: () => sessions.stats().streams,
    broadcast: data => { sessions.broadcast('message', data) },
    closeAll: () => Promise.all(kept.splice(0).map(session => session.close())),
    sendToEach: data => { for (const session of kept) session.send(data) },
    streamTokens: async (first, count) => { await Promise.all(kept.map(session => session.stream('message', generateTokens(first, count)))) }
  }
}
