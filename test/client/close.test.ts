import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent, recordEvents } from '../support/clients.js'
import { serve } from '../support/server.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'
import { endedStream, openStream, scriptedServer, startStream, welcome } from './support/scripted-server.js'

testEachClient(t, 'closes the session on both sides, whether the client or the server closes it', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  const session = connect(url)
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  await session.close()
  await session.close()
  t.strictSame(reasons, ['deleted'])
  t.equal(session.signal.aborted, true)
  await t.rejects(session.send(1), { code: 'CLOSED' })

  const other = connect(url)
  await waitForEvent(other, 'open')
  const closed = waitForEvent(other, 'close')
  await (await sessions.find(other.sessionId ?? ''))?.close('bye')
  t.strictSame(await closed, { reason: 'bye' })
  t.equal(other.state, 'closed')
  t.strictSame(events.map(([name]) => name), ['open', 'close'])
})

testEachClient(t, 'a listener that closes the session receives no further event of the same chunk', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(`${welcome()}data: 1\n\ndata: 2\n\n`)])
  const session = connect(server.url)
  const received: unknown[] = []
  session.on('message', data => {
    received.push(data)
    session.close()
  })
  await waitForEvent(session, 'close')
  await waitUntil(() => server.requests.length === 2, 'the DELETE')
  t.strictSame(received, [1])
  t.match(server.requests[1], { method: 'DELETE', headers: { 'x-session-id': 's' } })
})

testEachClient(t, 'close() waits at most five seconds for the response', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, () => streamResponse(welcome()), ['DELETE'])
  const session = connect('', { fetch })
  await waitForEvent(session, 'open')
  let isClosed = false
  const closed = session.close().then(() => { isClosed = true })
  await advance(4999)
  t.equal(requestCount('DELETE'), 1)
  t.equal(isClosed, false)
  await advance(1)
  await withTimeout(closed, 'close()')
})

testEachClient(t, 'each call of close() waits for the response', async (t, connect) => {
  const deleted = deferred()
  const responded = deferred()
  const session = connect('', {
    fetch: async (_url, { method }) => {
      if (method !== 'DELETE') return streamResponse(welcome())
      deleted.resolve()
      await responded.promise
      return new Response()
    }
  })
  await waitForEvent(session, 'open')
  const order: string[] = []
  session.on('close', () => { session.close().then(() => { order.push('in the listener') }) })
  const closed = [1, 2].map(n => session.close().then(() => { order.push(`call ${n}`) }))
  await withTimeout(deleted.promise, 'the DELETE')
  await nextEventLoopTick()
  order.push('response')
  responded.resolve()
  await withTimeout(Promise.all(closed), 'close()')
  t.equal(order[0], 'response')
  t.equal(order.length, 4)
})

testEachClient(t, 'close() waits at most five seconds for the welcome, also while other data arrives', async (t, connect) => {
  let write = (_text: string): void => {}
  const { fetch, requestCount, advance } = fakeNetwork(t, () => streamResponse('', writeMore => { write = writeMore }))
  const session = connect('', { fetch })
  await waitUntil(() => requestCount('GET') === 1, 'the GET')
  await advance(0)
  let isClosed = false
  const closed = session.close().then(() => { isClosed = true })
  await advance(4999)
  write(': heartbeat\n\n')
  await advance(0)
  t.equal(isClosed, false)
  await advance(1)
  await withTimeout(closed, 'close()')
})

testEachClient(t, 'close() before the welcome leaves no session on the server', async (t, connect) => {
  const opened = deferred()
  const released = deferred()
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.addHook('onOpen', async () => {
    opened.resolve()
    await released.promise
  })
  const session = connect(url)
  const events = recordEvents(session)
  await withTimeout(opened.promise, 'the GET')
  const closed = session.close()
  t.equal(session.state, 'closed')
  released.resolve()
  await withTimeout(closed, 'close()')
  t.equal(sessions.size, 0)
  t.strictSame(events, [['close', { reason: 'closed' }]])
})

testEachClient(t, 'close() while the client reconnects closes the session that the server opens instead', async (t, connect) => {
  const requested = deferred()
  const released = deferred()
  const server = await scriptedServer(t, [
    endedStream(welcome()),
    async response => {
      requested.resolve()
      await released.promise
      // Without the header X-Session-ID, which not every server lets other origins read.
      await startStream(response, welcome(false, 'other'), 'data: 1\n\n')
    }
  ])
  const session = connect(server.url)
  const events = recordEvents(session)
  session.on('message', data => { events.push(['message', data]) })
  await withTimeout(requested.promise, 'the second GET')
  const closed = session.close()
  await waitUntil(() => server.requests.length === 3, 'the DELETE')
  released.resolve()
  await withTimeout(closed, 'close()')
  t.strictSame(server.requests.slice(2).map(({ method, headers }) => [method, headers['x-session-id']]), [['DELETE', 's'], ['DELETE', 'other']])
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'close'])
})

testEachClient(t, 'close() closes the session that a late response opens, while the DELETE of the earlier session has no response', async (t, connect) => {
  const requested = deferred()
  const released = deferred()
  const responded = deferred()
  const deletions: unknown[] = []
  let gets = 0
  const session = connect('', {
    fetch: async (_url, { method, headers }) => {
      if (method === 'DELETE') {
        deletions.push(new Headers(headers).get('x-session-id'))
        released.resolve()
        if (deletions.length === 1) await responded.promise
        return new Response()
      }
      if (++gets === 1) return new Response(`retry: 1\n\n${welcome()}`, { headers: { 'content-type': 'text/event-stream' } })
      requested.resolve()
      await released.promise
      return streamResponse(welcome(false, 'other'))
    }
  })
  await withTimeout(requested.promise, 'the second GET')
  const closed = session.close()
  await waitUntil(() => deletions.length === 2, 'the second DELETE', 4000)
  t.strictSame(deletions, ['s', 'other'])
  responded.resolve()
  await withTimeout(closed, 'close()')
})

testEachClient(t, 'close() while the request for a stream fails resolves without a DELETE', async (t, connect) => {
  const requested = deferred()
  const released = deferred()
  const server = await scriptedServer(t, [async response => {
    requested.resolve()
    await released.promise
    response.writeHead(401).end()
  }])
  const session = connect(server.url)
  const events = recordEvents(session)
  await withTimeout(requested.promise, 'the GET')
  const closed = session.close()
  released.resolve()
  await withTimeout(closed, 'close()')
  t.equal(server.requests.length, 1)
  t.strictSame(events.map(([name]) => name), ['close'])
})

testEachClient(t, 'aborts the current POST when the session is closed', async (t, connect) => {
  const posted = deferred()
  const disconnected = deferred()
  const server = await scriptedServer(t, [openStream(welcome())], [response => {
    response.on('close', disconnected.resolve)
    posted.resolve()
  }])
  const session = connect(server.url)
  const result = session.request('a', 1)
  await withTimeout(posted.promise, 'the POST')
  session.close()
  await t.rejects(result, { code: 'CLOSED' })
  // Shorter than the request timeout of 15 seconds.
  await withTimeout(disconnected.promise, 'the end of its connection')
})

testEachClient(t, 'a session whose stream was replaced by another client is closed without a DELETE', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome(), 'event: replaced\nid: closed\ndata: {}\n\n')])
  const session = connect(server.url)
  t.strictSame(await waitForEvent(session, 'close'), { reason: 'replaced' })
  await session.close()
  t.equal(server.requests.length, 1)
})

testEachClient(t, 'a closed session ignores data that has just arrived, even if it is too large, and cancels a body that ignores the signal', async (t, connect) => {
  let write = (_text: string): void => {}
  const canceled = deferred()
  const body = new ReadableStream({
    start: controller => { write = text => { controller.enqueue(new TextEncoder().encode(text)) } },
    cancel: () => { canceled.resolve() }
  })
  const session = connect('', {
    maxEventSize: 200,
    fetch: async (_url, { method }) => method === 'DELETE' ? new Response() : new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  })
  const events = recordEvents(session)
  const opened = waitForEvent(session, 'open')
  write(welcome())
  await opened
  write(`data: ${'x'.repeat(10_000)}`)
  await session.close()
  await withTimeout(canceled.promise, 'the end of the body')
  t.strictSame(events.map(([name]) => name), ['open', 'close'])
})

testEachClient(t, 'close() cancels the body of a response that arrives too late', async (t, connect) => {
  const { requestCount, advance, fetch } = fakeNetwork(t, () => undefined)
  const late = deferred()
  const canceled = deferred()
  const session = connect('', {
    fetch: async (url, init) => {
      fetch(url, init).catch(() => {})
      await late.promise
      return new Response(new ReadableStream({ cancel: () => { canceled.resolve() } }), { headers: { 'content-type': 'text/event-stream' } })
    }
  })
  await waitUntil(() => requestCount('GET') === 1, 'the GET')
  await advance(0)
  const closed = session.close()
  await advance(5000)
  await withTimeout(closed, 'close()')
  late.resolve()
  await withTimeout(canceled.promise, 'the end of the body')
})

testEachClient(t, 'close() resolves while the body of an error response never ends and ignores the signal', async (t, connect) => {
  const { requestCount, advance, fetch } = fakeNetwork(t, () => undefined)
  const session = connect('', {
    fetch: async (url, init) => {
      fetch(url, init).catch(() => {})
      return new Response(new ReadableStream(), { status: 503 })
    }
  })
  await waitUntil(() => requestCount('GET') === 1, 'the GET')
  await advance(0)
  const closed = session.close()
  await advance(5000)
  await withTimeout(closed, 'close()', 4000)
})
