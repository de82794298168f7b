import t from 'tap'
import { testEachClient, waitForEvent, recordEvents } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { openStream, scriptedServer, welcome } from './support/scripted-server.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'

testEachClient(t, 'replaces a stream after 2.5 heartbeat intervals without data', async (t, connect) => {
  const server = await scriptedServer(t, [
    openStream(welcome(false, 's', { heartbeatInterval: 40 }), ': heartbeat\n'),
    openStream(welcome(true))
  ])
  const session = connect(server.url)
  await waitForEvent(session, 'open')
  const lost = waitForEvent(session, 'disconnect')
  const resumed = waitForEvent(session, 'resume')
  t.match(await withTimeout(lost, 'the disconnect event'), { error: { code: 'SILENT' } })
  await withTimeout(resumed, 'the new stream')
  const [first, second] = server.requests.map(({ receivedAt }) => receivedAt) as [number, number]
  t.ok(second - first >= 99, `${second - first} ms`)
})

testEachClient(t, 'reconnects at once after an attempt without data for 37.5 seconds, and after a delay if an attempt fails', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => [undefined, new Response('busy', { status: 500 }), streamResponse(welcome())][attempt - 1])
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await waitUntil(() => requestCount('GET') === 1, 'the GET')
  await advance(37_499)
  t.strictSame(events, [])
  await advance(1)
  matchList(t, events, [['error', { code: 'SILENT' }], ['error', { code: 'HTTP_500' }]])
  await advance(999)
  t.equal(requestCount('GET'), 2)
  await advance(12_000)
  matchList(t, events.slice(2), [['open', {}]])
})

testEachClient(t, 'a heartbeat restarts the idle timeout, which replaces the stream at once', async (t, connect) => {
  let sendHeartbeat = (): void => {}
  const { fetch, advance } = fakeNetwork(t, (_method, attempt) => streamResponse(welcome(attempt > 1, 's', { heartbeatInterval: 10_000 }), write => {
    sendHeartbeat = () => { write(': heartbeat\n') }
  }))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  await advance(24_999)
  sendHeartbeat()
  await advance(0)
  await advance(24_999)
  t.strictSame(events.map(([name]) => name), ['open'])
  await advance(1)
  matchList(t, events, [['open', {}], ['disconnect', { error: { code: 'SILENT' } }], ['resume', {}]])
})

testEachClient(t, 'replaces a silent response whose body ignores the signal, whether it is a stream or not', async (t, connect) => {
  const { advance } = fakeNetwork(t, () => undefined)
  const responses = [streamResponse(welcome(false, 's', { heartbeatInterval: 10_000 })), new Response(new ReadableStream(), { headers: { 'content-type': 'text/html' } }), streamResponse(welcome(true))]
  const session = connect('', { fetch: async () => responses.shift() ?? new Response() })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  await advance(25_000)
  matchList(t, events, [['open', {}], ['disconnect', { error: { code: 'SILENT' } }]])
  await advance(37_500)
  matchList(t, events.slice(2), [['error', { code: 'SILENT' }], ['resume', {}]])
})

testEachClient(t, 'a stream without heartbeats may be idle forever', async (t, connect) => {
  const { fetch, advance } = fakeNetwork(t, () => streamResponse(welcome()))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  await advance(1_000_000)
  t.strictSame(events.map(([name]) => name), ['open'])
})

testEachClient(t, 'a stream without heartbeats does not change the idle timeout of the next attempt', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => attempt === 1 ? new Response(welcome(), { headers: { 'content-type': 'text/event-stream' } }) : undefined)
  const session = connect('', { fetch })
  await waitForEvent(session, 'disconnect')
  await advance(2000)
  t.equal(requestCount('GET'), 2)
  await advance(37_500)
  t.equal(requestCount('GET'), 3)
})

testEachClient(t, 'the idle timeout does not run during the delay before the next attempt', async (t, connect) => {
  const text = `retry: 100000\n\n${welcome(false, 's', { heartbeatInterval: 1000 })}`
  const { fetch, requestCount, advance } = fakeNetwork(t, () => new Response(text, { headers: { 'content-type': 'text/event-stream' } }))
  const session = connect('', { fetch })
  await waitForEvent(session, 'disconnect')
  await advance(99_999)
  t.equal(requestCount('GET'), 1)
  await advance(100_001)
  t.equal(requestCount('GET'), 2)
})

testEachClient(t, 'headers that never resolve time out like a request without a response, for GET, POST and close()', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, method => method === 'POST' ? Response.json([{ status: 200, body: 'yes' }]) : streamResponse(welcome()))
  let calls = 0
  const session = connect('', { fetch, headers: () => ++calls % 2 === 0 ? {} : new Promise(() => {}) })
  const events = recordEvents(session)
  const result = session.request('a', 1)
  await advance(0)
  t.equal(calls, 1)
  await advance(37_500)
  matchList(t, events, [['error', { code: 'SILENT' }], ['open', {}]])
  t.equal(calls, 3)
  await advance(15_000)
  t.equal(await withTimeout(result, 'the response'), 'yes')
  const closed = session.close()
  await advance(0)
  t.equal(calls, 5)
  await advance(5000)
  await withTimeout(closed, 'close()')
  t.equal(requestCount('DELETE'), 0)
})
