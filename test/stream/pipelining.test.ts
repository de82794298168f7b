import t, { type Test } from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream } from '../support/http-client.js'
import { formatGet, recordOpenedSessions, openRawClient, type OpenedSession } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil } from '../support/wait.js'

t.test('a pipelined request opens a session only when the responses before it have ended', async t => {
  const { sessions, port } = await serve(t)
  const opened = recordOpenedSessions(sessions)
  const client = openRawClient(t, port, { request: formatGet().repeat(5) })
  await client.waitFor('event: welcome')
  const [{ session }] = opened as [OpenedSession]
  await session.send('after the other requests')
  await client.waitFor('after the other requests')
  t.strictSame([sessions.size, sessions.stats().streams], [1, 1])
  client.socket.destroy()
  await waitUntil(() => sessions.stats().streams === 0, 'the end of the stream')
  t.equal(sessions.size, 1)
})

t.test('a pipelined request does not keep a session from expiring', async t => {
  const { sessions, url, port } = await serve(t, { resumeTimeout: 50 })
  const lost = await openStream(t, url)
  const client = openRawClient(t, port, { request: formatGet() + formatGet({ 'x-session-id': lost.sessionId }) })
  await client.waitFor('event: welcome')
  lost.destroy()
  await waitUntil(() => sessions.size === 1, 'the expiry')
})

/** A request of a route whose response is held back until the gate is open. */
const HELD_GET = 'GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n'

/** Serves a route whose response waits for a gate, and records the bodies of all responses to GETs of the stream that Fastify sends itself. */
async function serveGate (t: Test, options: SseSessionsOptions = {}): Promise<TestServer & { readonly openGate: () => void, readonly requested: string[], readonly bodies: unknown[] }> {
  const gate = deferred()
  const requested: string[] = []
  const bodies: unknown[] = []
  const served = await serve(t, options, {
    beforeRegister: app => {
      app.get('/held', async () => await gate.promise)
      app.addHook('onRequest', async ({ url }) => { requested.push(url) })
      app.addHook('onSend', async (_request, _reply, payload) => { if (typeof payload === 'string') bodies.push(payload) })
    }
  })
  return { ...served, openGate: gate.resolve, requested, bodies }
}

t.test('a stream that is pipelined after another response starts when that response has ended', async t => {
  const { sessions, port, openGate, requested } = await serveGate(t)
  const client = openRawClient(t, port, { request: HELD_GET + formatGet() })
  await waitUntil(() => requested.length === 2, 'both requests')
  await nextEventLoopTick()
  t.equal(sessions.size, 0)
  openGate()
  await client.waitFor('event: welcome')
  await sessions.broadcast('message', 'from behind')
  await client.waitFor('from behind')
  t.match(client.text(), /HTTP\/1.1 200 OK[^]+HTTP\/1.1 200 OK[^]+event: welcome[^]+from behind/)
})

t.test('a pipelined request opens no session if its connection is lost before', async t => {
  const { app, sessions, port, requested } = await serveGate(t)
  const client = openRawClient(t, port, { request: HELD_GET + formatGet() })
  await waitUntil(() => requested.length === 2, 'both requests')
  client.socket.destroy()
  await waitUntil(async () => await new Promise<boolean>(resolve => { app.server.getConnections((_error, count) => { resolve(count === 0) }) }), 'the end of the connection')
  await nextEventLoopTick()
  t.equal(sessions.size, 0)
})

t.test('at most eight requests for streams wait on one connection, and the others get a retry delay', async t => {
  const { sessions, port, openGate, requested, bodies } = await serveGate(t, { retry: 7 })
  const client = openRawClient(t, port, { request: HELD_GET + formatGet().repeat(10) })
  await waitUntil(() => requested.length === 11, 'all requests')
  await waitUntil(() => bodies.length === 2, 'the responses')
  t.strictSame(bodies, ['retry: 7\n\n', 'retry: 7\n\n'])
  openGate()
  await client.waitFor('event: welcome')
  t.equal(sessions.size, 1)
})
