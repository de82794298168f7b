import t from 'tap'
import { eventSources, type EventSourceLike } from '../support/event-sources.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { assertErrorResponse } from '../support/error-response.js'
import { matchList } from '../support/match-list.js'
import type { TestServer } from '../support/server.js'
import { openStream, deleteSession } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { serveRecording } from './support/recording-server.js'

/** Resolves with the session id of the welcome. */
async function waitForWelcome (source: EventSourceLike): Promise<string> {
  const welcome = deferred<unknown>()
  source.addEventListener('welcome', ({ data }) => { welcome.resolve(data) })
  const { sessionId } = JSON.parse(String(await withTimeout(welcome.promise, 'the welcome'))) as { sessionId: string }
  return sessionId
}

for (const [name, open] of eventSources) {
  for (const [way, reason, end] of [
    ['session.close', 'bye', async ({ sessions }, id) => await (await sessions.find(id))?.close('bye')],
    ['DELETE', 'deleted', ({ url }, id) => deleteSession(url, id)]
  ] as Array<[string, string, (served: TestServer, id: string) => unknown]>) {
    t.test(`${way} stops the EventSource of ${name} after exactly one more request`, async t => {
      const served = await serveRecording(t)
      const { gets, url, sessions, closed } = served
      const source = open(t, `${url}/downward`)
      const close = deferred<{ data?: unknown, lastEventId?: unknown }>()
      const messages: unknown[] = []
      source.addEventListener('message', ({ data }) => { messages.push(data) })
      source.addEventListener('close', event => { close.resolve(event) })
      const id = await waitForWelcome(source)
      await (await sessions.find(id))?.send('last words')
      await end(served, id)
      t.match(await withTimeout(close.promise, 'the close event'), { data: JSON.stringify({ reason }), lastEventId: 'closed' })
      t.strictSame(messages, ['"last words"'], 'what was sent before the end is received before it')
      await waitUntil(() => source.readyState === 2, 'the client to stop')
      t.strictSame(gets, [undefined, 'closed'])
      t.strictSame(closed, [[id, reason]])
      t.equal(await sessions.find(id), undefined)
      t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
      // An EventSource that had not stopped would have reconnected by the time another client has connected.
      await openStream(t, url)
      t.equal(gets.length, 3)
    })
  }

  t.test(`the EventSource of ${name} receives a missed close event when it reconnects, and stops`, async t => {
    const { gets, port, sessions } = await serveRecording(t)
    const proxy = await startFaultProxy(t, port)
    const source = open(t, `${proxy.url}/downward`)
    const close = deferred<unknown>()
    const messages: unknown[] = []
    source.addEventListener('message', ({ data }) => { messages.push(data) })
    source.addEventListener('close', ({ data }) => { close.resolve(data) })
    const id = await waitForWelcome(source)
    const session = await sessions.find(id)
    // The server closes the session before it can detect the disconnect.
    proxy.breakConnection('half-open')
    session?.send('unheard')
    session?.close('bye')
    t.equal(await withTimeout(close.promise, 'the close event'), '{"reason":"bye"}')
    t.strictSame(messages, ['"unheard"'])
    await waitUntil(() => source.readyState === 2, 'the client to stop')
    t.strictSame([gets.length, gets.at(-1)], [3, 'closed'])
    t.match(gets[1], new RegExp(`^${id}\\.`))
  })
}

// `lost` is also the reason of sessions that the store has lost, whose streams end without a `close` event.
for (const reason of ['done', 'lost']) {
  t.test(`a client that resumes a session closed with reason ${reason} receives the remaining events and close, then 204`, async t => {
    const { url, sessions } = await serveRecording(t)
    const stream = await openStream(t, url)
    const { sessionId } = stream
    const session = await sessions.find(sessionId)
    stream.destroy()
    await waitUntil(() => session?.connected === false, 'the disconnect')
    await session?.send('while away')
    await session?.close(reason)
    sessions.addHook('onResume', () => { t.fail('onResume ran for a closed session') })
    for (let attempt = 0; attempt < 2; attempt++) {
      const resumed = await openStream(t, url, { headers: { 'last-event-id': stream.events[0]?.id ?? '' } })
      await withTimeout(resumed.ended, 'the end')
      matchList(t, resumed.events, [{ event: 'welcome', data: { resumed: true, sessionId } }, { event: 'message', data: 'while away' }, { event: 'close', data: { reason }, id: 'closed' }])
    }
    const last = await openStream(t, url, { headers: { 'last-event-id': 'closed' }, skipWelcome: true })
    t.equal(last.status, 204)
    await withTimeout(last.ended, 'the end')
    t.equal(last.text(), '')
  })
}

t.test('DELETE closes only the given session, and fails with 404 when it is repeated', async t => {
  const { url, sessions, closed } = await serveRecording(t)
  const [one, other] = [await openStream(t, url), await openStream(t, url)]
  t.equal((await deleteSession(url, one.sessionId)).status, 204)
  await withTimeout(one.ended, 'the end')
  assertErrorResponse(t, await deleteSession(url, one.sessionId), 404, 'FST_SSE_SESSION_UNKNOWN')
  assertErrorResponse(t, await deleteSession(url, ''), 400, 'FST_SSE_SESSION_ID_MISSING')
  t.ok((await sessions.find(other.sessionId))?.connected)
  t.strictSame(closed, [[one.sessionId, 'deleted']])
})

t.test('methods of a closed session reject, and closing it again has no effect', async t => {
  const { url, sessions, closed } = await serveRecording(t)
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
  t.strictSame([session.closed, session.channels, session.data], [true, ['room'], { nick: 'a' }])
  for (const rejected of [session.send(1), session.emit('a', 1), session.stream('a', [1]), session.join('room'), session.update({})]) {
    await t.rejects(rejected, { code: 'FST_SSE_SESSION_OVER' })
  }
  await session.leave('room')
  await session.close()
  t.equal(sessions.stats().channels, 0)
})
