import Fastify from 'fastify'
import t from 'tap'
import sseSessions, { memoryStore, type SseSessionsOptions, type Store } from '../../lib/index.js'
import { FlakyStore } from '../support/flaky-store.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, deleteSession } from '../support/http-client.js'

const code = 'FST_SSE_OPTION_INVALID'

const INVALID: { [Name in keyof SseSessionsOptions]-?: unknown[] } & Record<string, unknown[]> = {
  prefix: [7, null, {}],
  logLevel: [7, {}, null],
  logSerializers: [7, 'req', null],
  decorator: [7, '', null],
  paths: [null, 7, '/downward', { downward: 'downward' }, { downward: '' }, { upward: 7 }, { upward: null }, { upward: '/' }, { upward: '/up/' }, { upwards: '/up' }],
  routes: [null, 7, 'routes', { downward: 7 }, { upward: null }, { upwards: {} }],
  store: [null, 7, {}, 'redis'],
  principal: [null, 'me', {}],
  expires: [null, new Date(), {}],
  cors: [null, 'all', 7],
  heartbeatInterval: [null, true, 0, 4, -1, 5.5, NaN, Infinity, 2 ** 31, '15000'],
  padding: [null, 0, 4096, 'true'],
  compress: [null, 7, 'gzip', { channel: true }, { broadcasts: 1 }, { channels: 'prices' }, { channels: null }],
  heartbeatEvent: [null, 7, '', 'a\nb', 'a\rb', 'a\0b', '\ud800', 'welcome', 'close', 'gap', 'replaced', 'open', 'error'],
  resumeTimeout: [null, false, -1, 0.5, NaN, Infinity, 2 ** 31, '1'],
  retry: [null, false, -1, 0.5, NaN, Infinity, 2 ** 31, '1', {}, [], [1], [1, 2, 3], [2, 1], [-1, 1], [0, Infinity], [0, '1'], [0.5, 1]],
  closeTimeout: [null, false, -1, 0.5, NaN, Infinity, '1', 9501],
  log: [null, 7, 'log', [1], { entry: 1 }, { entries: 0 }, { entries: 0.5 }, { entries: '1' }, { bytes: 0 }, { bytes: NaN }, { age: 0 }, { age: Infinity }, { age: 2 ** 31 }],
  channelLog: [null, 7, { entries: -1 }, { bytes: -1 }, { age: -1 }],
  runLog: [null, 7, { entries: -1 }, { bytes: -1 }, { age: -1 }],
  maxRuns: [null, 0, -1, 1.5, NaN, '1'],
  maxSessions: [null, 0, -1, 1.5, NaN, '1'],
  maxSessionsPerPrincipal: [null, 0, -1, 1.5, NaN, '1'],
  maxChannelsPerSession: [null, 0, -1, 1.5, NaN, '1'],
  maxWaitingMessages: [null, -1, 1.5, NaN, '1'],
  maxWaitingBytes: [null, -1, 1.5, NaN, '1'],
  maxIdempotencyKeys: [null, -1, 1.5, NaN, '1'],
  handlerTimeout: [null, true, -1, 1.5, NaN, Infinity, 2 ** 31, '1'],
  maxResponseBytes: [null, -1, 1.5, NaN, '1'],
  maxBytes: [null, 0, -1, 1.5, NaN, '1'],
  heartbeat: [1000]
}

for (const [name, values] of Object.entries(INVALID)) {
  t.test(`an invalid option ${name} fails the boot, and the error names it`, async t => {
    for (const value of values) {
      await t.rejects(async () => { await Fastify().register(sseSessions, { [name]: value }) }, { code, message: new RegExp(`"${name}[".]`) }, `${typeof value} ${JSON.stringify(value)}`)
    }
  })
}

t.test('accepts the minimum and maximum of each option', async t => {
  for (const options of [
    { heartbeatInterval: 5, resumeTimeout: 0, retry: 0, closeTimeout: 0, maxRuns: 1, maxSessions: 1, maxSessionsPerPrincipal: 1, maxChannelsPerSession: 1, maxWaitingMessages: 0, maxWaitingBytes: 0, maxIdempotencyKeys: 0, handlerTimeout: 0, maxResponseBytes: 0, maxBytes: 1, log: { entries: 1, bytes: 1, age: 1 } },
    { heartbeatInterval: 2 ** 31 - 1, resumeTimeout: 2 ** 31 - 1, retry: [2 ** 31 - 1, 2 ** 31 - 1], closeTimeout: 9500, maxRuns: Infinity, maxSessions: Infinity, maxSessionsPerPrincipal: Infinity, maxChannelsPerSession: Infinity, maxWaitingMessages: Infinity, maxWaitingBytes: Infinity, maxIdempotencyKeys: Infinity, handlerTimeout: false, maxResponseBytes: Infinity, maxBytes: Infinity, log: { entries: Infinity, bytes: Infinity, age: 2 ** 31 - 1 }, channelLog: {} },
    { heartbeatInterval: false, retry: [0, 0], prefix: '', paths: {}, routes: {}, log: {}, cors: {}, principal: () => 'me', expires: () => null, store: new FlakyStore().createStore, heartbeatEvent: 'message', logLevel: 'silent' }
  ] as SseSessionsOptions[]) {
    const app = Fastify()
    await app.register(sseSessions, options)
    await t.resolves(async () => { await app.ready() })
    await app.close()
  }
})

t.test('closeTimeout must be 500 ms less than pluginTimeout, and the error says so', async t => {
  await t.rejects(async () => { await Fastify({ pluginTimeout: 1000 }).register(sseSessions, { closeTimeout: 501 }) }, { code, message: 'Option "closeTimeout" must be at least 500 ms less than the pluginTimeout of Fastify, 1000 ms; it is 501' })
})

t.test('closeTimeout has no maximum if pluginTimeout is disabled', async t => {
  const app = Fastify({ pluginTimeout: 0 })
  await t.resolves(async () => { await app.register(sseSessions, { closeTimeout: 60_000 }) })
  await app.close()
})

t.test('a decorator that already exists fails the boot, and another name is accepted', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions)
  await t.rejects(async () => { await app.register(sseSessions, { prefix: '/b' }) }, { code, message: /"decorator"/ })
  const { app: other } = await serve(t, {}, { afterRegister: app => app.register(sseSessions, { prefix: '/b', decorator: 'more' }) })
  t.not(other.getDecorator('more'), other.sseSessions)
})

t.test('option paths replaces the default paths, which may be equal', async t => {
  for (const [paths, options] of [
    [{ downward: '/events', upward: '/messages' }, {}],
    [{ downward: '/chat', upward: '/chat' }, {}],
    [{ downward: '/events' }, { prefix: '/v1' }]
  ] as Array<[{ downward: string, upward?: string }, SseSessionsOptions]>) {
    const { url } = await serve(t, { paths, ...options })
    const base = url + (options.prefix ?? '')
    const { sessionId } = await openStream(t, base, { path: paths.downward })
    t.equal((await postMessage(base, sessionId, { text: 'hi' }, { path: paths.upward ?? '/upward' })).status, 201)
    t.equal((await postMessage(base, sessionId, { text: 'hi' }, { path: paths.upward ?? '/upward', event: 'message' })).status, 201)
    t.equal((await deleteSession(url, sessionId)).status, 404, 'the default path is not served')
  }
})

t.test('sends the number of option retry, or a random one from its range', async t => {
  const collectRetryFields = async (retry: NonNullable<SseSessionsOptions['retry']>): Promise<Set<number>> => {
    const { url } = await serve(t, { retry })
    const values = new Set<number>()
    for (let i = 0; i < 60; i++) {
      const { text, destroy } = await openStream(t, url)
      values.add(Number(/^retry: (\d+)\nevent: welcome\n/.exec(text())?.[1]))
      destroy()
    }
    return values
  }
  t.strictSame(await collectRetryFields(77), new Set([77]))
  // The probability that 60 streams miss one of the three values is about 1e-10.
  t.strictSame([...await collectRetryFields([7, 9])].sort(), [7, 8, 9])
  const defaults = await collectRetryFields([1000, 5000])
  t.ok(defaults.size > 10 && [...defaults].every(retry => retry >= 1000 && retry <= 5000))
})

t.test('uses the store of option store, and closes it with the app', async t => {
  const stores: Store[] = []
  const reasons: string[] = []
  const { app, sessions, url } = await serve(t, {
    store: (settings, callbacks) => {
      const store = memoryStore(settings, callbacks)
      const close = store.close.bind(store)
      stores.push(Object.assign(store, { close: (reason: string) => reasons.push(reason) && close(reason) }))
      return store
    }
  })
  const { sessionId } = await openStream(t, url)
  await (await sessions.find(sessionId))?.send(1)
  t.strictSame(stores.map(store => store.stats()), [{ sessions: 1, channels: 0 }])
  await app.close()
  t.strictSame(reasons, ['shutdown'])
})
