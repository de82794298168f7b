import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent, recordEvents } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve } from '../support/server.js'
import { deferred, withTimeout } from '../support/wait.js'
import { CLOSE_EVENT, endedStream, scriptedServer, startStream, welcome } from './support/scripted-server.js'

testEachClient(t, 'resumes after a lost stream, with the events that were sent in between', async (t, connect) => {
  const { sessions, port } = await serve(t, { retry: 1 }, { fastify: FORCE_CLOSE })
  const proxy = await startFaultProxy(t, port)
  const session = connect(proxy.url)
  const events = recordEvents(session)
  session.on('message', data => { events.push(['message', data]) })
  await waitForEvent(session, 'open')
  sessions.addHook('onDisconnect', session => session.send('in between'))
  const message = waitForEvent(session, 'message')
  proxy.breakConnection('cut')
  await withTimeout(message, 'the message')
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume', 'message'])
})

testEachClient(t, 'emits gap if events were dropped from the log, and reset if the server lost the session', async (t, connect) => {
  const { sessions, port } = await serve(t, { retry: 50, log: { entries: 2 } }, { fastify: FORCE_CLOSE })
  const proxy = await startFaultProxy(t, port)
  const session = connect(proxy.url)
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  const first = session.sessionId ?? ''
  sessions.addHook('onDisconnect', async session => { for (let n = 0; n < 5; n++) await session.send(n) })
  const gap = waitForEvent(session, 'gap')
  proxy.breakConnection('cut')
  t.match(await withTimeout(gap, 'the gap'), { reason: 'count' })
  const reset = waitForEvent(session, 'reset')
  const lost = await sessions.find(first)
  if (lost !== undefined) await sessions.discard(lost, 'lost')
  proxy.breakConnection('cut')
  t.match(await withTimeout(reset, 'the reset'), { resumed: false, previous: 'unknown' })
  t.not(session.sessionId, first)
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume', 'gap', 'disconnect', 'reset'])
})

testEachClient(t, 'the state follows the stream', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome()), endedStream(welcome(true), CLOSE_EVENT)])
  const session = connect(server.url)
  const states: string[] = [session.state]
  for (const event of ['open', 'disconnect', 'resume', 'close'] as const) session.on(event, () => { states.push(session.state) })
  await waitForEvent(session, 'close')
  t.strictSame(states, ['connecting', 'open', 'disconnected', 'open', 'closed'])
})

testEachClient(t, 'resumes after the last complete event when the stream is reset in the middle of an event', async (t, connect) => {
  const received = deferred()
  const server = await scriptedServer(t, [
    async response => {
      await startStream(response, welcome(), 'id: s.1\ndata: 1\n\n', 'id: s.2\ndata: ')
      await received.promise
      response.socket?.resetAndDestroy()
    },
    endedStream(welcome(true, 's', {}, 1), 'id: s.2\ndata: 2\n\n', CLOSE_EVENT)
  ])
  const session = connect(server.url)
  const data: unknown[] = []
  for await (const event of session) {
    data.push(event.data)
    received.resolve()
  }
  t.strictSame(data, [1, 2])
  t.equal(server.requests[1]?.headers['last-event-id'], 's.1')
})

testEachClient(t, 'does not resume after an id with NUL or the id of an incomplete event', async (t, connect) => {
  const server = await scriptedServer(t, [
    endedStream(welcome(), 'id: s.1\ndata: 1\n\n', 'id: s.\0\ndata: 2\n\n', 'id: s.3\ndata: 3\n'),
    endedStream(welcome(true, 's', {}, 1), 'id: s.3\ndata: 3\n\n')
  ])
  const session = connect(server.url)
  const data: unknown[] = []
  for await (const event of session) data.push(event.data)
  t.strictSame(data, [1, 2, 3])
  t.strictSame(server.requests.map(({ headers }) => headers['last-event-id']), [undefined, 's.1', 's.3'])
})
