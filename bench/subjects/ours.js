// This package as it was built; OURS names the entry of another build. With its default options, but those a workload gives.
import Fastify from 'fastify'
import { pathToFileURL } from 'node:url'
import { tokens } from '../harness/payload.js'

const { OURS } = process.env
const { default: sseSessions } = await import(OURS === undefined ? '../../dist/index.js' : pathToFileURL(OURS).href)

/** `remember` keeps the sessions, for workloads that send to each. */
export async function start ({ remember = false, ...options } = {}) {
  const app = Fastify()
  await app.register(sseSessions, options)
  const sessions = []
  if (remember) app.sseSessions.addHook('onOpen', session => { sessions.push(session) })
  app.sseSessions.handle('message', (session, data) => session.send(data))
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
