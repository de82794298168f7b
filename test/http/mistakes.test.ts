import Fastify from 'fastify'
import cluster from 'node:cluster'
import t from 'tap'
import { request } from 'undici'
import sseSessions, { memoryStore, type Session, type Sessions } from '../../lib/index.js'
import { redisStore } from '../../lib/redis.js'
import { assertErrorResponse } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { openStream, postMessage } from '../support/http-client.js'
import { serve } from '../support/server.js'

/** Registers the plugin in a new app. */
const register = (options: object): PromiseLike<unknown> => Fastify().register(sseSessions, options)

// Arguments that TypeScript would refuse.
const call = (method: (...args: never[]) => unknown, self: unknown, ...args: unknown[]): unknown => Reflect.apply(method, self, args)

const schema = { type: 'object', properties: { text: { type: 'string' } } }

const MISTAKES: Array<[title: string, make: (sessions: Sessions, session: Session) => unknown, code: string, message: RegExp]> = [
  ['a misspelled option', () => register({ heartbeatIntervall: 1000 }), 'FST_SSE_OPTION_INVALID', /"heartbeatIntervall" must be removed: there is no such option/],
  ['a number as a string', () => register({ resumeTimeout: '60s' }), 'FST_SSE_OPTION_INVALID', /"resumeTimeout" must be a whole number from 0 .*; it is 60s/],
  ['a path without a slash', () => register({ paths: { downward: 'events' } }), 'FST_SSE_OPTION_INVALID', /"paths\.downward" must be a path that starts with \//],
  ['an instance of a store', () => register({ store: {} }), 'FST_SSE_OPTION_INVALID', /"store" must be a store factory, such as memoryStore or redisStore\(…\)/],
  ['redisStore without options', () => call(redisStore, undefined), 'FST_SSE_OPTION_INVALID', /"client" of redisStore must be a client of ioredis or of node-redis, or an array of them: redisStore\(\{ client \}\)/],
  ['redisStore that is not called', () => register({ store: redisStore }), 'FST_SSE_OPTION_INVALID', /redisStore\(\{ client \}\)/],
  ['a misspelled option of redisStore', () => call(redisStore, undefined, { client: { call: () => {}, duplicate: () => {} }, prefix: 'chat' }), 'FST_SSE_OPTION_INVALID', /"prefix" of redisStore must be removed/],
  ['an unknown hook', sessions => call(sessions.addHook, sessions, 'onopen', () => {}), 'FST_SSE_HOOK_INVALID', /no hook "onopen"; the hooks are onOpen, /],
  ['a handler that is missing', sessions => call(sessions.handle, sessions, 'say'), 'FST_SSE_HANDLER_INVALID', /handler of event "say" must be a function, as the last argument/],
  ['a second handler', sessions => sessions.handle('said', () => {}).handle('said', () => {}), 'FST_SSE_HANDLER_INVALID', /"said" already has a handler/],
  ['a schema as the options', sessions => call(sessions.handle, sessions, 'say', schema, () => {}), 'FST_SSE_HANDLER_INVALID', /Option "type" of the handler of event "say" must be removed/],
  ['an invalid schema', sessions => sessions.handle('say', { schema: { type: 'text' } }, () => {}), 'FST_SSE_HANDLER_INVALID', /schema of event "say" is invalid: .*type must be/],
  ['the schema of a route', sessions => sessions.handle('say', { schema: { body: schema } }, () => {}), 'FST_SSE_HANDLER_INVALID', /schema of event "say" must be that of the data: pass the value of "body"/],
  ['a reserved event', (_sessions, session) => session.emit('close', 1), 'FST_SSE_EVENT_INVALID', /"close" is invalid: .* not one of the reserved names/],
  ['a stream without an event', (_sessions, session) => call(session.stream, session, [1, 2]), 'FST_SSE_EVENT_INVALID', /Event name of the type array is invalid/],
  ['a stream of a reserved event', (_sessions, session) => session.stream('error', []), 'FST_SSE_EVENT_INVALID', /"error"/],
  ['a stream without items', (_sessions, session) => call(session.stream, session, 'token'), 'FST_SSE_DATA_INVALID', /items of a stream must be an iterable/],
  ['a generator function that is not called', (_sessions, session) => call(session.stream, session, 'token', function * () { yield 1 }), 'FST_SSE_DATA_INVALID', /call a generator function/],
  ['data that is not JSON', (_sessions, session) => session.send(1n), 'FST_SSE_DATA_INVALID', /cannot be serialized as JSON: .*BigInt/],
  ['data that is a function', (_sessions, session) => session.send(() => {}), 'FST_SSE_DATA_INVALID', /cannot be serialized as JSON: it is a function/],
  ['an event that is too large', (_sessions, session) => session.send('x'.repeat(2 ** 20)), 'FST_SSE_ENTRY_TOO_LARGE', /split it, or raise the "bytes" of option "log"/],
  ['joining undefined', (_sessions, session) => call(session.join, session, undefined), 'FST_SSE_CHANNEL_INVALID', /name of the type undefined is invalid: it must be a non-empty/],
  ['leaving a channel without a name', (_sessions, session) => session.leave(''), 'FST_SSE_CHANNEL_INVALID', /name "" is invalid/],
  ['a channel with a number as its name', sessions => call(sessions.channel, sessions, 7), 'FST_SSE_CHANNEL_INVALID', /of the type number/],
  ['an id among the exceptions', (sessions, session) => call(sessions.channel('room').emit, sessions.channel('room'), 'said', 1, { except: [session, session.id] }), 'FST_SSE_OPTION_INVALID', /"except" must be a session, an array of sessions, or objects with their ids/],
  ['no session as the exception', sessions => call(sessions.broadcast, sessions, 'said', 1, { except: null }), 'FST_SSE_OPTION_INVALID', /"except" must be a session/],
  ['a misspelled exception', (sessions, session) => call(sessions.broadcast, sessions, 'said', 1, { exept: session }), 'FST_SSE_OPTION_INVALID', /Option "exept" of broadcast must be removed: there is no such option; the options are except/],
  ['the exception as the options', (sessions, session) => call(sessions.broadcast, sessions, 'said', 1, session), 'FST_SSE_OPTION_INVALID', /\{ except: session \}/],
  ['sending to a closed session', async (_sessions, session) => { await session.close(); await session.send(1) }, 'FST_SSE_SESSION_OVER', /stop producing when session\.signal aborts/]
]

t.test('typical mistakes have a code, and a message that says what to do', async t => {
  const { sessions, url } = await serve(t)
  for (const [title, make, code, message] of MISTAKES) {
    const { sessionId } = await openStream(t, url)
    const session = await sessions.find(sessionId)
    if (session === undefined) throw new Error('There is no session')
    await t.rejects(async () => { await make(sessions, session) }, { code, message }, title)
  }
})

t.test('an invalid schema fails the boot, and the error names its event', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions)
  app.sseSessions.handle('say', { schema: { type: 'text' } }, () => {})
  await t.rejects(async () => { await app.ready() }, { code: 'FST_SSE_HANDLER_INVALID', message: /schema of event "say" is invalid/ })
})

t.test('a schema may describe a property that is named body', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('mail', { schema: { type: 'object', required: ['body'], properties: { body: { type: 'string' } } } }, (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  t.equal((await postMessage(url, sessionId, {}, { event: 'mail' })).status, 400)
  t.strictSame((await postMessage(url, sessionId, { body: 'hi' }, { event: 'mail' })).body, { body: 'hi' })
})

t.test('the errors of requests say what the app or the client must change', async t => {
  for (const [value, type] of [[7, 'number'], [{ id: 7 }, 'object'], [true, 'boolean']] as const) {
    const { url } = await serve(t, { principal: (): never => value as never })
    const { body } = await request(`${url}/downward`)
    t.match(await body.json(), { code: 'FST_SSE_OPTION_INVALID', message: `a function that returns a string, undefined or null; it is one that returned a value of the type ${type}` })
  }
  const { sessions, url } = await serve(t)
  sessions.addHook('onMessage', () => { t.fail('the hook ran') })
  const { sessionId } = await openStream(t, url)
  const response = await postMessage(url, sessionId, {}, { event: 'close' })
  assertErrorResponse(t, response, 404, 'FST_SSE_EVENT_UNKNOWN')
  t.match(response.body, { message: 'No handler is registered for event "close", and onMessage hooks do not run for it, because the name is reserved' })
})

t.test('a worker of a cluster logs a warning if its sessions are in memory', async t => {
  t.intercept(cluster, 'isWorker', { value: true })
  for (const [store, expected] of [[memoryStore, 1], [new FlakyStore().createStore, 0]] as const) {
    const lines: string[] = []
    const app = Fastify({ logger: { level: 'warn', stream: { write: line => { lines.push(line) } } } })
    t.teardown(() => app.close())
    await app.register(sseSessions, { store })
    t.equal(lines.filter(line => line.includes('one of several workers')).length, expected)
  }
})
