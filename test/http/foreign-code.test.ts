import type { ServerResponse } from 'node:http'
import type { FastifyBaseLogger } from 'fastify'
import t from 'tap'
import { memoryStore, type Store, type StoreFactory } from '../../lib/index.js'
import { openStream, postMessage } from '../support/http-client.js'
import { collectProcessWarnings } from '../support/process-warnings.js'
import { serve, type ServeOptions } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

// In these tests, code of the app fails in functions that timers and listeners call. An error that the plugin does not
// catch would terminate the process, and so fail the test.

/** Options of an app in which a function replaces the methods of the response to a GET with the header `x-broken`. */
const withBrokenResponse = (replace: (response: ServerResponse) => void, log: string[]): ServeOptions => ({
  fastify: { logger: { level: 'error', stream: { write: line => { log.push((JSON.parse(line) as { msg: string }).msg) } } } },
  beforeRegister: app => app.addHook('onRequest', async (request, reply) => {
    if (request.headers['x-broken'] !== undefined) replace(reply.raw)
  })
})

const fail = (): never => { throw new Error('code of the app failed') }

/** Replaces `write` with a function that fails when it is called again. */
function breakWrite (response: ServerResponse): void {
  const { write } = response
  response.write = ((...args: unknown[]) => {
    response.write = fail
    return Reflect.apply(write, response, args)
  }) as typeof write
}

for (const [trigger, heartbeatInterval] of [['heartbeat', 20], ['broadcast', false]] as const) {
  t.test(`a wrapper of write that fails on a ${trigger} ends only its own stream`, async t => {
    const log: string[] = []
    const { sessions, url } = await serve(t, { heartbeatInterval }, withBrokenResponse(breakWrite, log))
    const broken = await openStream(t, url, { headers: { 'x-broken': '1' } })
    const other = await openStream(t, url)
    if (trigger === 'broadcast') sessions.broadcast('news', 1)
    await withTimeout(broken.ended, 'the end of the broken stream')
    await waitUntil(() => sessions.stats().streams === 1, 'the end of the stream on the server')
    t.strictSame(log, ['an event stream ends because of an error of its response'])
    await sessions.broadcast('last', 1)
    await other.waitFor(({ event }) => event === 'last')
  })
}

t.test('wrappers of end and destroy that fail do not keep close() from finishing', async t => {
  const log: string[] = []
  const { app, sessions, url } = await serve(t, { closeTimeout: 100 }, withBrokenResponse(response => { response.end = response.destroy = fail }, log))
  const broken = await openStream(t, url, { headers: { 'x-broken': '1' } })
  const session = await sessions.find(broken.sessionId)
  await session?.close()
  await waitUntil(() => log.length === 2, 'the log')
  t.strictSame(log, Array(2).fill('an event stream ends because of an error of its response'))
  await withTimeout(app.close(), 'close()')
  await withTimeout(broken.ended, 'the end of the stream')
})

t.test('a logger that fails disturbs neither streams nor messages', async t => {
  const warnings = collectProcessWarnings(t)
  let isBroken = false
  const write = (): void => { if (isBroken) fail() }
  const logger = { level: 'info', fatal: write, error: write, warn: write, info: write, debug: write, trace: write, silent: write, child: () => logger } as unknown as FastifyBaseLogger
  const { sessions, url } = await serve(t, {}, { fastify: { loggerInstance: logger, disableRequestLogging: true } })
  sessions.addHook('onDisconnect', fail)
  isBroken = true
  const stream = await openStream(t, url)
  t.equal((await postMessage(url, stream.sessionId, { text: 'hi' })).status, 201)
  stream.destroy()
  const messages = (): string[] => warnings.filter(({ name }) => name === 'FastifySseSessionsWarning').map(({ message }) => message)
  await waitUntil(() => messages().length === 3, 'the warnings')
  t.strictSame(messages().map(message => message.split('\n')[0]), ['event stream opened', 'event stream ended', 'the onDisconnect hook failed'].map(text => `The message "${text}" could not be logged: Error: code of the app failed`))
  isBroken = false
})

t.test('errors whose properties cannot be read become the error of one request', async t => {
  const { sessions, url } = await serve(t)
  const createError = (property: string): Error => Object.defineProperty(new Error('text'), property, { get: fail })
  let property = 'message'
  sessions.handle('fail', () => { throw createError(property) })
  sessions.addHook('onResume', () => { throw createError(property) })
  sessions.addHook('onDisconnect', () => { throw createError(property) })
  for (property of ['message', 'stack', 'code', 'name', 'cause', 'validation']) {
    const stream = await openStream(t, url)
    t.equal((await postMessage(url, stream.sessionId, {}, { event: 'fail' })).status, 500, property)
    const batch = await postMessage(url, stream.sessionId, '{"event":"fail"}\n{"event":"fail"}', { headers: { 'content-type': 'application/x-ndjson' } })
    t.ok([200, 500].includes(batch.status), property)
    stream.destroy()
    await waitUntil(async () => (await sessions.find(stream.sessionId))?.connected === false, 'the disconnect')
    t.equal((await openStream(t, url, { headers: { 'x-session-id': stream.sessionId }, skipWelcome: true })).status, 500, property)
  }
})

t.test('a store that fails to detach a session does not terminate the process', async t => {
  const log: string[] = []
  const store: StoreFactory = (settings, callbacks): Store => Object.assign(memoryStore(settings, callbacks) as Store, { detach: fail })
  const { sessions, url } = await serve(t, { store }, withBrokenResponse(() => {}, log))
  const stream = await openStream(t, url)
  stream.destroy()
  await waitUntil(() => sessions.stats().streams === 0, 'the end of the stream')
  t.strictSame(log, ['the store could not detach a session'])
})

t.test('a response that fails while the server closes is logged', async t => {
  const log: string[] = []
  const started = deferred()
  const release = deferred()
  const onSend = async (): Promise<void> => {
    started.resolve()
    await release.promise
  }
  const { app, sessions, url } = await serve(t, { closeTimeout: 100, routes: { downward: { onSend } } }, withBrokenResponse(response => { response.end = fail }, log))
  const opening = openStream(t, url, { headers: { 'x-broken': '1' }, skipWelcome: true })
  await withTimeout(started.promise, 'the request')
  const closing = app.close()
  await waitUntil(() => sessions.closing, 'close() to begin')
  release.resolve()
  await opening.catch(() => {})
  await withTimeout(closing, 'close()')
  t.strictSame(log, ['a response failed'])
})
