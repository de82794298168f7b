import t, { type Test } from 'tap'
import { fakeNavigator, testEachClient, FORCE_CLOSE, waitForEvent } from '../support/clients.js'
import { serve } from '../support/server.js'
import { deferred, withTimeout } from '../support/wait.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'
import { CLOSE_EVENT, echo, endedStream, isPost, messagesOf, openStream, respond, scriptedServer, startStream, welcome, writeChunks, type Responder } from './support/scripted-server.js'

/** Starts a server whose first stream ends when a promise resolves, and whose second one is that of another session. */
const serveTwoSessions = (t: Test, end: Promise<void>): ReturnType<typeof scriptedServer> => scriptedServer(t, [
  async response => {
    const stream = await startStream(response, welcome())
    await end
    stream.end()
  },
  openStream(welcome(false, 'next'))
], [echo, echo])

testEachClient(t, 'a message that was not sent, because its headers did not resolve, is sent to the next session', async (t, connect) => {
  const blocked = deferred()
  const server = await serveTwoSessions(t, blocked.promise)
  let calls = 0
  const session = connect(server.url, {
    headers: () => {
      // The second call is for the POST after the first GET.
      if (++calls !== 2) return {}
      blocked.resolve()
      return new Promise(() => {})
    }
  })
  t.equal(await session.request('a', 7), 7)
  t.strictSame(server.requests.filter(isPost).map(({ headers }) => headers['x-session-id']), ['next'])
})

testEachClient(t, 'a message is not sent after the stream was lost while its headers were resolved', async (t, connect) => {
  const blocked = deferred()
  const lost = deferred()
  const server = await serveTwoSessions(t, blocked.promise)
  let calls = 0
  const session = connect(server.url, {
    headers: async () => {
      // The second call is for the POST after the first GET.
      if (++calls !== 2) return {}
      blocked.resolve()
      await lost.promise
      return {}
    }
  })
  session.on('disconnect', () => { lost.resolve() })
  t.equal(await session.request('a', 7), 7)
  t.strictSame(server.requests.filter(isPost).map(({ headers }) => headers['x-session-id']), ['next'])
})

testEachClient(t, 'after a reset, sends unsent messages to the new session and fails messages that may have been handled', async (t, connect) => {
  const posted = deferred()
  const server = await scriptedServer(t, [
    async response => {
      await startStream(response, welcome())
      await posted.promise
      response.end()
    },
    openStream(welcome(false, 'other'))
  ], [() => { posted.resolve() }, echo])
  const session = connect(server.url)
  const uncertain = session.request('a', 1)
  await withTimeout(posted.promise, 'a POST')
  const unsent = session.request('a', 2)
  await t.rejects(uncertain, { code: 'RESET' })
  t.equal(await unsent, 2)
  t.match(server.requests.filter(isPost)[1]?.headers, { 'x-session-id': 'other' })
})

// Responses before a reset. The outcome of the message is its result, or the code of its error.
const RESPONSES: Array<[title: string, responder: Responder, outcome: unknown]> = [
  ['status 503 of the server', respond(503, {}, { code: 'FST_SSE_CLOSING' }), 1],
  ...[408, 421, 425, 429].map((status): [string, Responder, unknown] => [`status ${status}`, respond(status), 1]),
  ['status 429 of its own in a batch', respond(200, {}, [{ status: 429, body: {} }]), 1],
  ['status 500', respond(500), 'RESET'],
  ['status 502', respond(502), 'RESET'],
  ['status 503 of a proxy', respond(503), 'RESET'],
  ['status 503 of the app', respond(503, {}, { code: 503 }), 'RESET'],
  ['a response that is not a list', respond(200, {}, {}), 'RESET'],
  ['status 503 of its handler', respond(200, {}, [{ status: 503, body: { code: 'BUSY' }, replayed: true }]), 'BUSY']
]
for (const [title, responder, outcome] of RESPONSES) {
  testEachClient(t, `a message with ${title} before a reset ends with ${String(outcome)}`, async (t, connect) => {
    const responded = deferred()
    const server = await scriptedServer(t, [
      async response => {
        await startStream(response, 'retry: 100000\n\n', welcome())
        await responded.promise
        await writeChunks(response, 'retry: 1\n\n')
        response.end()
      },
      openStream(welcome(false, 'other'))
    ], [
      async (response, body) => {
        await responder(response, body)
        responded.resolve()
      },
      echo
    ])
    t.equal(await withTimeout(connect(server.url).request('a', 1).catch(({ code }) => code), 'the outcome'), outcome)
  })
}

// Whether the browser is offline when the POST starts, and when it fails.
for (const [wasOffline, isOffline, outcome] of [[true, true, 1], [false, true, 'RESET'], [true, false, 'RESET']] as const) {
  testEachClient(t, `a message whose POST starts ${wasOffline ? 'offline' : 'online'} and fails ${isOffline ? 'offline' : 'online'} ends with ${outcome} after a reset`, async (t, connect) => {
    const navigator = fakeNavigator(t)
    const opened = deferred()
    const failed = deferred()
    const server = await scriptedServer(t, [
      async response => {
        const stream = await startStream(response, 'retry: 100000\n\n', welcome())
        await failed.promise
        await writeChunks(stream, 'retry: 1\n\n')
        stream.end()
      },
      openStream(welcome(false, 'other'))
    ], [echo])
    let posts = 0
    const session = connect(server.url, {
      fetch: async (url, init) => {
        if (init.method !== 'POST' || ++posts > 1) return await fetch(url, init)
        navigator.onLine = !isOffline
        setImmediate(() => { failed.resolve() })
        throw new TypeError('Failed to fetch')
      }
    })
    session.on('open', () => { opened.resolve() })
    await withTimeout(opened.promise, 'the open event')
    navigator.onLine = !wasOffline
    const result = session.request('a', 1).catch(({ code }) => code)
    t.equal(await withTimeout(result, 'the outcome'), outcome)
  })
}

testEachClient(t, 'a POST to an unknown session waits for the next session', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: FORCE_CLOSE })
  const session = connect(url)
  await waitForEvent(session, 'open')
  const lost = await sessions.find(session.sessionId ?? '')
  sessions.handle('id', ({ id }) => id)
  const reset = waitForEvent(session, 'reset')
  // The server loses the session without an end of its stream, as after a restart behind a proxy.
  t.ok(lost)
  sessions.findCached = id => id === lost?.id ? undefined : Object.getPrototypeOf(sessions).findCached.call(sessions, id)
  sessions.findForResume = async () => undefined
  const id = await withTimeout(session.request('id', 1), 'the response')
  await reset
  t.equal(id, session.sessionId)
  t.not(id, lost?.id)
})

testEachClient(t, 'a POST to an unknown session waits for the next session, also if the body of the stream ignores the signal', async (t, connect) => {
  const { advance } = fakeNetwork(t, () => undefined)
  const requests: string[] = []
  const session = connect('', {
    fetch: async (_url, { method = 'GET' }) => {
      const isFirst = !requests.includes(method)
      requests.push(method)
      if (method === 'DELETE') return new Response()
      if (method === 'GET') return streamResponse(welcome(false, isFirst ? 'lost' : 'next'))
      return isFirst ? Response.json({ code: 'FST_SSE_SESSION_UNKNOWN' }, { status: 404 }) : Response.json([{ status: 200, body: 1 }])
    }
  })
  const result = session.request('a', 1)
  for (let round = 0; round < 3; round++) await advance(3000)
  t.strictSame(requests, ['GET', 'POST', 'GET', 'POST'])
  t.equal(await withTimeout(result, 'the response'), 1)
})

// The result of a message in a batch if the session was lost or closed while the server handled the messages before it.
const unknownResult = { status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' } }

testEachClient(t, 'a message of a batch whose session was lost before its turn is sent to the next session', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome()), openStream(welcome(false, 'next'))], [respond(200, {}, [{ status: 200, body: 1 }, unknownResult]), echo])
  const session = connect(server.url)
  t.strictSame(await withTimeout(Promise.all([session.request('a', 1), session.request('a', 2)]), 'the responses'), [1, 2])
  t.strictSame(server.requests.filter(isPost).map(request => [request.headers['x-session-id'], messagesOf(request).length]), [['s', 2], ['next', 1]])
})

testEachClient(t, 'a message of a batch whose session was closed before its turn fails with CLOSED', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome()), endedStream(welcome(true), CLOSE_EVENT)], [respond(200, {}, [{ status: 200, body: 1 }, unknownResult])])
  const session = connect(server.url)
  const [first, second] = await withTimeout(Promise.allSettled([session.request('a', 1), session.request('a', 2)]), 'the responses')
  t.match(first, { value: 1 })
  t.match(second, { reason: { code: 'CLOSED', message: 'Closed: the end' } })
})

testEachClient(t, 'a message whose handler fails with FST_SSE_SESSION_UNKNOWN fails with this error', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome()), openStream(welcome(true))], [respond(200, {}, [unknownResult]), respond(200, {}, [{ ...unknownResult, replayed: true }])])
  t.equal(await withTimeout(connect(server.url).request('a', 1).catch(({ code }) => code), 'the response'), 'FST_SSE_SESSION_UNKNOWN')
  t.equal(server.requests.filter(isPost).length, 2)
})
