import t from 'tap'
import { testEachClient, FORCE_CLOSE, recordEvents, waitForEvent, range } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { CLOSE_EVENT, endedStream, openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'

testEachClient(t, 'a message that fails becomes an error event if nobody handles its promise', async (t, connect) => {
  const { url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  await waitForEvent(session, 'open')
  const failed = waitForEvent(session, 'error')
  session.emit('unknown')
  t.match(await failed, { code: 'FST_SSE_EVENT_UNKNOWN', status: 404 })
  const invalid = waitForEvent(session, 'error')
  session.send(1n)
  t.match(await invalid, TypeError)
})

testEachClient(t, 'a message that fails is no error event if its promise is handled, aborted, or ends with the session', async (t, connect) => {
  const { url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  await waitForEvent(session, 'open')
  const events = recordEvents(session)
  await t.rejects(session.emit('unknown'), { code: 'FST_SSE_EVENT_UNKNOWN' })
  t.match(await Promise.allSettled(range(3).map(n => session.request('unknown', n))), Array(3).fill({ status: 'rejected' }))
  t.equal(await session.emit('unknown').then(() => 'resolved', ({ code }) => code), 'FST_SSE_EVENT_UNKNOWN')
  const late = session.send(1n)
  await Promise.resolve()
  await late.catch(() => {})
  session.request('a', 1, { signal: AbortSignal.abort() })
  session.emit('unknown')
  session.close()
  session.emit('late')
  // A timer that is set later runs later.
  await new Promise(resolve => { setTimeout(resolve, 5) })
  t.strictSame(events, [['close', { reason: 'closed' }]])
})

testEachClient(t, 'errors are printed if there is no listener for them', async (t, connect) => {
  const printed: unknown[] = []
  t.intercept(console, 'error', { value: (error: unknown) => { printed.push(error) } })
  const server = await scriptedServer(t, [endedStream(welcome(), 'data: {nonsense\n\n', CLOSE_EVENT), respond(403), respond(403), openStream(welcome())])
  await waitForEvent(connect(server.url), 'close')
  matchList(t, printed, [SyntaxError])
  await waitForEvent(connect(server.url), 'close')
  t.match(printed[1], { code: 'HTTP_403' })
  await t.rejects(withTimeout((async () => { for await (const event of connect(server.url)) t.fail(event.event) })(), 'the error'))
  connect(server.url).send(1n)
  await waitUntil(() => printed.length === 3, 'the last error')
  t.match(printed[2], TypeError)
})
