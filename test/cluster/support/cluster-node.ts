// Run as a process of its own: one node of a cluster. It does what it is told over IPC, and tells what happens.
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import type { AddressInfo } from 'node:net'
import { createClient } from 'redis'
import sseSessions, { type Session, type SseSessionsOptions } from '../../../lib/index.js'
import { redisStore } from '../../../lib/redis.js'
import { signal } from '../../support/wait.js'

export interface NodeOptions {
  readonly redisPort: number
  /** The client of Redis. */
  readonly library: 'ioredis' | 'redis'
  readonly lease: number
  /** Options of the plugin, as JSON. */
  readonly plugin: SseSessionsOptions
}

/** When a handler ran, by a clock that all processes share. */
export interface Handled {
  readonly session: string
  readonly data: unknown
  readonly at: number
  readonly phase: 'begun' | 'ended'
}

/** What a node tells unasked. */
export type News =
  | { readonly news: 'ready', readonly port: number }
  | { readonly news: 'handled', readonly handled: Handled }
  | { readonly news: 'hook', readonly hook: string, readonly session: string, readonly detail: unknown }

export interface Order {
  readonly order: number
  readonly name: keyof Operations
  readonly args: unknown[]
}

export type Answer = { readonly order: number } & ({ readonly value: unknown } | { readonly code: string })

const { redisPort, library, lease, plugin } = JSON.parse(process.argv[2] ?? '') as NodeOptions
const tell = (message: News | Answer): void => { process.send?.(message) }
const ignore = (): void => {}

const { client, leave } = await connectRedis()
const app = Fastify({ return503OnClosing: false })
await app.register(sseSessions, { closeTimeout: 500, ...plugin, store: redisStore({ client, lease }) })
const sessions = app.sseSessions
const gate = signal()

for (const hook of ['onOpen', 'onResume', 'onDisconnect'] as const) {
  sessions.addHook(hook, (session: Session) => { tell({ news: 'hook', hook, session: session.id, detail: undefined }) })
}
sessions.addHook('onClose', (session, reason) => { tell({ news: 'hook', hook: 'onClose', session: session.id, detail: reason }) })

sessions
  .handle('up', (session, data) => recorded(session, data, () => new Promise(setImmediate)))
  .handle('gate', (session, data) => recorded(session, data, () => gate.promise))
  .handle('sync', (_session, data) => data)
  .handle('quiet', () => {})
  .handle('fail', (_session, data) => { throw Object.assign(new Error(`no ${String(data)}`), { statusCode: 409, code: 'APP_FAILED' }) })
  .handle('headers', (_session, data, { reply }) => reply.code(201).header('x-app', String(data)).send({ pid: process.pid }))
  .handle('update', async (session, change) => {
    await session.update(change as Record<string, unknown>)
    return session.data
  })
  .handle('data', session => session.data)
  // All that a session can leave behind.
  .handle('use', async (session, data) => {
    const channel = `of ${session.id}`
    await Promise.all([session.update({ data }), session.join(channel), sessions.channel(channel).send(data), session.send(data)])
  })
  // A handler that is interrupted, and sends when its time is over.
  .handle('late', async (session, data) => {
    await recorded(session, data, () => gate.promise)
    await session.emit('late', data)
  })

async function recorded (session: Session, data: unknown, work: () => Promise<unknown>): Promise<unknown> {
  const record = (phase: Handled['phase']): void => {
    tell({ news: 'handled', handled: { session: session.id, data, at: Number(process.hrtime.bigint()), phase } })
  }
  record('begun')
  await work()
  record('ended')
  return data
}

async function find (id: string): Promise<Session> {
  const session = await sessions.find(id)
  if (session === undefined) throw Object.assign(new Error(), { code: 'UNKNOWN' })
  return session
}

const operations = {
  emit: async (id: string, event: string, data: unknown) => { await (await find(id)).emit(event, data) },
  /** Sends one to each of several sessions. */
  emitAll: async (ids: string[], event: string, data: unknown) => {
    await Promise.all(ids.map(async id => { await (await find(id)).emit(event, data) }))
  },
  /** Looks the session up once, and sends one after the other. */
  emitMany: async (id: string, event: string, count: number) => {
    const session = await find(id)
    for (let n = 0; n < count; n++) await session.emit(event, n)
  },
  publish: async (channel: string, event: string, data: unknown, except = '') => { await sessions.channel(channel).emit(event, data, { except: { id: except } }) },
  broadcast: async (event: string, data: unknown) => { await sessions.broadcast(event, data) },
  join: async (id: string, channel: string) => { await (await find(id)).join(channel) },
  leave: async (id: string, channel: string) => { await (await find(id)).leave(channel) },
  update: async (id: string, change: Record<string, unknown>) => { await (await find(id)).update(change) },
  close: async (id: string, reason: string) => { await (await find(id)).close(reason) },
  look: async (id: string) => {
    const { data, connected, channels } = await find(id)
    return { data, connected, channels: channels.sort() }
  },
  /** Keeps the session's signal, to tell when it has aborted. */
  watch: async (id: string) => {
    const { signal } = await find(id)
    signal.addEventListener('abort', () => { tell({ news: 'hook', hook: 'abort', session: id, detail: undefined }) })
  },
  isKnown: async (id: string) => await sessions.find(id) !== undefined,
  stats: async () => sessions.stats(),
  /** Has the handlers that wait at the gate go on. */
  openGate: async () => { gate.resolve() }
}

export type Operations = typeof operations

process.on('message', async ({ order, name, args }: Order) => {
  try {
    tell({ order, value: await (operations[name] as (...args: unknown[]) => Promise<unknown>)(...args) })
  } catch (error) {
    tell({ order, code: (error as { code?: string }).code ?? String(error) })
  }
})
process.on('disconnect', () => { process.exit() })
// When all that it holds is let go of, the process exits by itself.
process.once('SIGTERM', async () => {
  await app.close()
  await leave()
  process.removeAllListeners('disconnect')
  process.disconnect()
})

await app.listen({ port: 0, host: '127.0.0.1' })
tell({ news: 'ready', port: (app.server.address() as AddressInfo).port })

async function connectRedis () {
  if (library === 'ioredis') {
    const client = new Redis({ port: redisPort, host: '127.0.0.1' }).on('error', ignore)
    return { client, leave: async () => { client.disconnect() } }
  }
  const client = await createClient({ url: `redis://127.0.0.1:${redisPort}` }).on('error', ignore).connect()
  return { client, leave: async () => { client.destroy() } }
}
