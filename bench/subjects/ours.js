// This package as it was built; OURS names the entry of another build. With its default options, but those a workload gives.
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { pathToFileURL } from 'node:url'
import { tokens } from '../harness/payload.js'

const { OURS } = process.env
const entry = OURS === undefined ? new URL('../../dist/index.js', import.meta.url) : pathToFileURL(OURS)
const { default: sseSessions } = await import(entry)

async function storeOn (port) {
  const { redisStore } = await import(new URL('redis.js', entry))
  return redisStore({ client: new Redis(port) })
}

/**
 * `remember` keeps the sessions, for workloads that send to each. `redis` is the port of one, for several nodes. With
 * `rooms` each session is in a channel of its own, by which others reach it.
 */
export async function start ({ remember = false, redis, rooms = false, ...options } = {}) {
  const app = Fastify()
  await app.register(sseSessions, redis === undefined ? options : { ...options, store: await storeOn(redis) })
  const sessions = []
  if (remember) app.sseSessions.addHook('onOpen', session => { sessions.push(session) })
  app.sseSessions.handle('message', (session, data) => session.send(data))
  if (rooms) app.sseSessions.addHook('onOpen', session => session.join(session.id))
  app.sseSessions.handle('tell', (_session, { to, ...data }) => app.sseSessions.channel(to).send(data))
  app.sseSessions.handle('ask', (_session, { n }) => ({ n, ok: true }))
  await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    port: app.server.address().port,
    dialect: 'sse',
    ids: true,
    heartbeats: true,
    size: () => app.sseSessions.size,
    streams: () => app.sseSessions.stats().streams,
    broadcast: data => { app.sseSessions.broadcast('message', data) },
    each: data => { for (const session of sessions) session.send(data) },
    stream: async (first, count) => { await Promise.all(sessions.map(session => session.stream('message', tokens(first, count)))) }
  }
}
