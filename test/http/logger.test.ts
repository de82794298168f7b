import type { FastifyServerOptions } from 'fastify'
import { inspect } from 'node:util'
import t, { type Test } from 'tap'
import { request } from 'undici'
import type { Session, SseSessionsOptions } from '../../lib/index.js'
import { FlakyStore } from '../support/flaky-store.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer, type ServeOptions } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { formatGet, openRawClient } from '../support/raw-client.js'
import { nextEventLoopTick, waitUntil } from '../support/wait.js'

interface LogLine {
  readonly msg: string
  readonly level: number
  readonly session?: string
  readonly reason?: string
  readonly duration?: number
  readonly resumed?: boolean
  readonly reqId?: string
}

/** Serves with a logger. `raw` returns all that it wrote, and `lines` the lines with a given message. */
async function serveLogged (t: Test, level: string, options: SseSessionsOptions = {}, more: ServeOptions = {}): Promise<TestServer & { raw: () => string, lines: (msg: string) => LogLine[] }> {
  let raw = ''
  const logger = { level, stream: { write: (line: string) => { raw += line } } } satisfies FastifyServerOptions['logger']
  const served = await serve(t, options, { ...more, fastify: { ...more.fastify, logger } })
  const lines = (msg: string): LogLine[] => raw.split('\n').filter(line => line !== '').map(line => JSON.parse(line) as LogLine).filter(line => line.msg === msg)
  return { ...served, raw: () => raw, lines }
}

t.test('logs one line when a stream opens and one when it ends, with reason and duration', async t => {
  const { app, url, sessions, lines } = await serveLogged(t, 'info')
  const opened = (): LogLine[] => lines('event stream opened')
  const ended = (): LogLine[] => lines('event stream ended')
  const expected: Array<[session: string, reason: string]> = []
  const assertEnded = async (sessionId: string, reason: string): Promise<void> => {
    expected.push([sessionId.slice(0, 6), reason])
    await waitUntil(() => ended().length === expected.length, `the log line of a stream that ended with reason ${reason}`)
    t.strictSame(ended().map(({ session, reason }) => [session, reason]), expected)
  }

  const stream = await openStream(t, url)
  const { sessionId } = stream
  matchList(t, opened(), [{ level: 30, session: sessionId.slice(0, 6), resumed: false, reqId: /./ }])
  t.equal(ended().length, 0)
  stream.destroy()
  await assertEnded(sessionId, 'lost')
  const resume = { headers: { 'x-session-id': sessionId } }
  await openStream(t, url, resume)
  await openStream(t, url, resume)
  await assertEnded(sessionId, 'replaced')
  t.strictSame(opened().map(({ session, resumed }) => [session, resumed]), [false, true, true].map(resumed => [sessionId.slice(0, 6), resumed]))
  await request(`${url}/downward`, { method: 'DELETE', ...resume })
  await assertEnded(sessionId, 'deleted')
  const second = await openStream(t, url)
  await (await sessions.find(second.sessionId))?.close('done')
  await assertEnded(second.sessionId, 'done')
  const third = await openStream(t, url)
  await app.close()
  await assertEnded(third.sessionId, 'shutdown')
  t.strictSame(ended().map(({ reqId }) => reqId), opened().map(({ reqId }) => reqId), 'both lines belong to the same request')

  t.equal(opened().length, expected.length)
  for (const { level, duration, reqId } of ended()) {
    t.equal(level, 30)
    t.ok(Number.isInteger(duration) && duration !== undefined && duration >= 0 && duration < 60_000, 'duration in milliseconds')
    t.ok(opened().some(line => line.reqId === reqId), 'the line has the id of the request that opened the stream')
  }
})

t.test('logs the end of a stream once if its request was pipelined behind another one', async t => {
  const { port, lines } = await serveLogged(t, 'info', {}, {
    beforeRegister: app => app.addHook('onRequest', async ({ headers }) => { if ('x-delayed' in headers) await nextEventLoopTick() })
  })
  const client = openRawClient(t, port, { request: formatGet({ 'last-event-id': 'closed', 'x-delayed': '1' }) + formatGet() })
  await client.waitFor('event: welcome')
  client.socket.destroy()
  await waitUntil(() => lines('event stream ended').length > 0, 'the end')
  await nextEventLoopTick()
  t.strictSame(lines('event stream ended').map(({ reason }) => reason), ['lost'])
})

t.test('logLevel sets the log level of the routes of the plugin', async t => {
  const { app, url, raw } = await serveLogged(t, 'info', { logLevel: 'warn' }, { afterRegister: app => app.get('/other', async () => '') })
  const { sessionId } = await openStream(t, url)
  await postMessage(url, sessionId, { text: 'hi' })
  t.notMatch(raw(), /event stream opened|incoming request/)
  await request(`${url}/other`)
  t.match(raw(), /incoming request/)
  await app.close()
})

t.test('logs a warning when a session is refused because there are too many', async t => {
  const { url, lines } = await serveLogged(t, 'warn', { maxSessions: 1 })
  await openStream(t, url)
  const refused = await openStream(t, url, { skipWelcome: true })
  await refused.ended
  matchList(t, lines('a session was refused because there are too many; see options maxSessions and maxSessionsPerPrincipal'), [{ level: 40 }])
})

t.test('no log line, at any level, contains a whole session id', async t => {
  const store = new FlakyStore()
  const throwError = async (): Promise<never> => { throw new Error('a hook of the app failed') }
  const { app, url, sessions, raw } = await serveLogged(t, 'trace', { store: store.createStore, log: { bytes: 100 } }, {
    afterRegister: app => {
      app.sseSessions
        .addHook('onDisconnect', throwError).addHook('onGap', throwError).addHook('onClose', throwError)
        .handle('throws', () => { throw new Error('a handler failed') })
        .handle('logs', (session, _data, { request }) => { request.log.info({ session, err: new Error(session.shortId) }, 'the app logs') })
        .handle('large', async session => { await session.send('x'.repeat(200)) })
        .handle('invalid', async session => { await session.emit('a\nb', 1) })
        .handle('closes', async session => {
          await session.close()
          await session.send('after the end')
        })
        .handle('typed', { schema: { type: 'object', required: ['text'] } }, () => {})
    }
  })
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const headers = { 'x-session-id': sessionId }
  const messages: Array<[data: unknown, options: Parameters<typeof postMessage>[3], status: number]> = [
    [{}, { event: 'logs' }, 202], [{}, { event: 'throws' }, 500], [{}, { event: 'large' }, 500], [{}, { event: 'invalid' }, 500], [{}, { event: 'typed' }, 400],
    [{}, { event: 'unknown' }, 404], ['{', {}, 400], [{}, { key: 'ü' }, 400], ['x', { headers: { 'content-type': 'text/plain' } }, 415],
    [{ text: 'hi' }, { key: 'k' }, 201], [{ text: 'other' }, { key: 'k' }, 422], ['[]', { headers: { 'content-type': 'application/x-ndjson' } }, 400]
  ]
  for (const [data, options, status] of messages) t.equal((await postMessage(url, sessionId, data, options)).status, status, JSON.stringify(options))
  store.isDown = true
  t.equal((await postMessage(url, sessionId, { text: 'hi' })).status, 503)
  store.isDown = false
  stream.destroy()
  await waitUntil(async () => (await sessions.find(sessionId))?.connected === false, 'the disconnect')
  for (let i = 0; i < 5; i++) await (await sessions.find(sessionId))?.send(i)
  const resumed = await openStream(t, url, { headers: { 'last-event-id': `${sessionId}.0` } })
  t.equal(resumed.sessionId, sessionId)
  await resumed.waitFor(({ event }) => event === 'gap')
  await openStream(t, url, { headers: { 'last-event-id': `${sessionId}.zzzz` } })
  t.equal((await openStream(t, url, { headers: { ...headers, accept: 'text/html' }, skipWelcome: true })).status, 406)
  t.equal((await postMessage(url, sessionId, {}, { event: 'closes' })).status, 410)
  t.equal((await request(`${url}/downward`, { method: 'DELETE', headers })).statusCode, 404)
  await app.close()
  for (const logged of ['a handler failed', 'the onDisconnect hook failed', 'the onGap hook failed', 'the onClose hook failed', 'the app logs', 'FST_SSE_ENTRY_TOO_LARGE', 'event stream ended']) {
    t.ok(raw().includes(logged), `${logged} was logged`)
  }
  t.ok(raw().includes(sessionId.slice(0, 6)), 'log lines contain the short id')
  t.notOk(raw().includes(sessionId.slice(0, 7)), 'log lines contain no more than the short id')
})

t.test('JSON.stringify and inspect of a session do not contain its id', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const session = await sessions.find(sessionId) as Session
  t.equal(session.id, sessionId)
  t.notOk(`${JSON.stringify({ session })} ${inspect(session, { depth: 9, showHidden: true })}`.includes(sessionId))
})

t.test('logs a warning with the name of a channel that cannot be closed', async t => {
  const store = new FlakyStore()
  const { sessions, raw } = await serveLogged(t, 'warn', { store: store.createStore })
  store.isDown = true
  sessions.channel('room').close()
  await waitUntil(() => raw() !== '', 'the warning')
  t.match(JSON.parse(raw()), { level: 40, channel: 'room', msg: 'channel.close has failed, and nothing handles its rejected promise' })
})

t.test('logs a warning with the name of a run that cannot be started', async t => {
  const { sessions, raw } = await serveLogged(t, 'warn', { maxRuns: 1 })
  async function * endless (): AsyncGenerator<number> { await new Promise(() => {}) }
  await sessions.runs.start('first', {}, endless)
  sessions.runs.start('second', {}, endless)
  await waitUntil(() => raw() !== '', 'the warning')
  t.match(JSON.parse(raw()), { level: 40, name: 'second', err: { code: 'FST_SSE_TOO_MANY_RUNS' }, msg: 'runs.start has failed, and nothing handles its rejected promise' })
})

t.test('a rejected promise of a call without an effect is not logged', async t => {
  const store = new FlakyStore()
  const { sessions, raw } = await serveLogged(t, 'warn', { store: store.createStore })
  store.isDown = true
  const principal = sessions.of('ann')
  const calls = [sessions.find('id'), principal.sessions(), principal.count(), sessions.channel('room').sessions(), sessions.channel('room').count(), sessions.runs.find('run')]
  for (let tick = 0; tick < 3; tick++) await nextEventLoopTick()
  for (const call of calls) await t.rejects(async () => { await call }, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.equal(raw(), '')
})

t.test('logs a warning with event and session if nothing handles the rejected promise of a call', async t => {
  const { url, sessions, raw } = await serveLogged(t, 'warn')
  let session: Session | undefined
  sessions.addHook('onOpen', opened => { session = opened })
  const { sessionId } = await openStream(t, url)
  async function * failing (): AsyncGenerator<string> {
    yield 'a'
    throw new Error('the model is overloaded')
  }
  session?.emit('welcome', 1)
  session?.send({ big: 1n })
  session?.emit('large', 'x'.repeat(2e6))
  session?.stream('token', failing())
  sessions.broadcast('a\nb', 1)
  sessions.channel('room').emit('reset', 1)
  sessions.of('ann').emit('gap', 1)
  sessions.of('ann').send(1n)
  sessions.channel('room').send(1n)
  const warnings = (): Array<LogLine & { event?: string, err: { message: string } }> => raw().split('\n').filter(line => line !== '').map(line => JSON.parse(line))
  await waitUntil(() => warnings().length === 9, 'the warnings')
  for (const { level, msg, session, event } of warnings()) {
    t.equal(level, 40)
    t.match(msg, /nothing handles/)
    if (msg.startsWith('session')) t.equal(session, sessionId.slice(0, 6))
    t.type(event, 'string')
  }
  matchList(t, warnings().map(({ event }) => event).sort(), ['a\nb', 'gap', 'large', 'message', 'message', 'message', 'reset', 'token', 'welcome'])
  matchList(t, warnings().filter(({ event }) => event === 'message').map(({ msg }) => msg.split(' ', 1)[0]).sort(), ['channel.send', 'of(principal).send', 'session.send'])
  t.notMatch(raw(), sessionId)

  await session?.emit('welcome', 1).catch(() => {})
  await t.rejects(Promise.all([session?.emit('welcome', 1)]))
  await session?.close()
  session?.send(1)
  await nextEventLoopTick()
  await nextEventLoopTick()
  t.equal(warnings().length, 9, 'a handled rejection, and one of a closed session, are not logged')
})

t.test('option logSerializers applies to the routes of the plugin', async t => {
  const { url, raw } = await serveLogged(t, 'info', { logSerializers: { req: ({ url }) => `serialized ${url}` } })
  await openStream(t, url)
  t.match(raw(), '"req":"serialized /downward"')
})
