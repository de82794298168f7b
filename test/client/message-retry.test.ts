import t, { type Test } from 'tap'
import { StoreUnavailable } from '../../lib/index.js'
import { testEachClient, FORCE_CLOSE, waitForEvent, range } from '../support/clients.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { echo, isPost, openStream, respond, scriptedServer, startStream, welcome, type Responder } from './support/scripted-server.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'

const FAILURES: Array<[title: string, responder: Responder]> = [
  ['that is cut before the response', response => { response.socket?.destroy() }],
  ['that is cut in the middle of the response', response => {
    response.writeHead(200, { 'content-length': 100 })
    response.write('[{"status":200', () => { response.socket?.destroy() })
  }],
  ['whose response comes from a captive portal', respond(200, {}, 'Log in to the hotel')],
  ['with status 500', respond(500)],
  ['with status 503', respond(503)],
  ['with status 429', respond(429)],
  ['with status 503 for the message', respond(200, {}, [{ status: 503, body: {} }])]
]

/** A network in which the first POST gets no response. */
const loseFirstPost = (t: Test) => fakeNetwork(t, (method, attempt) => {
  if (method !== 'POST') return streamResponse(welcome())
  return attempt === 1 ? undefined : Response.json([{ status: 200, body: 'yes' }])
})

for (const [title, responder] of FAILURES) {
  testEachClient(t, `repeats the same message after a POST ${title}`, async (t, connect) => {
    const server = await scriptedServer(t, [openStream(welcome())], [responder, echo])
    t.equal(await connect(server.url).request('a', 7), 7)
    const bodies = server.requests.filter(isPost).map(({ body }) => body)
    t.equal(bodies.length, 2)
    t.equal(bodies[0], bodies[1])
  })
}

testEachClient(t, 'handles the rest of a batch in order after a message that failed because of the store', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: FORCE_CLOSE })
  const handled: unknown[] = []
  let fails = true
  sessions.handle('a', async (_session, data) => {
    if (data === 1 && fails) {
      fails = false
      throw new StoreUnavailable()
    }
    handled.push(data)
  })
  const session = connect(url)
  await Promise.all(range(4).map(n => session.emit('a', n)))
  t.strictSame(handled, range(4))
})

testEachClient(t, 'rejects, and does not repeat the message, if the handler itself responds with 503', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: FORCE_CLOSE })
  let calls = 0
  sessions.handle('a', (_session, _data, { reply }) => {
    calls++
    reply.code(503).send({ code: 'BUSY', message: 'Busy' })
  })
  await t.rejects(connect(url).request('a', 1), { code: 'BUSY', status: 503 })
  t.equal(calls, 1)
})

testEachClient(t, 'repeats a POST that has no response after 15 seconds', async (t, connect) => {
  const { fetch, requestCount, advance } = loseFirstPost(t)
  const result = connect('', { fetch }).request('a', 1)
  await waitUntil(() => requestCount('POST') === 1, 'the POST')
  await advance(14_999)
  t.equal(requestCount('POST'), 1)
  await advance(1)
  t.equal(requestCount('POST'), 2)
  t.equal(await withTimeout(result, 'the response'), 'yes')
})

testEachClient(t, 'repeats a POST with a large body after the time that its upload may take', async (t, connect) => {
  const { fetch, requestCount, advance } = loseFirstPost(t)
  const result = connect('', { fetch }).request('a', 'x'.repeat(100_000))
  await waitUntil(() => requestCount('POST') === 1, 'the POST')
  // Four characters per millisecond.
  await advance(25_000)
  t.equal(requestCount('POST'), 1)
  await advance(1000)
  t.equal(requestCount('POST'), 2)
  t.equal(await withTimeout(result, 'the response'), 'yes')
})

testEachClient(t, 'a large message that has failed blocks the next one for at most half of the timeout of the session', async (t, connect) => {
  const { fetch, requestCount, advance } = loseFirstPost(t)
  const session = connect('', { fetch, timeout: 40_000 })
  const large = session.request('a', 'x'.repeat(1_000_000), { timeout: 100 }).catch(({ code }) => code)
  await waitUntil(() => requestCount('POST') === 1, 'the POST')
  const result = session.request('b')
  await advance(100)
  t.equal(await withTimeout(large, 'the timeout'), 'TIMEOUT')
  await advance(19_899)
  t.equal(requestCount('POST'), 1)
  await advance(1)
  t.equal(requestCount('POST'), 2)
  t.equal(await withTimeout(result, 'the response'), 'yes')
})

testEachClient(t, 'a message fails after 60 seconds, or after its own timeout, even during a POST, and is not repeated', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, method => method === 'POST' ? undefined : streamResponse(welcome()))
  const session = connect('', { fetch })
  const failed: unknown[] = []
  session.send(1).catch(({ code }) => { failed.push([1, code]) })
  session.request('message', 2, { timeout: 20_000 }).catch(({ code }) => { failed.push([2, code]) })
  await waitUntil(() => requestCount('POST') === 1, 'the POST')
  await advance(15_000)
  await advance(4999)
  t.strictSame(failed, [])
  await advance(1)
  t.strictSame(failed, [[2, 'TIMEOUT']])
  await advance(10_000)
  await advance(15_000)
  await advance(14_999)
  t.equal(failed.length, 1)
  await advance(1)
  t.strictSame(failed, [[2, 'TIMEOUT'], [1, 'TIMEOUT']])
  t.equal(requestCount('POST'), 4)
  await advance(100_000)
  t.equal(requestCount('POST'), 4)
})

testEachClient(t, 'ignores a response that arrives after a new stream, and repeats the message', async (t, connect) => {
  const posted = deferred()
  const lateBody = deferred<unknown>()
  const server = await scriptedServer(t, [
    async response => {
      await startStream(response, welcome())
      await posted.promise
      response.end()
    },
    openStream(welcome(true))
  ], [echo])
  let posts = 0
  const session = connect(server.url, {
    fetch: async (url, init) => {
      if (init.method !== 'POST' || posts++ > 0) return await fetch(url, init)
      posted.resolve()
      return Object.assign(new Response(null, { headers: { 'x-session-connected': 'false' } }), { json: () => lateBody.promise })
    }
  })
  const resumed = waitForEvent(session, 'resume')
  const result = session.request('a', 1)
  await resumed
  lateBody.resolve([{ status: 200, body: 'late' }])
  t.equal(await withTimeout(result, 'the response'), 1)
  await session.close()
  t.strictSame(server.requests.map(({ method }) => method), ['GET', 'GET', 'POST', 'DELETE'])
})

testEachClient(t, 'repeats a POST whose response never ends and ignores the signal', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, () => streamResponse(welcome()), ['POST'])
  const session = connect('', {
    fetch: async (url, init) => {
      if (init.method !== 'POST') return await fetch(url, init)
      fetch(url, init).catch(() => {})
      return requestCount('POST') === 1 ? new Response(new ReadableStream()) : Response.json([{ status: 200, body: 1 }])
    }
  })
  const result = session.request('a')
  await waitUntil(() => requestCount('POST') === 1, 'the POST')
  await advance(0)
  await advance(15_000)
  t.equal(await withTimeout(result, 'the response', 4000), 1)
})
