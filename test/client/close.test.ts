import t from 'tap'
import { eachClient, FORCE_CLOSE, next, record } from '../support/clients.js'
import { serve } from '../support/server.js'
import { signal, until, within } from '../support/wait.js'
import { openStream, scriptedServer, welcome } from './support/scripted-server.js'

eachClient(t, 'closes the session on both sides, whether the client or the server closes it', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  const session = connect(url)
  const events = record(session)
  await next(session, 'open')
  await session.close()
  await session.close()
  t.strictSame(reasons, ['deleted'])
  t.equal(session.signal.aborted, true)
  await t.rejects(session.send(1), { code: 'CLOSED' })

  const other = connect(url)
  await next(other, 'open')
  const closed = next(other, 'close')
  await (await sessions.find(other.sessionId ?? ''))?.close('bye')
  t.strictSame(await closed, { reason: 'bye' })
  t.equal(other.state, 'closed')
  t.strictSame(events.map(([name]) => name), ['open', 'close'])
})

eachClient(t, 'a listener that closes the session receives no further event of the same chunk', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(`${welcome()}data: 1\n\ndata: 2\n\n`)])
  const session = connect(server.url)
  const received: unknown[] = []
  session.on('message', data => {
    received.push(data)
    session.close()
  })
  await next(session, 'close')
  await until(() => server.requests.length === 2, 'the DELETE')
  t.strictSame(received, [1])
  t.match(server.requests[1], { method: 'DELETE', headers: { 'x-session-id': 's' } })
})

eachClient(t, 'close() waits at most five seconds for the response', async (t, connect) => {
  const timeouts: number[] = []
  const controller = new AbortController()
  t.intercept(AbortSignal, 'timeout', {
    value: (ms: number) => {
      timeouts.push(ms)
      return controller.signal
    }
  })
  const server = await scriptedServer(t, [openStream(welcome()), () => { controller.abort() }])
  const session = connect(server.url)
  await next(session, 'open')
  await within(session.close(), 'close()')
  t.strictSame(timeouts, [5000])
  t.equal(server.requests[1]?.method, 'DELETE')
})

eachClient(t, 'aborts the current POST when the session is closed', async (t, connect) => {
  const posted = signal()
  const disconnected = signal()
  const server = await scriptedServer(t, [openStream(welcome())], [response => {
    response.on('close', disconnected.resolve)
    posted.resolve()
  }])
  const session = connect(server.url)
  const result = session.request('a', 1)
  await within(posted.promise, 'the POST')
  session.close()
  await t.rejects(result, { code: 'CLOSED' })
  // Shorter than the request timeout of 15 seconds.
  await within(disconnected.promise, 'the end of its connection')
})

eachClient(t, 'a session whose stream was replaced by another client is closed without a DELETE', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome(), 'event: replaced\nid: closed\ndata: {}\n\n')])
  const session = connect(server.url)
  t.strictSame(await next(session, 'close'), { reason: 'replaced' })
  await session.close()
  t.equal(server.requests.length, 1)
})

eachClient(t, 'a closed session ignores data that still arrives, even if it is too large', async (t, connect) => {
  let write = (_text: string): void => {}
  const body = new ReadableStream({
    start: controller => { write = text => { controller.enqueue(new TextEncoder().encode(text)) } }
  })
  const session = connect('', {
    maxEventSize: 200,
    fetch: async (_url, { method }) => method === 'DELETE' ? new Response() : new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  })
  const events = record(session)
  const opened = next(session, 'open')
  write(welcome())
  await opened
  await session.close()
  write(`data: ${'x'.repeat(10_000)}`)
  await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(events.map(([name]) => name), ['open', 'close'])
})
