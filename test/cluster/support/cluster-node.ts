// One node of a cluster, in its own process. It executes commands that arrive over IPC, and reports events and results.
import Fastify from 'fastify'
import type { AddressInfo } from 'node:net'
import sseSessions, { type Session, type SseSessionsOptions } from '../../../lib/index.js'
import { redisStore } from '../../../lib/redis.js'
import { createFeed } from '../../runs/support/feed.js'
import { deferred } from '../../support/wait.js'

export interface NodeOptions {
  readonly redisPort: number
  /** The Redis client library. */
  readonly library: 'ioredis' | 'redis'
  readonly lease: number
  /** Options of the plugin, as JSON. */
  readonly plugin: SseSessionsOptions
}

/** The start or the end of a handler run. */
export interface HandlerEvent {
  readonly session: string
  readonly data: unknown
  /** Nanoseconds of the monotonic clock, which all processes of the machine share. */
  readonly at: number
  readonly phase: 'start' | 'end'
}

/** What a node reports on its own. */
export type NodeEvent =
  | { readonly type: 'ready', readonly port: number }
  | { readonly type: 'handler', readonly event: HandlerEvent }
  | { readonly type: 'hook', readonly hook: string, readonly session: string, readonly detail: unknown }

export interface Command {
  readonly id: number
  readonly name: keyof Commands
  readonly args: unknown[]
}

export type CommandResult = { readonly type: 'result', readonly id: number } & ({ readonly value: unknown } | { readonly code: string })

const { redisPort, library, lease, plugin } = JSON.parse(process.argv[2] ?? '') as NodeOptions
// Handlers and producers may end after the parent has disconnected.
const report = (message: NodeEvent | CommandResult): void => { if (process.connected) process.send?.(message) }
const ignore = (): void => {}

const { client, disconnect } = await connectRedis()
const app = Fastify({ return503OnClosing: false })
await app.register(sseSessions, { closeTimeout: 500, ...plugin, store: redisStore({ client, lease }) })
const sessions = app.sseSessions
const gate = deferred()
const feed = createFeed()
feed.closed.then(() => { report({ type: 'hook', hook: 'producerEnd', session: '', detail: feed.signal()?.aborted }) })
// One run, and a route whose responses are runs.
app.post('/run', async (request, reply) => (await sessions.runs.start('a', {}, feed.producer)).reply(request, reply))
app.get('/run', async (request, reply) => (await sessions.runs.find('a'))?.reply(request, reply) ?? reply.code(404).send())
app.delete('/run', async (_request, reply) => {
  await (await sessions.runs.find('a'))?.stop('user')
  return reply.code(204).send()
})
app.post('/ask', { resumable: true }, (_request, reply) => reply.events(feed.producer))
/** Yields numbers. Reports its start and its end. */
async function * countUp (name: string, first: number, last: number, signal: AbortSignal): AsyncGenerator<number, void, undefined> {
  const detail = { name, first, pid: process.pid }
  report({ type: 'hook', hook: 'producerStart', session: '', detail })
  try {
    for (let n = first; n < last && !signal.aborted; n++) {
      yield n
      await new Promise(resolve => { setTimeout(resolve, 5) })
    }
  } finally {
    report({ type: 'hook', hook: 'producerEnd', session: '', detail })
  }
}
const countTo = sessions.runs.restartable('count', ({ last, name = '' }: { last: number, name?: string }, { events, signal }) => countUp(name, events.length, last, signal))
app.get<{ Params: { name: string } }>('/runs/:name', async (request, reply) => (await sessions.runs.find(request.params.name))?.reply(request, reply) ?? reply.code(404).send())
app.post<{ Body: { last: number } }>('/count', { resumable: true }, (request, reply) => reply.events(countTo(request.body)))

for (const hook of ['onOpen', 'onResume', 'onDisconnect'] as const) {
  sessions.addHook(hook, (session: Session) => { report({ type: 'hook', hook, session: session.id, detail: undefined }) })
}
sessions.addHook('onClose', (session, reason) => { report({ type: 'hook', hook: 'onClose', session: session.id, detail: reason }) })

sessions
  .handle('up', (session, data) => recordHandlerRun(session, data, () => new Promise(setImmediate)))
  // The response is the name of the handler run.
  .handle('run', async (session, data) => {
    let name = ''
    await recordHandlerRun(session, data, startedAt => {
      name = `${process.pid}:${startedAt}`
      return new Promise(resolve => { setTimeout(resolve, Math.random() * 20) })
    })
    return name
  })
  .handle('gate', (session, data) => recordHandlerRun(session, data, () => gate.promise))
  .handle('sync', (_session, data) => data)
  .handle('quiet', () => {})
  .handle('fail', (_session, data) => { throw Object.assign(new Error(`no ${String(data)}`), { statusCode: 409, code: 'APP_FAILED' }) })
  .handle('headers', (_session, data, { reply }) => reply.code(201).header('x-app', String(data)).send({ pid: process.pid }))
  .handle('update', async (session, change) => {
    await session.update(change as Record<string, unknown>)
    return session.data
  })
  .handle('data', session => session.data)
  // Creates every kind of data that the store keeps for a session.
  .handle('use', async (session, data) => {
    const channel = `channel of ${session.id}`
    await Promise.all([session.update({ data }), session.join(channel), sessions.channel(channel).send(data), session.send(data)])
  })
  // Counts up to `last`.
  .handle('values', (_session, data, { signal }) => {
    const { last, name } = data as { last: number, name?: string }
    return countUp(name ?? '', 0, last, signal)
  })
  // Sends an event after the gate has opened, which may be after another node has taken over the message.
  .handle('late', async (session, data) => {
    await recordHandlerRun(session, data, () => gate.promise)
    await session.emit('late', data)
  })

async function recordHandlerRun (session: Session, data: unknown, work: (startedAt: number) => Promise<unknown>): Promise<unknown> {
  const record = (phase: HandlerEvent['phase']): number => {
    const at = Number(process.hrtime.bigint())
    report({ type: 'handler', event: { session: session.id, data, at, phase } })
    return at
  }
  await work(record('start'))
  record('end')
  return data
}

async function find (id: string): Promise<Session> {
  const session = await sessions.find(id)
  if (session === undefined) throw Object.assign(new Error(), { code: 'UNKNOWN' })
  return session
}

const commands = {
  emit: async (id: string, event: string, data: unknown) => { await (await find(id)).emit(event, data) },
  /** Sends one event to each of several sessions. */
  emitAll: async (ids: string[], event: string, data: unknown) => {
    await Promise.all(ids.map(async id => { await (await find(id)).emit(event, data) }))
  },
  /** Looks up the session once, and sends several events, one after the other. */
  emitMany: async (id: string, event: string, count: number) => {
    const session = await find(id)
    for (let n = 0; n < count; n++) await session.emit(event, n)
  },
  publish: async (channel: string, event: string, data: unknown, except?: string | null) => { await sessions.channel(channel).emit(event, data, typeof except === 'string' ? { except: { id: except } } : {}) },
  broadcast: async (event: string, data: unknown) => { await sessions.broadcast(event, data) },
  join: async (id: string, channel: string) => { await (await find(id)).join(channel) },
  leave: async (id: string, channel: string) => { await (await find(id)).leave(channel) },
  update: async (id: string, change: Record<string, unknown>) => { await (await find(id)).update(change) },
  close: async (id: string, reason: string) => { await (await find(id)).close(reason) },
  describe: async (id: string) => {
    const { data, connected, channels } = await find(id)
    return { data, connected, channels: channels.sort() }
  },
  /** Reports when the signal of the session aborts. */
  watchSignal: async (id: string) => {
    const { signal } = await find(id)
    signal.addEventListener('abort', () => { report({ type: 'hook', hook: 'abort', session: id, detail: undefined }) })
  },
  hasSession: async (id: string) => await sessions.find(id) !== undefined,
  stats: async () => sessions.stats(),
  /** Adds items to the run that this node produces. */
  feed: async (...items: unknown[]) => { feed.add(...items) },
  endFeed: async () => { feed.end() },
  startRun: async (name: string, isRestartable: boolean, last: number) => {
    await sessions.runs.start(name, {}, isRestartable ? countTo({ last, name }) : ({ signal }) => countUp(name, 0, last, signal))
  },
  stopRun: async (name: string) => { await (await sessions.runs.find(name))?.stop() },
  followRun: async (sessionId: string, from?: number) => {
    const session = await sessions.find(sessionId)
    const run = await sessions.runs.find('a')
    if (session === undefined || run === undefined) return false
    session.follow(run, { from })
    return true
  },
  /** Lets all handlers that wait for the gate continue. */
  openGate: async () => { gate.resolve() }
}

export type Commands = typeof commands

process.on('message', async ({ id, name, args }: Command) => {
  try {
    report({ type: 'result', id, value: await (commands[name] as (...args: unknown[]) => Promise<unknown>)(...args) })
  } catch (error) {
    report({ type: 'result', id, code: (error as { code?: string }).code ?? String(error) })
  }
})
process.on('disconnect', () => { process.exit() })
// Exits without process.exit(), to show that closing leaves no open handle.
process.once('SIGTERM', async () => {
  await app.close()
  await disconnect()
  process.removeAllListeners('disconnect')
  process.disconnect()
  setTimeout(() => { console.error(`Node ${process.pid} does not exit because of ${process.getActiveResourcesInfo().join(', ')}`) }, 10_000).unref()
})

await app.listen({ port: 0, host: '127.0.0.1' })
report({ type: 'ready', port: (app.server.address() as AddressInfo).port })

// Loads only the library that the node uses, because that takes a quarter of its start.
async function connectRedis () {
  if (library === 'ioredis') {
    const { Redis } = await import('ioredis')
    const client = new Redis({ port: redisPort, host: '127.0.0.1' }).on('error', ignore)
    return { client, disconnect: async () => { client.disconnect() } }
  }
  const { createClient } = await import('redis')
  const client = await createClient({ url: `redis://127.0.0.1:${redisPort}` }).on('error', ignore).connect()
  return { client, disconnect: async () => { client.destroy() } }
}
