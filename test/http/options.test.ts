import Fastify from 'fastify'
import t from 'tap'
import sseSessions, { memoryStore, type SseSessionsOptions, type Store } from '../../lib/index.js'
import { FlakyStore } from '../support/flaky-store.js'
import { serve } from '../support/server.js'
import { openStream, post, remove } from '../support/stream.js'
import { within } from '../support/wait.js'

const code = 'FST_SSE_OPTION_INVALID'

const INVALID: { [Name in keyof SseSessionsOptions]-?: unknown[] } & Record<string, unknown[]> = {
  prefix: [7, null, {}],
  logLevel: [7, {}, null],
  decorator: [7, '', null],
  paths: [null, 7, '/downward', { downward: 'downward' }, { downward: '' }, { upward: 7 }, { upward: null }, { upward: '/' }, { upward: '/up/' }, { upwards: '/up' }],
  routes: [null, 7, 'routes', { downward: 7 }, { upward: null }, { upwards: {} }],
  store: [null, 7, {}, 'redis'],
  principal: [null, 'me', {}],
  cors: [null, 'all', 7],
  heartbeatInterval: [null, true, 0, 4, -1, 5.5, NaN, Infinity, 2 ** 31, '15000'],
  heartbeatEvent: [null, 7, '', 'a\nb', 'a\rb', 'a\0b', '\ud800', 'welcome', 'close', 'gap', 'replaced', 'open', 'error'],
  resumeTimeout: [null, false, -1, 0.5, NaN, Infinity, 2 ** 31, '1'],
  retry: [null, false, -1, 0.5, NaN, Infinity, 2 ** 31, '1', {}, [], [1], [1, 2, 3], [2, 1], [-1, 1], [0, Infinity], [0, '1'], [0.5, 1]],
  closeTimeout: [null, false, -1, 0.5, NaN, Infinity, '1', 10_000],
  log: [null, 7, 'log', [1], { entry: 1 }, { entries: 0 }, { entries: 0.5 }, { entries: '1' }, { bytes: 0 }, { bytes: NaN }, { age: 0 }, { age: Infinity }, { age: 2 ** 31 }],
  channelLog: [null, 7, { entries: -1 }, { bytes: -1 }, { age: -1 }],
  maxSessions: [null, 0, -1, 1.5, NaN, '1'],
  maxSessionsPerPrincipal: [null, 0, -1, 1.5, NaN, '1'],
  maxWaitingMessages: [null, -1, 1.5, NaN, '1'],
  maxIdempotencyKeys: [null, -1, 1.5, NaN, '1'],
  heartbeat: [1000]
}

for (const [name, values] of Object.entries(INVALID)) {
  t.test(`an invalid ${name} ends the boot, and the error names it`, async t => {
    for (const value of values) {
      await t.rejects(async () => { await Fastify().register(sseSessions, { [name]: value }) }, { code, message: new RegExp(`"${name}[".]`) }, `${typeof value} ${JSON.stringify(value)}`)
    }
  })
}

t.test('what is valid at the edge is taken', async t => {
  for (const options of [
    { heartbeatInterval: 5, resumeTimeout: 0, retry: 0, closeTimeout: 0, maxSessions: 1, maxSessionsPerPrincipal: 1, maxWaitingMessages: 0, maxIdempotencyKeys: 0, log: { entries: 1, bytes: 1, age: 1 } },
    { heartbeatInterval: 2 ** 31 - 1, resumeTimeout: 2 ** 31 - 1, retry: [2 ** 31 - 1, 2 ** 31 - 1], closeTimeout: 9_999, maxSessions: Infinity, maxSessionsPerPrincipal: Infinity, maxWaitingMessages: Infinity, maxIdempotencyKeys: Infinity, log: { entries: Infinity, bytes: Infinity, age: 2 ** 31 - 1 }, channelLog: {} },
    { heartbeatInterval: false, retry: [0, 0], prefix: '', paths: {}, routes: {}, log: {}, cors: {}, principal: () => 'me', store: new FlakyStore().open, heartbeatEvent: 'message', logLevel: 'silent' }
  ] as SseSessionsOptions[]) {
    const app = Fastify()
    await app.register(sseSessions, options)
    await t.resolves(async () => { await app.ready() })
    await app.close()
  }
})

t.test('closeTimeout need not be below a pluginTimeout that is off', async t => {
  const app = Fastify({ pluginTimeout: 0 })
  await t.resolves(async () => { await app.register(sseSessions, { closeTimeout: 60_000 }) })
  await app.close()
})

t.test('a decorator that is taken ends the boot; another one is given', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions)
  await t.rejects(async () => { await app.register(sseSessions, { prefix: '/b' }) }, { code, message: /"decorator"/ })
  const { app: other } = await serve(t, {}, { after: app => app.register(sseSessions, { prefix: '/b', decorator: 'more' }) })
  t.not(other.getDecorator('more'), other.sseSessions)
})

t.test('paths are options, and may be the same', async t => {
  for (const [paths, options] of [
    [{ downward: '/events', upward: '/messages' }, {}],
    [{ downward: '/chat', upward: '/chat' }, {}],
    [{ downward: '/events' }, { prefix: '/v1' }]
  ] as Array<[{ downward: string, upward?: string }, SseSessionsOptions]>) {
    const { url } = await serve(t, { paths, ...options })
    const base = url + (options.prefix ?? '')
    const { sessionId } = await openStream(t, base, { path: paths.downward })
    t.equal((await post(base, sessionId, { text: 'hi' }, { path: paths.upward ?? '/upward' })).status, 201)
    t.equal((await post(base, sessionId, { text: 'hi' }, { path: paths.upward ?? '/upward', event: 'message' })).status, 201)
    t.equal((await remove(url, sessionId)).status, 404, 'the default is not served beside it')
  }
})

t.test('retry is told as it is, or at random within its range', async t => {
  const told = async (retry: NonNullable<SseSessionsOptions['retry']>): Promise<Set<number>> => {
    const { url } = await serve(t, { retry })
    const all = new Set<number>()
    for (let i = 0; i < 60; i++) {
      const { raw, destroy } = await openStream(t, url)
      all.add(Number(/^retry: (\d+)\nevent: welcome\n/.exec(raw())?.[1]))
      destroy()
    }
    return all
  }
  t.strictSame(await told(77), new Set([77]))
  // Each of the three is missed with a probability of (2/3)^60, which is 3e-11.
  t.strictSame([...await told([7, 9])].sort(), [7, 8, 9])
  const defaults = await told([1000, 5000])
  t.ok(defaults.size > 10 && [...defaults].every(retry => retry >= 1000 && retry <= 5000))
})

t.test('at most maxSessions live; the next client is told to come later, until one ends', async t => {
  const lines: string[] = []
  const { sessions, url } = await serve(t, { maxSessions: 2, retry: 5 }, { fastify: { logger: { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } } } })
  const [first] = [await openStream(t, url), await openStream(t, url)]
  const refusal = await openStream(t, url, { raw: true })
  await within(refusal.ended, 'the end')
  t.strictSame([refusal.status, refusal.headers['content-type'], refusal.raw()], [200, 'text/event-stream; charset=utf-8', 'retry: 5\n\n'])
  t.match(lines, [/maxSessions/])
  const resumed = await openStream(t, url, { headers: { 'x-session-id': first.sessionId } })
  t.match(resumed.events[0]?.data, { resumed: true })
  await (await sessions.find(first.sessionId))?.close()
  await openStream(t, url)
  t.equal(sessions.size, 2)
})

t.test('as many ended sessions as may live are kept, the newest; the others are unknown', async t => {
  const { sessions, url } = await serve(t, { maxSessions: 2 })
  const ids: string[] = []
  for (const reason of ['a', 'b', 'c']) {
    const { sessionId, ended } = await openStream(t, url)
    ids.push(sessionId)
    await (await sessions.find(sessionId))?.close(reason)
    await within(ended, 'the end')
  }
  const told: unknown[] = []
  for (const id of ids) {
    const { events } = await openStream(t, url, { headers: { 'x-session-id': id } })
    told.push((events[0]?.data as { resumed: boolean }).resumed)
  }
  t.strictSame(told, [false, true, true])
})

t.test('an event that does not fit its log is refused, and all that do are sent', async t => {
  const { sessions, url } = await serve(t, { log: { bytes: 100 }, channelLog: { bytes: 200 } })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  await session?.join('room')
  const room = sessions.channel('room')
  // `data: "…"` and two line feeds are ten bytes around the text; `event: all` and its line feed are eleven more.
  const text = (bytes: number): string => 'é'.repeat(bytes / 2)
  const tooLarge = { code: 'FST_SSE_ENTRY_TOO_LARGE' }
  await t.rejects(async () => { await session?.send(text(92)) }, tooLarge)
  await t.rejects(room.send(text(192)), tooLarge)
  await t.rejects(sessions.broadcast('all', text(190)), tooLarge)
  await session?.send(text(90))
  await room.send(text(190))
  await sessions.broadcast('all', text(178))
  await stream.waitFor(({ event }) => event === 'all')
  t.strictSame(stream.events.slice(1).map(({ data }) => String(data).length), [45, 95, 89])
})

t.test('the store of an app is the one that is used, and closed with it', async t => {
  const used: Store[] = []
  const reasons: string[] = []
  const { app, sessions, url } = await serve(t, {
    store: (settings, user) => {
      const store = memoryStore(settings, user)
      const close = store.close.bind(store)
      used.push(Object.assign(store, { close: (reason: string) => reasons.push(reason) && close(reason) }))
      return store
    }
  })
  const { sessionId } = await openStream(t, url)
  await (await sessions.find(sessionId))?.send(1)
  t.strictSame(used.map(store => store.stats()), [{ sessions: 1, channels: 0 }])
  await app.close()
  t.strictSame(reasons, ['shutdown'])
})
