import t, { type Test } from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { eventSources, type TestedEventSource } from '../support/eventsources.js'
import { faultProxy } from '../support/proxy.js'
import { refused } from '../support/error-response.js'
import { serve, type Served } from '../support/server.js'
import { openStream, post, remove, type Stream } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

interface Counted extends Served {
  /** The `Last-Event-ID` of each GET, in order. */
  readonly gets: Array<string | undefined>
  /** The session ids and reasons that the onClose hook was told. */
  readonly closed: Array<[id: string, reason: string]>
}

async function serveCounted (t: Test, options: SseSessionsOptions = {}): Promise<Counted> {
  const gets: Counted['gets'] = []
  const closed: Counted['closed'] = []
  const served = await serve(t, { retry: 1, ...options }, {
    before: app => app.addHook('onRequest', async ({ method, headers }) => { if (method === 'GET') gets.push(headers['last-event-id']?.toString()) })
  })
  served.sessions.addHook('onClose', ({ id }, reason) => { closed.push([id, reason]) })
  return { ...served, gets, closed }
}

/** The session that an EventSource has been given. */
async function welcomed (source: TestedEventSource): Promise<string> {
  const welcome = signal<unknown>()
  source.addEventListener('welcome', ({ data }) => { welcome.resolve(data) })
  const { sessionId } = JSON.parse(String(await within(welcome.promise, 'the welcome'))) as { sessionId: string }
  return sessionId
}

for (const [name, open] of eventSources) {
  for (const [way, reason, end] of [
    ['session.close', 'bye', async ({ sessions }, id) => await (await sessions.find(id))?.close('bye')],
    ['DELETE', 'deleted', ({ url }, id) => remove(url, id)]
  ] as Array<[string, string, (served: Served, id: string) => unknown]>) {
    t.test(`${way} stops the EventSource of ${name} for good, after exactly one more request`, async t => {
      const served = await serveCounted(t)
      const { gets, url, sessions, closed } = served
      const source = open(t, `${url}/downward`)
      const close = signal<{ data?: unknown, lastEventId?: unknown }>()
      const messages: unknown[] = []
      source.addEventListener('message', ({ data }) => { messages.push(data) })
      source.addEventListener('close', event => { close.resolve(event) })
      const id = await welcomed(source)
      await (await sessions.find(id))?.send('last words')
      await end(served, id)
      t.match(await within(close.promise, 'the close event'), { data: JSON.stringify({ reason }), lastEventId: 'closed' })
      t.strictSame(messages, ['"last words"'], 'what was sent before comes before')
      await until(() => source.readyState === 2, 'the client to stop')
      t.strictSame(gets, [undefined, 'closed'])
      t.strictSame(closed, [[id, reason]])
      t.equal(await sessions.find(id), undefined)
      t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
      // Time enough for one that had not stopped: another client has come and gone.
      await openStream(t, url)
      t.equal(gets.length, 3)
    })
  }

  t.test(`a close that the EventSource of ${name} has missed in a cut is told when it comes back, and stops it`, async t => {
    const { gets, port, sessions } = await serveCounted(t)
    const proxy = await faultProxy(t, port)
    const source = open(t, `${proxy.url}/downward`)
    const close = signal<unknown>()
    const seen: unknown[] = []
    source.addEventListener('message', ({ data }) => { seen.push(data) })
    source.addEventListener('close', ({ data }) => { close.resolve(data) })
    const id = await welcomed(source)
    const session = await sessions.find(id)
    // The server closes before it can learn of the cut.
    proxy.strike('half-open')
    session?.send('unheard')
    session?.close('bye')
    t.equal(await within(close.promise, 'the close event'), '{"reason":"bye"}')
    t.strictSame(seen, ['"unheard"'])
    await until(() => source.readyState === 2, 'the client to stop')
    t.strictSame([gets.length, gets.at(-1)], [3, 'closed'])
    t.match(gets[1], new RegExp(`^${id}\\.`))
  })
}

t.test('a session ends when its client has stayed away for resumeTimeout, and the id is forgotten', async t => {
  const { url, sessions, closed } = await serveCounted(t, { resumeTimeout: 50 })
  const ended = signal()
  sessions.addHook('onClose', () => { ended.resolve() })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  const { signal: aborted } = session ?? {}
  stream.destroy()
  await within(ended.promise, 'the expiry')
  t.strictSame(closed, [[stream.sessionId, 'expired']])
  t.equal(aborted?.aborted, true)
  t.equal(sessions.size, 0)
  refused(t, await post(url, stream.sessionId, { text: 'hi' }), 404, 'FST_SSE_SESSION_UNKNOWN')
  const next = await openStream(t, url, { headers: { 'x-session-id': stream.sessionId } })
  t.match(next.events[0]?.data, { resumed: false, previous: 'unknown' })
  t.not(next.sessionId, stream.sessionId)
})

t.test('a session with a stream, or that has come back in time, does not expire', async t => {
  // Long enough for a client to be back, however slow the machine is.
  const { url, sessions, closed } = await serveCounted(t, { resumeTimeout: 1000 })
  const leave = async ({ sessionId, destroy }: Stream): Promise<void> => {
    destroy()
    await until(async () => (await sessions.find(sessionId))?.connected !== true, 'the disconnect')
  }
  const [stays, leaves] = [await openStream(t, url), await openStream(t, url)]
  await leave(leaves)
  const back = await openStream(t, url, { headers: { 'x-session-id': leaves.sessionId } })
  t.match(back.events[0]?.data, { resumed: true, sessionId: leaves.sessionId })
  for (let round = 0; round < 3; round++) {
    // That one which left later has expired tells that the time has passed.
    const gone = await openStream(t, url)
    await leave(gone)
    await until(() => closed.length > round, 'the expiry')
    t.strictSame(closed[round], [gone.sessionId, 'expired'])
  }
  for (const { sessionId } of [stays, back]) t.equal((await sessions.find(sessionId))?.connected, true)
})

t.test('a client that does not take the end of its session is not waited for longer than resumeTimeout', async t => {
  const { url, sessions } = await serveCounted(t, { resumeTimeout: 100, log: { bytes: 64 * 1024 * 1024 } })
  const stalled = await openStream(t, url)
  stalled.body.pause()
  const session = await sessions.find(stalled.sessionId)
  for (let n = 0; n < 400; n++) session?.send('x'.repeat(64 * 1024))
  await session?.close()
  t.equal(sessions.stats().streams, 1)
  await until(() => sessions.stats().streams === 0, 'the stream to be destroyed')
})

t.test('a client that comes back to an ended session hears the rest and the close, then 204', async t => {
  const { url, sessions } = await serveCounted(t)
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const session = await sessions.find(sessionId)
  stream.destroy()
  await until(() => session?.connected === false, 'the disconnect')
  await session?.send('while away')
  await session?.close('done')
  sessions.addHook('onResume', () => { t.fail('there is nothing to resume') })
  for (let again = 0; again < 2; again++) {
    const back = await openStream(t, url, { headers: { 'last-event-id': stream.events[0]?.id ?? '' } })
    await within(back.ended, 'the end')
    t.match(back.events, [{ event: 'welcome', data: { resumed: true, sessionId } }, { event: 'message', data: 'while away' }, { event: 'close', data: { reason: 'done' }, id: 'closed' }])
  }
  const last = await openStream(t, url, { headers: { 'last-event-id': 'closed' }, raw: true })
  t.equal(last.status, 204)
  await within(last.ended, 'the end')
  t.equal(last.raw(), '')
})

t.test('DELETE ends its own session alone, once', async t => {
  const { url, sessions, closed } = await serveCounted(t)
  const [one, other] = [await openStream(t, url), await openStream(t, url)]
  t.equal((await remove(url, one.sessionId)).status, 204)
  await within(one.ended, 'the end')
  refused(t, await remove(url, one.sessionId), 404, 'FST_SSE_SESSION_UNKNOWN')
  refused(t, await remove(url, ''), 400, 'FST_SSE_SESSION_ID_MISSING')
  t.ok((await sessions.find(other.sessionId))?.connected)
  t.strictSame(closed, [[one.sessionId, 'deleted']])
})

t.test('what is asked of an ended session rejects, and closing it again is harmless', async t => {
  const { url, sessions, closed } = await serveCounted(t)
  const { sessionId } = await openStream(t, url)
  const session = await sessions.find(sessionId)
  if (session === undefined) throw new Error('no session')
  await session.join('room')
  await session.update({ nick: 'a' })
  t.equal(session.signal.aborted, false)
  await Promise.all([session.close('first'), session.close('second')])
  t.strictSame(closed, [[sessionId, 'first']])
  t.equal(session.signal.aborted, true)
  t.match(session.signal.reason, { code: 'FST_SSE_SESSION_OVER' })
  t.strictSame([session.closed, session.channels, session.data], [true, [], { nick: 'a' }])
  for (const rejected of [session.send(1), session.emit('a', 1), session.stream('a', [1]), session.join('room'), session.update({})]) {
    await t.rejects(rejected, { code: 'FST_SSE_SESSION_OVER' })
  }
  await session.leave('room')
  await session.close()
  t.equal(sessions.stats().channels, 0)
})
