import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent, range } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'
import { endedStream, isPost, messagesOf, openStream, respond, scriptedServer, startStream, welcome, writeChunks, type Responder } from './support/scripted-server.js'

/** The response to a message whose handler streams. */
const streaming = respond(200, {}, [{ status: 202, body: { status: 'streaming', message: 's0' } }])

const part = (properties: object): string => `event: part\ndata: ${JSON.stringify({ message: 's0', ...properties })}\n\n`

testEachClient(t, 'the loop receives every value, and sends messages meanwhile', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const enough = deferred()
  sessions.handle('ask', async function * (_session, data) {
    yield data
    await enough.promise
    yield 'end'
  })
  sessions.handle('enough', () => { enough.resolve() })
  const session = connect(url)
  const values: unknown[] = []
  for await (const value of session.subscribe('ask', 'why')) {
    values.push(value)
    await session.emit('enough')
  }
  t.strictSame(values, ['why', 'end'])
})

testEachClient(t, 'lost connections lose and repeat no value', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: [10, 20] }, { fastify: FORCE_CLOSE })
  const proxy = await startFaultProxy(t, Number(new URL(url).port))
  const reached = deferred()
  sessions.handle('count', async function * () {
    for (const n of range(50)) {
      if (n === 25) await reached.promise
      yield n
    }
  })
  const session = connect(`http://127.0.0.1:${proxy.port}`)
  const values: unknown[] = []
  for await (const value of session.subscribe('count')) {
    values.push(value)
    if (value !== 20) continue
    const resumed = waitForEvent(session, 'resume')
    proxy.setDown(true)
    proxy.setDown(false)
    await withTimeout(resumed, 'the new stream')
    reached.resolve()
  }
  t.strictSame(values, range(50))
})

testEachClient(t, 'the end of the loop, the signal and the close of the session abort the signal of the handler', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  let closed = deferred()
  sessions.handle('message', () => {})
  sessions.handle('endless', async function * (_session, _data, { signal }) {
    try {
      yield 1
      await new Promise(resolve => { signal.addEventListener('abort', resolve) })
    } finally {
      closed.resolve()
    }
  })
  const session = connect(url)
  for await (const value of session.subscribe('endless')) if (value === 1) break
  await withTimeout(closed.promise, 'the finally block after break')
  closed = deferred()
  const controller = new AbortController()
  await t.rejects(async () => {
    for await (const value of session.subscribe('endless', null, { signal: controller.signal })) if (value === 1) controller.abort(new Error('enough'))
  }, { message: 'enough' })
  await withTimeout(closed.promise, 'the finally block after the abort')
  await t.rejects(session.subscribe('endless', null, { signal: controller.signal }).next(), { message: 'enough' })
  closed = deferred()
  await t.rejects(async () => {
    for await (const value of session.subscribe('endless')) {
      if (value !== 1) continue
      // Its response arrives after the one to the message that has started the handler.
      await session.send('')
      session.close()
    }
  }, { code: 'CLOSED' })
  await withTimeout(closed.promise, 'the finally block after the close')
  await t.rejects(session.subscribe('endless').next(), { code: 'CLOSED' })
})

testEachClient(t, 'an error before the first value, and one of the generator, throw with the code', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.handle('fail', async function * () {
    yield 1
    throw Object.assign(new Error('no'), { statusCode: 409, code: 'NO' })
  })
  const session = connect(url)
  await t.rejects(session.subscribe('unknown').next(), { code: 'FST_SSE_EVENT_UNKNOWN', status: 404 })
  const values = session.subscribe('fail')
  t.strictSame(await values.next(), { value: 1, done: false })
  await t.rejects(values.next(), { code: 'NO', status: 409, message: 'no' })
})

testEachClient(t, 'a gap, a new session and a lost handler end the loop with an error, and other events do not', async (t, connect) => {
  for (const [frames, code] of [
    ['event: gap\ndata: {"after":1,"resumedAt":2,"reason":"count"}\n\n', 'INCOMPLETE'],
    [welcome(false, 't'), 'INCOMPLETE'],
    [part({ end: { status: 'lost' } }), 'HANDLER_LOST']
  ] as const) {
    const posted = deferred()
    const server = await scriptedServer(t, [async response => {
      await startStream(response, welcome())
      await posted.promise
      await writeChunks(response, `data: 1\n\nevent: part\ndata: {"run":"s0","data":0}\n\n${part({ data: 1 })}${frames}`)
    }], [(response, body) => {
      streaming(response, body)
      posted.resolve()
    }])
    const values = connect(server.url).subscribe('ask')
    t.strictSame(await withTimeout(values.next(), 'the value'), { value: 1, done: false })
    await t.rejects(withTimeout(values.next(), 'the end'), { code })
  }
})

testEachClient(t, 'a handler that returns a plain value is an error', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  for (const value of [undefined, null, 5, { status: 'streaming' }]) {
    sessions.handle(String(value), () => value)
    await t.rejects(withTimeout(session.subscribe(String(value)).next(), 'the error'), { code: 'NOT_STREAMING' })
  }
})

testEachClient(t, 'a gap or a new session before the message was sent is no error', async (t, connect) => {
  for (const [frames, sessionId] of [
    [welcome(false, 't'), 't'],
    [welcome(true) + 'event: gap\ndata: {"after":1,"resumedAt":2,"reason":"count"}\n\n', 's']
  ] as const) {
    const subscribed = deferred()
    const posted = deferred()
    const server = await scriptedServer(t, [endedStream(welcome()), async response => {
      await subscribed.promise
      const stream = await startStream(response, frames)
      await posted.promise
      await writeChunks(stream, part({ data: 1 }), part({ end: { status: 'finished' } }))
    }], [(response, body) => {
      streaming(response, body)
      posted.resolve()
    }])
    const session = connect(server.url)
    await waitForEvent(session, 'disconnect')
    const values = session.subscribe('ask')
    const first = values.next()
    subscribed.resolve()
    t.strictSame(await withTimeout(first, 'the value'), { value: 1, done: false })
    t.strictSame(await withTimeout(values.next(), 'the end'), { value: undefined, done: true })
    t.equal(server.requests.find(isPost)?.headers['x-session-id'], sessionId)
  }
})

/** The event names of the messages in a body, which may be empty. */
const eventsOf = (body: string): string[] => body === '' ? [] : messagesOf({ body }).map(({ event }) => event)

const acceptAll: Responder = (response, body) => {
  response.end(JSON.stringify(eventsOf(body).map(() => ({ status: 200, body: null }))))
}

testEachClient(t, 'a subscription that is aborted before it was sent, without a stream, is never sent', async (t, connect) => {
  const aborted = deferred()
  const server = await scriptedServer(t, [endedStream(welcome()), async response => {
    await aborted.promise
    await startStream(response, welcome(true))
  }], [acceptAll])
  const session = connect(server.url)
  await waitForEvent(session, 'disconnect')
  const controller = new AbortController()
  const values = session.subscribe('ask', null, { signal: controller.signal })
  const first = values.next()
  controller.abort(new Error('enough'))
  await t.rejects(first, { message: 'enough' })
  const next = session.emit('next')
  aborted.resolve()
  await withTimeout(next, 'the response')
  t.strictSame(server.requests.filter(isPost).flatMap(({ body }) => eventsOf(body)), ['next'])
})

testEachClient(t, 'a message that is aborted while the headers of its request are resolved is not sent', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], [acceptAll, acceptAll])
  const requested = deferred()
  const resolved = deferred()
  let isOpen = false
  const session = connect(server.url, {
    headers: async () => {
      if (isOpen) {
        requested.resolve()
        await resolved.promise
      }
      return {}
    }
  })
  await waitForEvent(session, 'open')
  isOpen = true
  const controller = new AbortController()
  const first = session.subscribe('ask', null, { signal: controller.signal }).next()
  const request = session.request('request', null, { signal: controller.signal })
  const others = [session.emit('next')]
  await withTimeout(requested.promise, 'the call of the function')
  others.push(session.emit('last'))
  controller.abort(new Error('enough'))
  await t.rejects(first, { message: 'enough' })
  await t.rejects(request, { message: 'enough' })
  resolved.resolve()
  await withTimeout(Promise.all(others), 'the responses')
  t.strictSame(server.requests.filter(isPost).flatMap(({ body }) => eventsOf(body)), ['next', 'last'])
})

testEachClient(t, 'a subscription that is aborted before its response arrives stops the handler afterwards', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const started = deferred()
  const proceed = deferred()
  const stopped = deferred()
  sessions.handle('ask', async (_session, _data) => {
    started.resolve()
    await proceed.promise
    return (async function * () {
      try {
        for (;;) {
          yield 1
          await new Promise(resolve => { setImmediate(resolve) })
        }
      } finally {
        stopped.resolve()
      }
    })()
  })
  const session = connect(url)
  const controller = new AbortController()
  const first = session.subscribe('ask', null, { signal: controller.signal }).next()
  await withTimeout(started.promise, 'the handler')
  controller.abort(new Error('enough'))
  await t.rejects(first, { message: 'enough' })
  proceed.resolve()
  await withTimeout(stopped.promise, 'the end of the generator')
})

testEachClient(t, 'a subscription that is aborted after it was refused ends with the first error', async (t, connect) => {
  const { url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url, { maxQueued: 0 })
  const controller = new AbortController()
  const first = session.subscribe('ask', null, { signal: controller.signal }).next()
  controller.abort()
  await t.rejects(first, { code: 'QUEUE_FULL' })
})

testEachClient(t, 'neither maxQueued nor timeout applies to the message that stops the handler', async (t, connect) => {
  let write = (_text: string): void => {}
  const bodies: unknown[] = []
  const network = fakeNetwork(t, (method, attempt) => {
    if (method === 'GET') return streamResponse(welcome(), writeMore => { write = writeMore })
    if (attempt === 1) return Response.json([{ status: 202, body: { status: 'streaming', message: 's0' } }])
    // No response to the message that fills the queue.
    if (attempt === 2) return undefined
    return attempt === 3 ? new Response('busy', { status: 503, headers: { 'retry-after': '5' } }) : Response.json([{ status: 200, body: null }])
  })
  const session = connect('', {
    timeout: 1000,
    maxQueued: 1,
    fetch: (url, init) => {
      if (init.method === 'POST') bodies.push(init.body)
      return network.fetch(url, init)
    }
  })
  const values = session.subscribe('ask')
  const first = values.next()
  await waitForEvent(session, 'open')
  await network.advance(0)
  write(part({ data: 1 }))
  t.strictSame(await withTimeout(first, 'the value'), { value: 1, done: false })
  const other = session.request('other', null, { timeout: Infinity })
  await waitUntil(() => bodies.length === 2, 'the POST of the other message')
  await values.return()
  await waitUntil(() => bodies.length === 3, 'the POST that stops the handler')
  await network.advance(0)
  // Longer than the timeout.
  await network.advance(10_000)
  const stop = '{"event":"part","data":{"message":"s0"}}'
  t.strictSame(bodies.slice(2), [stop, stop])
  session.close()
  await t.rejects(other, { code: 'CLOSED' })
})

testEachClient(t, 'an iterator yields no parts, and listeners receive those of runs', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  const received: unknown[] = []
  const events: unknown[] = []
  session.on('part', ({ run, data }) => { received.push([run, data]) })
  const iterating = (async () => { for await (const { event } of session) events.push(event) })()
  await waitForEvent(session, 'open')
  const serverSession = await sessions.find(session.sessionId ?? '')
  await serverSession?.follow(await sessions.runs.start('a', {}, function * () { yield 1 }))
  await serverSession?.send('x')
  await waitUntil(() => events.length === 1, 'the event')
  t.strictSame(received, [['a', 1], ['a', undefined]])
  await session.close()
  await iterating
  t.strictSame(events, ['message'])
})
