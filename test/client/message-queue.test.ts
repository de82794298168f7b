import { getEventListeners, once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent, range } from '../support/clients.js'
import { connect as connectNode } from '../../lib/client/node.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { echo, isPost, messagesOf, openStream, respond, scriptedServer, startStream, welcome, type Responder } from './support/scripted-server.js'

testEachClient(t, 'sends queued messages in order with one POST at a time, and messages queued during a POST as one batch', async (t, connect) => {
  const released = deferred()
  const server = await scriptedServer(t, [openStream(welcome())], [
    async (response, body) => {
      await released.promise
      await echo(response, body)
    },
    echo
  ])
  const session = connect(server.url)
  const before = Promise.all([session.request('a', 0), session.request('b', 1)])
  await waitUntil(() => server.requests.some(isPost), 'a POST')
  const during = Promise.all([2, 3, 4].map(n => session.request('c', n)))
  released.resolve()
  t.strictSame(await before, [0, 1])
  t.strictSame(await during, [2, 3, 4])
  const posts = server.requests.filter(isPost)
  t.strictSame(posts.map(messagesOf), [
    [{ event: 'a', data: 0, id: '0' }, { event: 'b', data: 1, id: '1' }],
    [2, 3, 4].map(n => ({ event: 'c', data: n, id: `${n}` }))
  ])
  t.match(posts[0]?.headers, { 'x-session-id': 's', 'content-type': 'application/x-ndjson' })
})

testEachClient(t, 'limits the queue, and fails a message after its timeout or when its signal aborts', async (t, connect) => {
  const server = await scriptedServer(t, [() => {}])
  const session = connect(server.url, { maxQueued: 2, timeout: 50 })
  const controller = new AbortController()
  const first = session.request('a', 1, { timeout: Infinity, signal: controller.signal })
  const second = session.send(2)
  await t.rejects(session.send(3), { code: 'QUEUE_FULL' })
  await t.rejects(second, { code: 'TIMEOUT' })
  controller.abort('enough')
  t.equal(await first.catch((reason: unknown) => reason), 'enough')
  await t.rejects(session.request('a', 1, { signal: controller.signal }).catch(reason => { throw new Error(String(reason)) }), { message: 'enough' })
  await t.rejects(session.send(1n), TypeError)
  const third = session.send(4)
  session.close()
  await t.rejects(third, { code: 'CLOSED' })
})

testEachClient(t, 'limits the queue to 1000 messages by default, and accepts more after responses', async (t, connect) => {
  const released = deferred()
  const server = await scriptedServer(t, [async response => {
    await released.promise
    await startStream(response, welcome())
  }], Array<Responder>(20).fill(echo))
  const session = connect(server.url)
  const sent = Promise.all(range(1000).map(n => session.request('a', n)))
  await t.rejects(session.request('a', 1000), { code: 'QUEUE_FULL', message: 'Exceeds maxQueued (1000)' })
  released.resolve()
  t.strictSame(await sent, range(1000))
  t.equal(await session.request('a', 1001), 1001)
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).length), [...Array<number>(15).fill(64), 40, 1])
})

testEachClient(t, 'messages that are queued while the network is down are sent once and in order afterwards', async (t, connect) => {
  const { sessions, port } = await serve(t, { retry: 1 }, { fastify: FORCE_CLOSE })
  const handled: unknown[] = []
  sessions.handle('message', (_session, data) => { handled.push(data) })
  const proxy = await startFaultProxy(t, port)
  const session = connect(proxy.url)
  await session.send(0)
  const failed = waitForEvent(session, 'error')
  proxy.setDown(true)
  const sent = Promise.all(range(200).map(n => session.send(n + 1)))
  await failed
  proxy.setDown(false)
  await withTimeout(sent, 'the responses')
  t.strictSame(handled, range(201))
})

testEachClient(t, 'does not repeat a message that is aborted during its POST, and removes the abort listener', async (t, connect) => {
  const posted = deferred()
  const aborted = deferred()
  const server = await scriptedServer(t, [openStream(welcome())], [
    async response => {
      posted.resolve()
      await aborted.promise
      response.socket?.destroy()
    },
    echo,
    echo
  ])
  const session = connect(server.url)
  const controller = new AbortController()
  const first = session.request('a', 1, { signal: controller.signal })
  await withTimeout(posted.promise, 'the POST')
  const second = session.request('a', 2, { signal: controller.signal })
  const third = session.request('a', 3)
  controller.abort('enough')
  for (const result of [first, second]) t.equal(await result.catch((reason: unknown) => reason), 'enough')
  aborted.resolve()
  t.equal(await third, 3)
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).map(({ data }) => data)), [[1], [3]])
  // The signals of some platforms have no reason.
  await t.rejects(session.request('a', 5, { signal: AbortSignal.abort(null) }), { message: 'Aborted' })
  const other = new AbortController()
  await session.request('a', 4, { signal: other.signal })
  t.strictSame(getEventListeners(other.signal, 'abort'), [])
})

testEachClient(t, 'messages wait while there is no stream, and then keep their order', async (t, connect) => {
  const requested = deferred()
  const released = deferred()
  const server = await scriptedServer(t, [
    openStream('retry: 100\n\n', welcome()),
    async response => {
      requested.resolve()
      await released.promise
      await startStream(response, welcome(true))
    }
  ], Array<Responder>(5).fill(echo))
  const session = connect(server.url)
  t.equal(await session.request('a', 0), 0)
  server.closeStreams()
  await withTimeout(requested.promise, 'the next GET')
  const sent = Promise.all([1, 2].map(n => session.request('a', n)))
  await new Promise(resolve => { setTimeout(resolve, 20) })
  t.equal(server.requests.filter(isPost).length, 1)
  released.resolve()
  t.strictSame(await withTimeout(sent, 'the responses'), [1, 2])
})

t.test('a message whose POST never reached a server is sent to the next session', async t => {
  const server = await scriptedServer(t, [openStream('retry: 1\n\n', welcome()), openStream(welcome(false, 'next'))], [echo])
  let url = server.url
  const session = connectNode(() => url)
  t.teardown(() => { session.close() })
  await waitForEvent(session, 'open')
  url = await closedUrl()
  const result = session.request('a', 1)
  const lost = waitForEvent(session, 'error')
  await new Promise(resolve => { setTimeout(resolve, 20) })
  server.closeStreams()
  await lost
  url = server.url
  t.equal(await withTimeout(result, 'the response'), 1)
  t.match(server.requests.find(isPost)?.headers, { 'x-session-id': 'next' })
})

testEachClient(t, 'a message that times out has the last error as its cause', async (t, connect) => {
  const refused = connect(await closedUrl(), { timeout: 300 })
  t.match(await refused.send(1).catch((error: unknown) => error), { code: 'TIMEOUT', cause: Error })
  const server = await scriptedServer(t, [openStream(welcome())], Array<Responder>(1000).fill(respond(503, {}, { code: 'BUSY', message: 'Busy' })))
  t.match(await connect(server.url, { timeout: 500 }).send(1).catch((error: unknown) => error), { code: 'TIMEOUT', cause: { code: 'BUSY' } })
})

/** A URL whose port refuses connections. Port 1 is no choice: `fetch` blocks it. */
async function closedUrl (): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return `http://127.0.0.1:${port}`
}

testEachClient(t, 'sends no request for a message that was aborted while its headers were resolved', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], [respond(200, {}, [{ status: 200, body: 'handled' }])])
  const called = deferred()
  const headers = deferred()
  let isWaiting = false
  const session = connect(server.url, {
    headers: async () => {
      if (isWaiting) called.resolve()
      if (isWaiting) await headers.promise
      return {}
    }
  })
  await waitForEvent(session, 'open')
  isWaiting = true
  const controller = new AbortController()
  const aborted = session.request('a', 1, { signal: controller.signal })
  await withTimeout(called.promise, 'the call of the function')
  controller.abort()
  await t.rejects(aborted, { name: 'AbortError' })
  isWaiting = false
  headers.resolve()
  t.equal(await session.request('a', 2), 'handled')
  t.strictSame(server.requests.filter(isPost).map(({ body }) => body), ['{"event":"a","data":2,"id":"1"}'])
})
