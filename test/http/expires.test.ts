import t, { type Test } from 'tap'
import { StoreUnavailable, type SseSessionsOptions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { skewClock } from '../support/clock.js'
import { assertErrorResponse } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { deleteSession, openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { loseFirstReply } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { attachMemoryStream, findSession, openSession } from '../support/memory-stream.js'
import { serve } from '../support/server.js'
import { openProxiedNode, testEachRedisClient, testEachStoreFactory } from '../support/stores.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const MINUTE = 60_000

/** The time comes from a header, in milliseconds since 1970. Without it, credentials do not expire. */
const expires: SseSessionsOptions['expires'] = async ({ headers: { 'x-expires': time } }) => time === undefined ? undefined : new Date(time === 'invalid' ? NaN : Number(time))

/** The header of credentials that expire after a number of minutes. */
const validFor = (minutes: number): Record<string, string> => ({ 'x-expires': String(Date.now() + minutes * MINUTE) })

async function assertUnauthorized (t: Test, { events, ended }: ClientStream): Promise<void> {
  await withTimeout(ended, 'the end of the stream')
  t.match(events.at(-1), { event: 'close', data: { reason: 'unauthorized' } })
}

/** Delays the first call of `end`. `called` resolves when it is called, which then waits for `gate`. */
function delayFirstEnd (store: FlakyStore): Record<'called' | 'gate', ReturnType<typeof deferred<void>>> {
  const [called, gate] = [deferred(), deferred()]
  store.delay = name => {
    if (name !== 'end') return undefined
    store.delay = () => undefined
    called.resolve()
    return gate.promise
  }
  return { called, gate }
}

testEachStoreFactory(t, 'a stream ends when the credentials of its client expire, and newer ones in a GET or a POST to any process extend the time', async (t, connect, servers) => {
  const nodeA = await serve(t, { expires, store: await connect() })
  const nodeB = servers.length === 0 ? nodeA : await serve(t, { expires, store: await connect() })
  const closed: unknown[] = []
  for (const { sessions } of new Set([nodeA, nodeB])) sessions.addHook('onClose', ({ id }, reason) => { closed.push([id, reason]) }).handle('ping', () => 'pong')
  const post = async ({ sessionId }: ClientStream, headers: Record<string, string>): Promise<void> => {
    t.equal((await postMessage(nodeA.url, sessionId, null, { event: 'ping', headers })).status, 200)
  }
  const [early, late] = [validFor(10), validFor(30)]
  const first = await openStream(t, nodeA.url, { headers: early })
  const posted = await openStream(t, nodeB.url, { headers: early })
  await post(posted, late)
  await post(posted, early)
  await post(posted, {})
  const resumed = await openStream(t, nodeB.url, { headers: { ...late, 'x-session-id': (await openStream(t, nodeA.url, { headers: early })).sessionId } })
  t.match(resumed.events[0]?.data, { resumed: true })
  const unlimited = await openStream(t, nodeA.url)

  const advance = skewClock(t, Date)
  advance(10 * MINUTE)
  await assertUnauthorized(t, first)
  t.strictSame(closed, [[first.sessionId, 'unauthorized']])
  assertErrorResponse(t, await postMessage(nodeB.url, first.sessionId, null, { event: 'ping', headers: late }), 404, 'FST_SSE_SESSION_UNKNOWN')
  await assertUnauthorized(t, await openStream(t, nodeB.url, { headers: { ...late, 'x-session-id': first.sessionId } }))
  for (const stream of [posted, resumed]) await post(stream, late)
  await post(unlimited, {})

  advance(20 * MINUTE)
  await Promise.all([assertUnauthorized(t, posted), assertUnauthorized(t, resumed)])
  await post(unlimited, {})
  t.equal(closed.length, 3)
})

t.test('expired credentials are refused on each route, and a session without a stream stays open for newer ones', async t => {
  const { sessions, url } = await serve(t, { expires })
  const advance = skewClock(t, Date)
  const old = validFor(1)
  const { sessionId, destroy } = await openStream(t, url, { headers: old })
  destroy()
  await waitUntil(async () => (await sessions.find(sessionId))?.connected === false, 'the disconnect')
  advance(MINUTE)
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'hi' }, { headers: old }), 401, 'FST_SSE_UNAUTHORIZED')
  assertErrorResponse(t, await deleteSession(url, sessionId, old), 401, 'FST_SSE_UNAUTHORIZED')
  for (const headers of [old, { ...old, 'x-session-id': sessionId }]) {
    const { status, text, ended } = await openStream(t, url, { headers, skipWelcome: true })
    await withTimeout(ended, 'the end')
    assertErrorResponse(t, { status, headers: {}, body: JSON.parse(text()) }, 401, 'FST_SSE_UNAUTHORIZED')
  }
  t.equal(sessions.size, 1)
  const { events } = await openStream(t, url, { headers: { ...validFor(1), 'x-session-id': sessionId } })
  t.match(events[0]?.data, { resumed: true, sessionId })
})

t.test('a result of option expires that is not a valid Date is an error', async t => {
  const { sessions, url } = await serve(t, { expires })
  const { sessionId } = await openStream(t, url)
  const response = await postMessage(url, sessionId, { text: 'hi' }, { headers: { 'x-expires': 'invalid' } })
  assertErrorResponse(t, response, 500, 'FST_SSE_OPTION_INVALID')
  t.match(response.body, { message: /"expires".*an invalid Date/ })
  t.equal((await openStream(t, url, { headers: { 'x-expires': 'invalid' }, skipWelcome: true })).status, 500)
  t.equal(sessions.size, 1)
  const number = await serve(t, { expires: () => 7 as unknown as Date })
  t.match((await postMessage(number.url, 'id', {})).body, { message: /a value of the type number/ })
  const none = await serve(t, { expires: () => null })
  await openStream(t, none.url)
})

t.test('an onClose hook that does not settle delays no other session, and an unavailable store only until it can be reached', async t => {
  const [store, other] = [new FlakyStore(), new FlakyStore()]
  const { sessions, url } = await serve(t, { expires, store: store.createStore })
  const advance = skewClock(t, Date)
  const first = await openStream(t, url, { headers: validFor(1) })
  const second = await openStream(t, url, { headers: validFor(2) })
  sessions.addHook('onClose', () => new Promise(() => {}))
  advance(MINUTE)
  await assertUnauthorized(t, first)
  const gate = deferred()
  store.delay = name => name === 'end' ? gate.promise : undefined
  // The checks of another app show that the time for the next one has come.
  const { url: otherUrl } = await serve(t, { expires, store: other.createStore })
  await openStream(t, otherUrl, { headers: validFor(1) })
  let checks = 0
  other.delay = name => {
    if (name !== 'end') return
    checks++
    throw new StoreUnavailable()
  }
  advance(MINUTE)
  await waitUntil(() => checks > 2, 'three checks')
  store.isDown = true
  gate.resolve()
  await nextEventLoopTick()
  store.isDown = false
  await assertUnauthorized(t, second)
})

t.test('a session that is closed while the check closes it has the reason of the first close', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { expires, store: store.createStore })
  const advance = skewClock(t, Date)
  const stream = await openStream(t, url, { headers: validFor(1) })
  const session = await sessions.find(stream.sessionId)
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  const { called, gate } = delayFirstEnd(store)
  advance(MINUTE)
  await withTimeout(called.promise, 'the check')
  await session?.close('left')
  gate.resolve()
  await nextEventLoopTick()
  t.strictSame(reasons, ['left'])
})

t.test('newer credentials that arrive during the check keep the session open', async t => {
  const store = new FlakyStore()
  const { url } = await serve(t, { expires, store: store.createStore })
  const advance = skewClock(t, Date)
  const { sessionId, events } = await openStream(t, url, { headers: validFor(1) })
  const { called, gate } = delayFirstEnd(store)
  advance(MINUTE)
  await withTimeout(called.promise, 'the check')
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'old' }, { headers: validFor(0) }), 401, 'FST_SSE_UNAUTHORIZED')
  t.equal((await postMessage(url, sessionId, { text: 'new' }, { headers: validFor(1) })).status, 201)
  gate.resolve()
  await nextEventLoopTick()
  t.equal((await postMessage(url, sessionId, { text: 'newer' }, { headers: validFor(1) })).status, 201)
  await waitUntil(() => events.length === 3, 'both messages')
  t.strictSame(events.slice(1).map(({ data }) => (data as { text: string }).text), ['Data received: new', 'Data received: newer'])
})

t.test('newer credentials of a GET apply while its onResume hook runs, also if the hook fails', async t => {
  const advance = skewClock(t, Date)
  for (const fails of [false, true]) {
    const { sessions, url } = await serve(t, { expires })
    const [called, gate] = [deferred(), deferred()]
    sessions.addHook('onResume', async () => {
      called.resolve()
      await gate.promise
      if (fails) throw new Error('refused')
    })
    const [stream, other] = [await openStream(t, url, { headers: validFor(1) }), await openStream(t, url, { headers: validFor(1) })]
    const resumed = openStream(t, url, { headers: { ...validFor(2), 'x-session-id': stream.sessionId }, skipWelcome: true })
    await withTimeout(called.promise, 'the hook')
    advance(MINUTE)
    await assertUnauthorized(t, other)
    t.ok(await sessions.find(stream.sessionId), 'the session is open')
    gate.resolve()
    t.equal((await withTimeout(resumed, 'the stream')).status, fails ? 500 : 200)
    t.ok(await sessions.find(stream.sessionId), 'the session is open')
  }
})

t.test('newer credentials that only another process knows keep the session open', needsRedis, async t => {
  const redis = await startRedis(t)
  const [nodeA, nodeB] = [await openProxiedNode(t, redis, { expires }), await openProxiedNode(t, redis, { expires })]
  const session = await openSession(nodeA.sessions)
  await attachMemoryStream(nodeA.sessions, session)
  const remote = await findSession(nodeB.sessions, session)
  const advance = skewClock(t, Date)
  const until = Date.now() + 3 * MINUTE
  await nodeA.sessions.authorize(session, until - 2 * MINUTE)
  nodeA.pausePublications(true)
  await nodeB.sessions.authorize(remote, until)
  advance(2 * MINUTE)
  await waitUntil(() => session[kInternals].state.authorizedUntil === until, 'the check')
  t.notOk(session.closed)
  t.notOk((await findSession(nodeB.sessions, session)).closed)
})

testEachRedisClient(t, 'the latest time applies, whatever a process knows of the others', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  await nodeA.authorize(session, 1000)
  await nodeB.authorize(remote, 3000)
  await nodeA.authorize(session, 2000)
  t.equal(session[kInternals].state.authorizedUntil, 3000)
  await nodeA.authorize(session, 2500)
  t.equal((await findSession(nodeB, session))[kInternals].state.authorizedUntil, 3000)
  await remote.close()
  await nodeA.authorize(session, 4000)
  t.ok(session.closed, 'the call shows a close that was not received yet')
})

t.test('a retry does not count as a change of the session', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t))
  const { waitForCommand, loseReply } = loseFirstReply(client, ({ operation }) => operation === 'authorize')
  const session = await openSession(sessions)
  const authorized = sessions.authorize(session, 1000)
  await waitForCommand()
  await loseReply()
  await authorized
  await session.update({ name: 'ann' })
  t.match(session[kInternals].state, { authorizedUntil: 1000, data: { name: 'ann' }, version: 3 })
})
