// Builds of this package as subjects.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { generateTokens } from '../../harness/payload.js'

/** The entry file of `ours`. */
export const OURS = new URL('../../../dist/index.js', import.meta.url)

/** The entry file of the subject `other`, another build of this package, if the environment variable OTHER names one. */
export const OTHER = process.env.OTHER === undefined ? undefined : pathToFileURL(process.env.OTHER)

/**
 * Returns the function `start` of a subject, for the build with this entry file. Its options: `keepSessions` keeps the sessions in
 * an array, for workloads that send to each. `joinOwnChannel` joins each session to a channel with its id, through which other nodes
 * reach it. `http2` uses HTTP/2 without TLS. All other options are options of the plugin.
 */
export const createStart = entry => async ({ keepSessions = false, joinOwnChannel = false, http2 = false, redisPort, ...options } = {}) => {
  const { default: sseSessions } = await import(entry)
  const app = Fastify({ http2 })
  await app.register(sseSessions, redisPort === undefined ? options : { ...options, store: await createRedisStore(entry, redisPort) })
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

async function createRedisStore (entry, port) {
  const { redisStore } = await import(new URL('redis.js', entry))
  return redisStore({ client: new Redis(port) })
}
