import t from 'tap'
import { eventSources, type TestedEventSource } from '../support/eventsources.js'
import { faultProxy } from '../support/proxy.js'
import { refused } from '../support/error-response.js'
import type { Served } from '../support/server.js'
import { openStream, remove } from '../support/stream.js'
import { serveRecording } from './support/recording-server.js'
import { signal, until, within } from '../support/wait.js'

/** Resolves with the session id of the welcome. */
async function waitForWelcome (source: TestedEventSource): Promise<string> {
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
    t.test(`${way} stops the EventSource of ${name} after exactly one more request`, async t => {
      const served = await serveRecording(t)
      const { gets, url, sessions, closed } = served
      const source = open(t, `${url}/downward`)
      const close = signal<{ data?: unknown, lastEventId?: unknown }>()
      const messages: unknown[] = []
      source.addEventListener('message', ({ data }) => { messages.push(data) })
      source.addEventListener('close', event => { close.resolve(event) })
      const id = await waitForWelcome(source)
      await (await sessions.find(id))?.send('last words')
      await end(served, id)
      t.match(await within(close.promise, 'the close event'), { data: JSON.stringify({ reason }), lastEventId: 'closed' })
      t.strictSame(messages, ['"last words"'], 'what was sent before the end is received before it')
      await until(() => source.readyState === 2, 'the client to stop')
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
    const proxy = await faultProxy(t, port)
    const source = open(t, `${proxy.url}/downward`)
    const close = signal<unknown>()
    const messages: unknown[] = []
    source.addEventListener('message', ({ data }) => { messages.push(data) })
    source.addEventListener('close', ({ data }) => { close.resolve(data) })
    const id = await waitForWelcome(source)
    const session = await sessions.find(id)
    // The server closes the session before it can detect the disconnect.
    proxy.strike('half-open')
    session?.send('unheard')
    session?.close('bye')
    t.equal(await within(close.promise, 'the close event'), '{"reason":"bye"}')
    t.strictSame(messages, ['"unheard"'])
    await until(() => source.readyState === 2, 'the client to stop')
    t.strictSame([gets.length, gets.at(-1)], [3, 'closed'])
    t.match(gets[1], new RegExp(`^${id}\\.`))
  })
}

t.test('a client that resumes an ended session receives the remaining events and close, then 204', async t => {
  const { url, sessions } = await serveRecording(t)
  const stream = await openStream(t, url)
  const { sessionId } = stream
  const session = await sessions.find(sessionId)
  stream.destroy()
  await until(() => session?.connected === false, 'the disconnect')
  await session?.send('while away')
  await session?.close('done')
  sessions.addHook('onResume', () => { t.fail('onResume ran for an ended session') })
  for (let attempt = 0; attempt < 2; attempt++) {
    const resumed = await openStream(t, url, { headers: { 'last-event-id': stream.events[0]?.id ?? '' } })
    await within(resumed.ended, 'the end')
    t.match(resumed.events, [{ event: 'welcome', data: { resumed: true, sessionId } }, { event: 'message', data: 'while away' }, { event: 'close', data: { reason: 'done' }, id: 'closed' }])
  }
  const last = await openStream(t, url, { headers: { 'last-event-id': 'closed' }, raw: true })
  t.equal(last.status, 204)
  await within(last.ended, 'the end')
  t.equal(last.raw(), '')
})

t.test('DELETE ends only the given session, and answers 404 when it is repeated', async t => {
  const { url, sessions, closed } = await serveRecording(t)
  const [one, other] = [await openStream(t, url), await openStream(t, url)]
  t.equal((await remove(url, one.sessionId)).status, 204)
  await within(one.ended, 'the end')
  refused(t, await remove(url, one.sessionId), 404, 'FST_SSE_SESSION_UNKNOWN')
  refused(t, await remove(url, ''), 400, 'FST_SSE_SESSION_ID_MISSING')
  t.ok((await sessions.find(other.sessionId))?.connected)
  t.strictSame(closed, [[one.sessionId, 'deleted']])
})

t.test('methods of an ended session reject, and closing it again has no effect', async t => {
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
  t.strictSame([session.closed, session.channels, session.data], [true, [], { nick: 'a' }])
  for (const rejected of [session.send(1), session.emit('a', 1), session.stream('a', [1]), session.join('room'), session.update({})]) {
    await t.rejects(rejected, { code: 'FST_SSE_SESSION_OVER' })
  }
  await session.leave('room')
  await session.close()
  t.equal(sessions.stats().channels, 0)
})
