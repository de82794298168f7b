import t from 'tap'
import type { Session } from '../../lib/index.js'
import { testEachClient, FORCE_CLOSE, recordEvents, waitForEvent, range } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'
import { endedStream, isPost, messagesOf, openStream, respond, scriptedServer, startStream, welcome, writeChunks, type Responder } from './support/scripted-server.js'

const request = (id: string, event: string, data: unknown = null, position = 1): string => `id: s.${position}\nevent: request\ndata: ${JSON.stringify({ request: id, event, data })}\n\n`

/** Accepts every message of a batch. */
const accept: Responder = (response, body) => { response.end(JSON.stringify(messagesOf({ body }).map(() => ({ status: 202, body: { status: 'accepted' } })))) }

testEachClient(t, 'answers the requests of the server with what the handler returns', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const opened = deferred<Session>()
  sessions.addHook('onOpen', session => { opened.resolve(session) })
  // The message waits for the answer, and later ones for the message.
  sessions.handle('remove', async (session, data) => await session.request('confirm', data))
  sessions.handle('later', () => 'handled')
  const session = connect(url)
  const names: string[] = []
  session.on('request' as 'open', () => { names.push('listener') })
  ;(async () => { for await (const { event } of session) names.push(event) })()
  session.handle('confirm', async data => ({ confirmed: data }))
  session.handle('now', () => undefined)
  t.strictSame(await withTimeout(Promise.all([session.request('remove', 1), session.request('later')]), 'the responses'), [{ confirmed: 1 }, 'handled'])
  t.equal(await withTimeout((await opened.promise).request('now'), 'the answer'), undefined)
  t.strictSame(names, [], 'requests are no events')
})

testEachClient(t, 'a request whose handler is missing or fails has an error', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const opened = deferred<Session>()
  sessions.addHook('onOpen', session => { opened.resolve(session) })
  const session = connect(url)
  const events = recordEvents(session)
  const removeFirst = session.handle('a', () => 1)
  const remove = session.handle('a', () => 2)
  removeFirst()
  session.handle('fails', async () => { throw Object.assign(new Error('no'), { code: 'DENIED' }) })
  // eslint-disable-next-line no-throw-literal -- an app may do so
  session.handle('throws', () => { throw null as unknown })
  // eslint-disable-next-line no-throw-literal -- an app may do so
  session.handle('object', () => { throw Object.create(null) as unknown })
  session.handle('message', () => { throw Object.assign(new Error('no'), { message: Object.create(null) as unknown }) })
  for (const code of [1n, 20]) session.handle(`code ${code}`, () => { throw Object.assign(new Error('no'), { code }) })
  session.handle('unknown', () => { throw Object.assign(new Error('no'), { code: 'FST_SSE_REQUEST_UNKNOWN' }) })
  const cyclic: unknown[] = []
  session.handle('cyclic', () => { cyclic[0] = cyclic; return cyclic })
  session.handle('large', () => 'x'.repeat(2 ** 20))
  const server = await opened.promise
  const ask = (name: string): Promise<unknown> => withTimeout(server.request(name), name)
  t.equal(await ask('a'), 2)
  remove()
  await t.rejects(ask('a'), { code: 'FST_SSE_REQUEST_UNHANDLED' })
  await t.rejects(ask('fails'), { code: 'FST_SSE_REQUEST_FAILED', cause: { code: 'DENIED', message: 'no' } })
  await t.rejects(ask('throws'), { code: 'FST_SSE_REQUEST_FAILED', cause: { message: 'null' } })
  for (const name of ['object', 'message']) await t.rejects(ask(name), { code: 'FST_SSE_REQUEST_FAILED', cause: { message: 'Cannot convert object to primitive value' } })
  for (const name of ['code 1', 'code 20']) await t.rejects(ask(name), { code: 'FST_SSE_REQUEST_FAILED', cause: { code: undefined, message: 'no' } })
  await t.rejects(ask('unknown'), { code: 'FST_SSE_REQUEST_FAILED', cause: { code: 'FST_SSE_REQUEST_UNKNOWN', message: 'no' } })
  await t.rejects(ask('cyclic'), { code: 'FST_SSE_REQUEST_FAILED' })
  await t.rejects(ask('large'), { code: 'FST_SSE_REQUEST_FAILED' })
  t.strictSame(events.map(([event]) => event), ['open'], 'no error event')
})

testEachClient(t, 'handles each request once, and answers it, while connections are lost', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: [10, 20] }, { fastify: FORCE_CLOSE })
  const proxy = await startFaultProxy(t, Number(new URL(url).port))
  const opened = deferred<Session>()
  sessions.addHook('onOpen', session => { opened.resolve(session) })
  const session = connect(`http://127.0.0.1:${proxy.port}`)
  const handled: unknown[] = []
  const gate = deferred()
  session.handle('double', async data => {
    handled.push(data)
    if (data === 5) await gate.promise
    return data as number * 2
  })
  const server = await opened.promise
  const answers = range(10).map(n => server.request('double', n))
  await waitUntil(() => handled.includes(5), 'a handler')
  const resumed = waitForEvent(session, 'resume')
  proxy.setDown(true)
  gate.resolve()
  answers.push(server.request('double', 10))
  proxy.setDown(false)
  await resumed
  t.strictSame(await withTimeout(Promise.all(answers), 'the answers'), range(11).map(n => n * 2))
  t.strictSame(handled, range(11))
})

testEachClient(t, 'answers do not wait for the response to other messages, and join a batch that is about to be sent', async (t, connect) => {
  const slow = deferred()
  const server = await scriptedServer(t, [async response => {
    await startStream(response, welcome())
    await slow.promise
    await writeChunks(response, request('r1', 'confirm') + request('r2', 'confirm', null, 2))
  }], [async (response, body) => {
    slow.resolve()
    await waitUntil(() => server.requests.filter(isPost).length === 2, 'the answers')
    await accept(response, body)
  }, accept, accept, accept])
  const session = connect(server.url)
  session.handle('confirm', () => 'yes')
  await withTimeout(session.emit('first'), 'the response')
  const bodies = (): unknown[] => server.requests.filter(isPost).map(request => messagesOf(request))
  const answer = (id: string): object => ({ event: 'response', data: { request: id, data: 'yes' } })
  await waitUntil(() => bodies().flat().length === 3, 'the messages')
  matchList(t, bodies()[0], [{ event: 'first' }])
  t.strictSame(bodies().slice(1).flat(), [answer('r1'), answer('r2')], 'answers have no key')
})

testEachClient(t, 'an answer joins a message that the handler sends, and is not sent twice', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome() + request('r1', 'confirm'))], [respond(503), accept])
  const session = connect(server.url)
  session.handle('confirm', () => {
    session.emit('seen')
    return 'yes'
  })
  await waitUntil(() => server.requests.filter(isPost).length === 2, 'both attempts')
  t.match(server.requests.filter(isPost).map(request => messagesOf(request).map(({ event }) => event)), [['seen', 'response'], ['seen', 'response']])
  await withTimeout(session.close(), 'close()')
  t.equal(server.requests.filter(isPost).length, 2)
})

testEachClient(t, 'an answer in a batch that is refused does not wait for the other messages of the batch', async (t, connect) => {
  const [queued, preparing, handled, refused, answered] = [deferred(), deferred(), deferred(), deferred(), deferred()]
  const respondOnce: Responder = async (response, body) => {
    const messages = messagesOf({ body })
    if (messages.length > 2) {
      refused.resolve()
      return await respond(413)(response, body)
    }
    if (messages.some(({ event }) => event === 'response')) answered.resolve()
    // The handlers of the other messages wait for the answer.
    await answered.promise
    await accept(response, body)
  }
  const server = await scriptedServer(t, [async response => {
    await startStream(response, welcome())
    await preparing.promise
    await writeChunks(response, request('r1', 'confirm'))
  }], [async (response, body) => {
    await queued.promise
    await accept(response, body)
  }, ...Array<Responder>(4).fill(respondOnce)])
  let calls = 0
  const session = connect(server.url, {
    headers: async () => {
      // The third call is for the batch, the fourth for the answer.
      if (++calls === 3) {
        preparing.resolve()
        await handled.promise
      } else if (calls === 4) {
        handled.resolve()
        await refused.promise
      }
      return {}
    }
  })
  session.handle('confirm', () => 'yes')
  const first = session.emit('first')
  await waitUntil(() => server.requests.some(isPost), 'the first message')
  const others = [1, 2, 3].map(n => session.emit('seen', n))
  queued.resolve()
  await withTimeout(answered.promise, 'the answer')
  await withTimeout(Promise.all([first, ...others]), 'the responses')
  t.match(server.requests.filter(isPost).map(request => messagesOf(request).map(({ event }) => event)).slice(1, 3), [['seen', 'seen', 'seen', 'response'], ['response']])
})

testEachClient(t, 'does not answer again when the server does not wait any more, nor in a new session', async (t, connect) => {
  const unknown = respond(200, {}, [{ status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } }])
  const server = await scriptedServer(t, [openStream(welcome() + request('r1', 'confirm'))], [respond(503), unknown, accept])
  const session = connect(server.url)
  const events = recordEvents(session)
  session.handle('confirm', () => 'yes')
  await waitUntil(() => server.requests.filter(isPost).length === 2, 'the answers')
  await session.emit('last')
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).map(({ event }) => event)), [['response'], ['response'], ['last']])
  t.strictSame(events.map(([event]) => event), ['open'])
})

testEachClient(t, 'answers also while maxQueued messages wait', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.handle('remove', async session => await session.request('confirm'))
  const session = connect(url, { maxQueued: 1 })
  session.handle('confirm', () => 'yes')
  t.equal(await withTimeout(session.request('remove'), 'the response'), 'yes')
})

testEachClient(t, 'repeats an answer for longer than the timeout of messages', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, (method, attempt) => {
    if (method === 'GET') return streamResponse(welcome() + request('r1', 'confirm'))
    return attempt === 1 ? new Response('busy', { status: 503, headers: { 'retry-after': '5' } }) : Response.json([{ status: 202, body: null }])
  })
  const bodies: unknown[] = []
  const session = connect('', {
    timeout: 1000,
    fetch: (url, init) => {
      if (init.method === 'POST') bodies.push(init.body)
      return fetch(url, init)
    }
  })
  session.handle('confirm', () => 'yes')
  await waitUntil(() => requestCount('POST') === 1, 'the answer')
  await advance(0)
  await advance(10_000)
  const answer = '{"event":"response","data":{"request":"r1","data":"yes"}}'
  t.strictSame(bodies, [answer, answer])
})

testEachClient(t, 'acknowledges an event after it was received, once, wherever the stream is cut', async (t, connect) => {
  const event = 'id: s.1\nevent: said\nrequest: r1\ndata: 1\n\n'
  for (const length of range(event.length + 1)) {
    const rest: Responder = async response => {
      const hasReceived = response.req.headers['last-event-id'] === 's.1'
      await startStream(response, welcome(true, 's', {}, hasReceived ? 1 : 0) + (hasReceived ? '' : event))
    }
    const server = await scriptedServer(t, [endedStream(welcome() + event.slice(0, length)), rest], [accept, accept])
    const session = connect(server.url)
    const posts = (): unknown[] => server.requests.filter(isPost).flatMap(request => messagesOf(request))
    const received: unknown[] = []
    session.on('said', data => { received.push(data, posts().length) })
    await waitUntil(() => posts().length > 0, 'the acknowledgement')
    await withTimeout(session.emit('last'), 'the response')
    matchList(t, posts(), [{ event: 'response', data: { request: 'r1' } }, { event: 'last' }])
    t.strictSame(received, [1, 0], `cut after ${length} characters`)
    await session.close()
  }
})

testEachClient(t, 'an acknowledgement joins the message that a listener sends', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const opened = deferred<Session>()
  let posts = 0
  sessions.addHook('onOpen', session => { opened.resolve(session) })
  sessions.handle('seen', (_session, _data, { request }) => request.id)
  const session = connect(url, { fetch: (...args) => { if (args[1]?.method === 'POST') posts++; return fetch(...args) } })
  const seen = deferred<unknown>()
  session.on('said', () => { seen.resolve(session.request('seen')) })
  await withTimeout((await opened.promise).emit('said', 1, { acknowledged: true }), 'the acknowledgement')
  await seen.promise
  t.equal(posts, 1)
})
