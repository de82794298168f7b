import { inspect } from 'node:util'
import t from 'tap'
import { refused } from '../support/error-response.js'
import { FlakyStore } from '../support/flaky-store.js'
import { serve } from '../support/server.js'
import { openStream, post, type Answer, type Stream } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

/** A `resumeTimeout` in which a client is back, however slow the machine is. */
const IN_TIME = 1000

/** A stream that was not opened, as the answer it got. */
async function refusal (stream: Stream): Promise<Answer> {
  await within(stream.ended, 'the end')
  return { status: stream.status, headers: stream.headers, body: JSON.parse(stream.raw()) }
}

t.test('what onOpen hooks return is in the welcome, and they run in order', async t => {
  const { sessions, url } = await serve(t)
  const order: string[] = []
  sessions
    .addHook('onOpen', async (session, request) => {
      order.push(`first ${request.headers['x-name']?.toString()}`)
      await session.update({ nick: 'a' })
      await new Promise(setImmediate)
      return { a: 1, b: 1, sessionId: 'forged', resumed: true }
    })
    .addHook('onOpen', () => { order.push('second') })
    .addHook('onOpen', async ({ data }) => {
      order.push('third')
      return { b: 2, nick: data.nick }
    })
  const { events, sessionId } = await openStream(t, url, { headers: { 'x-name': 'me' } })
  t.strictSame(events[0]?.data, { sessionId, resumed: false, heartbeatInterval: 15_000, a: 1, b: 2, nick: 'a' })
  t.strictSame(order, ['first me', 'second', 'third'])
})

t.test('what an onOpen hook sends comes after the welcome', async t => {
  const { sessions, url } = await serve(t)
  sessions.addHook('onOpen', async session => {
    await session.join('room')
    await session.send('from the hook')
    await sessions.channel('room').send('to the room')
  })
  const stream = await openStream(t, url)
  await stream.waitFor(({ data }) => data === 'to the room')
  t.match(stream.events.map(({ data }) => data), [{ resumed: false }, 'from the hook', 'to the room'])
})

t.test('an app with hooks of its own is not greeted by the tutorial', async t => {
  for (const add of [
    ({ sessions }) => { sessions.addHook('onOpen', () => {}) },
    ({ sessions }) => { sessions.addHook('onMessage', () => {}) },
    ({ sessions }) => { sessions.handle('message', () => {}) }
  ] as Array<(served: Awaited<ReturnType<typeof serve>>) => void>) {
    const served = await serve(t, { heartbeatInterval: false })
    add(served)
    const { events, sessionId } = await openStream(t, served.url)
    t.strictSame(events[0]?.data, { sessionId, resumed: false })
  }
})

t.test('what an onOpen hook throws refuses the session and is the answer', async t => {
  const { sessions, url } = await serve(t)
  const closed: unknown[] = []
  let thrown: unknown
  sessions
    .addHook('onOpen', () => { throw thrown })
    .addHook('onOpen', () => { t.fail('ran after a refusal') })
    .addHook('onClose', (session, reason) => { closed.push([session.closed, reason]) })
  thrown = Object.assign(new Error('not you'), { statusCode: 403, code: 'APP_NOT_YOU' })
  refused(t, await refusal(await openStream(t, url, { raw: true })), 403, 'APP_NOT_YOU')
  for (const other of ['a string', undefined, { statusCode: 200 }, Object.create(null)]) {
    thrown = other
    const answer = await refusal(await openStream(t, url, { raw: true }))
    t.match(answer, { status: 500, body: { statusCode: 500 } }, `for ${inspect(other)}`)
  }
  t.strictSame(closed, Array.from({ length: 5 }, () => [true, 'refused']))
  t.equal(sessions.size, 0)
})

t.test('what onOpen or onResume returns has to have JSON; a session whose welcome has none is refused', async t => {
  const { sessions, url } = await serve(t)
  let told: object = { n: 1n }
  sessions.addHook('onOpen', () => told).addHook('onResume', () => ({ n: 1n }))
  refused(t, await refusal(await openStream(t, url, { raw: true })), 500, 'FST_SSE_DATA_INVALID')
  t.equal(sessions.size, 0)
  told = {}
  const stream = await openStream(t, url)
  const headers = { 'x-session-id': stream.sessionId }
  refused(t, await refusal(await openStream(t, url, { raw: true, headers })), 500, 'FST_SSE_DATA_INVALID')
  await (await sessions.find(stream.sessionId))?.send('still there')
  t.ok(await stream.waitFor(({ data }) => data === 'still there'))
})

t.test('a store that fails in onOpen has the client come later', async t => {
  const store = new FlakyStore()
  const { sessions, url } = await serve(t, { store: store.open, retry: 7, resumeTimeout: 50 })
  sessions.addHook('onOpen', async session => {
    store.down = true
    await session.send('never')
  })
  const stream = await openStream(t, url, { raw: true })
  await within(stream.ended, 'the end')
  t.strictSame([stream.status, stream.raw()], [200, 'retry: 7\n\n'])
  // It cannot be ended either; it ends by itself.
  await until(() => sessions.size === 0, 'the session to expire')
  const again = await openStream(t, url, { raw: true })
  await within(again.ended, 'the end')
  t.strictSame([again.status, again.raw()], [200, 'retry: 7\n\n'])
  t.equal(sessions.size, 0)
})

t.test('a session is not over while onOpen runs, however short the resumeTimeout is', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: 1 })
  const expired = signal()
  let opened = 0
  sessions
    .addHook('onOpen', async () => { if (opened++ === 0) await expired.promise })
    .addHook('onClose', () => { expired.resolve() })
  const slow = openStream(t, url)
  await until(() => opened === 1, 'the first')
  const quick = await openStream(t, url)
  quick.destroy()
  const { sessionId } = await within(slow, 'the slow one')
  t.equal((await sessions.find(sessionId))?.connected, true)
})

t.test('onResume hooks run for a client that comes back, and their data is in its welcome', async t => {
  const { sessions, url } = await serve(t)
  const resumed: unknown[] = []
  sessions.addHook('onResume', async (session, request) => {
    resumed.push([session.id, request.headers['x-try'], session.connected])
    if (request.headers['x-try'] === 'refused') throw Object.assign(new Error('not now'), { statusCode: 403, code: 'APP_NOT_NOW' })
    return { missed: 3, resumed: false }
  })
  const first = await openStream(t, url)
  const headers = { 'x-session-id': first.sessionId }
  t.notOk('missed' in Object(first.events[0]?.data))
  const replacing = await openStream(t, url, { headers: { ...headers, 'x-try': 'replacing' } })
  t.strictSame(replacing.events[0]?.data, { sessionId: first.sessionId, resumed: true, heartbeatInterval: 15_000, missed: 3 })
  refused(t, await refusal(await openStream(t, url, { headers: { ...headers, 'x-try': 'refused' }, raw: true })), 403, 'APP_NOT_NOW')
  t.equal((await sessions.find(first.sessionId))?.connected, true, 'a refused resume leaves the stream that is there alone')
  replacing.destroy()
  await until(async () => (await sessions.find(first.sessionId))?.connected === false, 'the disconnect')
  await openStream(t, url, { headers: { ...headers, 'x-try': 'returning' } })
  t.strictSame(resumed, [[first.sessionId, 'replacing', true], [first.sessionId, 'refused', true], [first.sessionId, 'returning', false]])
})

t.test('a session does not expire while onResume runs for its client; if that leaves, it does after all', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: IN_TIME })
  const entered = signal()
  const leave = signal()
  const over = signal<string>()
  sessions
    .addHook('onResume', async () => {
      entered.resolve()
      await leave.promise
    })
    .addHook('onClose', (_session, reason) => { over.resolve(reason) })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(async () => (await sessions.find(sessionId))?.connected === false, 'the disconnect')
  const headers = { 'x-session-id': sessionId }
  const coming = openStream(t, url, { headers })
  await within(entered.promise, 'onResume')
  // Another session, begun and lost since, shows that the time has passed.
  const other = await openStream(t, url)
  other.destroy()
  t.equal(await within(over.promise, 'the other to expire'), 'expired')
  t.equal(await sessions.find(other.sessionId), undefined)
  leave.resolve()
  const back = await coming
  t.match(back.events[0]?.data, { resumed: true })
  t.equal((await sessions.find(sessionId))?.connected, true)
  back.destroy()
  await until(() => sessions.size === 0, 'the session to expire')
})

t.test('of two that resume a session at once, the one that fails does not have it expire under the other', async t => {
  const { sessions, url } = await serve(t, { resumeTimeout: IN_TIME })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(async () => (await sessions.find(sessionId))?.connected === false, 'the disconnect')
  const entered = signal()
  const leave = signal()
  const over = signal()
  sessions
    .addHook('onResume', async (_session, { headers }) => {
      if (headers['x-try'] === 'fails') throw new Error('no')
      entered.resolve()
      await leave.promise
    })
    .addHook('onClose', () => { over.resolve() })
  const coming = openStream(t, url, { headers: { 'x-session-id': sessionId } })
  await within(entered.promise, 'the one')
  await openStream(t, url, { headers: { 'x-session-id': sessionId, 'x-try': 'fails' }, raw: true })
  leave.resolve()
  await coming
  const other = await openStream(t, url)
  other.destroy()
  await within(over.promise, 'another to expire')
  t.equal((await sessions.find(sessionId))?.connected, true)
  t.equal(await sessions.find(other.sessionId), undefined)
})

t.test('onMessage hooks run in order until one answers', async t => {
  const { sessions, url } = await serve(t)
  const ran: string[] = []
  sessions
    .addHook('onMessage', (_session, { event, data, id }) => { ran.push(`${event} ${JSON.stringify(data)} ${id}`) })
    .addHook('onMessage', async (_session, { event }) => event === 'returns' ? { by: 'second' } : undefined)
    .addHook('onMessage', (_session, { event }, request, reply) => { if (event === 'sends') reply.code(203).send({ via: request.headers['x-via'] }) })
    .addHook('onMessage', (_session, { event }) => {
      ran.push('last')
      if (event === 'throws') throw Object.assign(new Error('no'), { statusCode: 409, code: 'APP_NO' })
    })
    .handle('handled', () => 'handled')
  const { sessionId } = await openStream(t, url)
  t.match(await post(url, sessionId, { n: 1 }, { event: 'returns', key: 'k' }), { status: 200, body: { by: 'second' } })
  t.match(await post(url, sessionId, 2, { event: 'sends', headers: { 'x-via': 'me' } }), { status: 203, body: { via: 'me' } })
  t.strictSame(ran, ['returns {"n":1} k', 'sends 2 undefined'])
  t.match(await post(url, sessionId, 3, { event: 'nothing' }), { status: 202, body: { status: 'accepted' } })
  t.match(await post(url, sessionId, 4), { status: 202 }, 'there is no echo where there are hooks')
  refused(t, await post(url, sessionId, 5, { event: 'throws' }), 409, 'APP_NO')
  t.strictSame(ran.slice(2), ['nothing 3 undefined', 'last', 'message 4 undefined', 'last', 'throws 5 undefined', 'last'])
  t.match(await post(url, sessionId, 6, { event: 'handled' }), { body: 'handled' })
  t.equal(ran.length, 8, 'no hook runs for what a handler takes')
})

t.test('onDisconnect tells the loss of the stream, onClose the end of the session, each once', async t => {
  const { sessions, url } = await serve(t)
  const told: unknown[] = []
  sessions
    .addHook('onDisconnect', session => { told.push(['onDisconnect', session.id, session.connected, session.closed]) })
    .addHook('onClose', (session, reason) => { told.push(['onClose', session.id, session.closed, reason]) })
  const [lost, closed] = [await openStream(t, url), await openStream(t, url)]
  lost.destroy()
  await until(() => told.length > 0, 'the disconnect')
  await (await sessions.find(lost.sessionId))?.close('while away')
  await (await sessions.find(closed.sessionId))?.close('while here')
  await within(closed.ended, 'the end')
  await until(() => sessions.stats().streams === 0, 'the stream to go')
  t.strictSame(told, [
    ['onDisconnect', lost.sessionId, false, false],
    ['onClose', lost.sessionId, true, 'while away'],
    ['onClose', closed.sessionId, true, 'while here']
  ])
})

t.test('close and DELETE wait for the onClose hooks', async t => {
  const { sessions, url } = await serve(t)
  let done = 0
  sessions.addHook('onClose', async () => {
    await new Promise(setImmediate)
    done++
  })
  const { sessionId } = await openStream(t, url)
  await (await sessions.find(sessionId))?.close()
  t.equal(done, 1)
})

t.test('what a hook throws that only tells is logged without the session\'s id, and the next one runs', async t => {
  const lines: Array<Record<string, unknown>> = []
  const { sessions, url } = await serve(t, {}, { fastify: { logger: { level: 'error', stream: { write: (line: string) => { lines.push(JSON.parse(line) as Record<string, unknown>) } } } } })
  const ran: string[] = []
  sessions
    .addHook('onDisconnect', () => { throw new Error('sync') })
    .addHook('onDisconnect', () => { ran.push('onDisconnect') })
    .addHook('onClose', async () => { throw new Error('async') })
    .addHook('onClose', () => { ran.push('onClose') })
  const { sessionId, destroy } = await openStream(t, url)
  destroy()
  await until(() => ran.length === 1, 'the second onDisconnect hook')
  await (await sessions.find(sessionId))?.close()
  t.strictSame(ran, ['onDisconnect', 'onClose'])
  t.match(lines, [
    { msg: 'the onDisconnect hook failed', err: { message: 'sync' }, session: sessionId.slice(0, 6) },
    { msg: 'the onClose hook failed', err: { message: 'async' }, session: sessionId.slice(0, 6) }
  ])
  t.notMatch(JSON.stringify(lines), sessionId)
})

t.test('hooks that cannot be are refused', async t => {
  const { sessions } = await serve(t)
  const code = 'FST_SSE_HOOK_INVALID'
  for (const name of ['onclose', 'onRequest', 'toString', '__proto__', '', 7, undefined]) {
    t.throws(() => Reflect.apply(sessions.addHook, sessions, [name, () => {}]), { code }, String(name))
  }
  for (const hook of [undefined, null, 'onOpen', {}]) {
    t.throws(() => Reflect.apply(sessions.addHook, sessions, ['onOpen', hook]), { code })
  }
})
