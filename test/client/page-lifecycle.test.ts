import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import { testEachClient, waitForEvent, recordEvents } from '../support/clients.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'
import { endedStream, openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'
import { matchList } from '../support/match-list.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const LONG_RETRY = 'retry: 100000\n\n'
const accept = respond(200, {}, [{ status: 200, body: 1 }])

/** Creates what the client uses of a page: a document, and its window. */
function fakePage (t: Test) {
  const window = new EventTarget()
  // Each `change` event sets the effective type to `nextType`.
  const network = Object.assign(new EventTarget(), { effectiveType: '4g', nextType: '3g' })
  const navigator = Object.getOwnPropertyDescriptor(globalThis, 'navigator')
  Object.defineProperty(globalThis, 'navigator', { value: { connection: network }, configurable: true })
  const document = Object.assign(new EventTarget(), { hidden: false, defaultView: window })
  Object.assign(globalThis, { document })
  t.teardown(() => {
    Reflect.deleteProperty(globalThis, 'document')
    if (navigator === undefined) Reflect.deleteProperty(globalThis, 'navigator')
    else Object.defineProperty(globalThis, 'navigator', navigator)
  })
  return {
    document,
    window,
    network,
    dispatch: (name: string, persisted?: boolean): void => {
      const target = name === 'change' ? network : name === 'visibilitychange' ? document : window
      if (name === 'change') [network.effectiveType, network.nextType] = [network.nextType, network.effectiveType]
      target.dispatchEvent(Object.assign(new Event(name), { persisted }))
    }
  }
}

for (const [event, persisted] of [['online'], ['visibilitychange'], ['pageshow', true]] satisfies Array<[string, boolean?]>) {
  testEachClient(t, `${event} ends the delay before the next attempt to connect`, async (t, connect) => {
    const { dispatch } = fakePage(t)
    const server = await scriptedServer(t, [endedStream(LONG_RETRY, welcome()), openStream(welcome(true))])
    const session = connect(server.url)
    await waitForEvent(session, 'disconnect')
    const resumed = waitForEvent(session, 'resume')
    dispatch(event, persisted)
    await withTimeout(resumed, 'the new stream')
  })
}

testEachClient(t, 'hiding the page, or showing one that was not restored, does not end the delay', async (t, connect) => {
  const { document, dispatch } = fakePage(t)
  const server = await scriptedServer(t, [endedStream(LONG_RETRY, welcome()), openStream(welcome(true))])
  let attempts = 0
  const session = connect(server.url, {
    fetch: (url, init) => {
      attempts++
      return fetch(url, init)
    }
  })
  await waitForEvent(session, 'disconnect')
  const attemptsAfter = async (event: string, persisted?: boolean): Promise<number> => {
    dispatch(event, persisted)
    await new Promise(setImmediate)
    return attempts
  }
  document.hidden = true
  t.equal(await attemptsAfter('visibilitychange'), 1)
  t.equal(await attemptsAfter('pageshow', false), 1)
  // One tick is enough to see an attempt.
  t.equal(await attemptsAfter('online'), 2)
})

testEachClient(t, 'page events do not end a delay that Retry-After requires', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const server = await scriptedServer(t, [endedStream(welcome()), respond(503, { 'retry-after': '1' })])
  const session = connect(server.url)
  await waitForEvent(session, 'error')
  dispatch('online')
  dispatch('visibilitychange')
  dispatch('pageshow', true)
  await waitForEvent(session, 'close')
  const [, second, third] = server.requests.map(({ receivedAt }) => receivedAt) as [number, number, number]
  t.ok(third - second >= 995, `${third - second} ms`)
})

testEachClient(t, 'the online event replaces the stream at once, and then a request that gets no response within 4 seconds', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => attempt === 2 ? undefined : streamResponse(welcome(attempt > 1, 's', { heartbeatInterval: 15_000 })))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  dispatch('online')
  await advance(0)
  t.equal(requestCount('GET'), 2)
  await advance(3999)
  t.equal(requestCount('GET'), 2)
  await advance(1)
  await advance(0)
  matchList(t, events, [['open', {}], ['disconnect', { error: { code: 'SILENT' } }], ['error', { code: 'SILENT' }], ['resume', {}]])
})

testEachClient(t, 'the online event replaces a request whose error response never ends and ignores the signal', async (t, connect) => {
  const { dispatch } = fakePage(t)
  let attempts = 0
  const session = connect('', {
    fetch: async (_url, { method }) => {
      if (method === 'DELETE') return new Response()
      if (++attempts > 1) return streamResponse(welcome())
      return Object.assign(new Response(null, { status: 503 }), {
        // The signal aborts before the client waits for the body.
        json: async () => {
          dispatch('online')
          return await new Promise(() => {})
        }
      })
    }
  })
  await waitForEvent(session, 'open')
  t.equal(attempts, 2)
})

testEachClient(t, 'the online event makes the following delays short again', async (t, connect) => {
  const { dispatch } = fakePage(t)
  t.intercept(Math, 'random', { value: () => 0.5 })
  const { fetch, requestCount, advance } = fakeNetwork(t, () => new Response('busy', { status: 500 }))
  connect('', { fetch })
  await advance(0)
  for (let attempt = 0; attempt < 5; attempt++) await advance(11_000)
  const before = requestCount('GET')
  dispatch('online')
  await advance(0)
  t.equal(requestCount('GET'), before + 1)
  await advance(1500)
  t.equal(requestCount('GET'), before + 2)
})

for (const event of ['visibilitychange', 'change']) {
  testEachClient(t, `${event} replaces a stream whose next heartbeat is late, and no other stream`, async (t, connect) => {
    const { dispatch } = fakePage(t)
    let write = (_text: string): void => {}
    const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => streamResponse(welcome(attempt > 1, 's', { heartbeatInterval: 15_000 }), writeMore => { write = writeMore }))
    const session = connect('', { fetch })
    await waitForEvent(session, 'open')
    await advance(10_000)
    dispatch(event)
    await advance(8999)
    t.equal(requestCount('GET'), 1)
    write(': heartbeat\n\n')
    await advance(0)
    await advance(30_000)
    t.equal(requestCount('GET'), 1, 'data ends the check')
    dispatch(event)
    await advance(0)
    t.equal(requestCount('GET'), 2, 'the heartbeat was late already')
    await advance(10_000)
    dispatch(event)
    await advance(9000)
    t.equal(requestCount('GET'), 3)
  })
}

testEachClient(t, 'the offline event does not end the delay before the next attempt to connect', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const { fetch, requestCount, advance } = fakeNetwork(t, () => new Response('busy', { status: 500 }))
  connect('', { fetch })
  await advance(0)
  dispatch('offline')
  await advance(0)
  t.equal(requestCount('GET'), 1)
})

testEachClient(t, 'visibilitychange does not start the minute of responses that are not from the server again', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const { fetch, advance } = fakeNetwork(t, () => new Response('Log in'))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  for (let second = 0; second <= 80; second++) {
    if (second % 20 === 0) dispatch('visibilitychange')
    await advance(1000)
  }
  t.match(events.at(-1), ['close', { reason: 'NOT_A_STREAM' }])
})

testEachClient(t, 'visibilitychange does not delay the check of a stream with a short heartbeat interval', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const { fetch, advance } = fakeNetwork(t, (_method, attempt) => streamResponse(welcome(attempt > 1, 's', { heartbeatInterval: 1000 })))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  await advance(2000)
  dispatch('visibilitychange')
  await advance(499)
  t.equal(events.length, 1)
  await advance(1)
  matchList(t, events, [['open', {}], ['disconnect', { error: { code: 'SILENT' } }], ['resume', {}]])
})

testEachClient(t, 'a clock that is set back does not delay the check of the stream', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const { fetch, advance } = fakeNetwork(t, (_method, attempt) => streamResponse(welcome(attempt > 1, 's', { heartbeatInterval: 15_000 })))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  const { now } = Date
  t.intercept(Date, 'now', { value: () => now() - 3_600_000 })
  dispatch('visibilitychange')
  await advance(37_500)
  t.match(events, [['open'], ['disconnect', { error: { code: 'SILENT' } }]])
})

testEachClient(t, 'a change of the network that keeps its effective type has no effect', async (t, connect) => {
  const { dispatch, network } = fakePage(t)
  const { fetch, requestCount, advance } = fakeNetwork(t, () => new Response('busy', { status: 500 }))
  connect('', { fetch })
  await advance(0)
  network.nextType = network.effectiveType
  dispatch('change')
  await advance(0)
  t.equal(requestCount('GET'), 1)
})

testEachClient(t, 'visibilitychange ends the delay of a client without heartbeats, and does not replace its stream', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const { fetch, requestCount, advance } = fakeNetwork(t, () => streamResponse(welcome()))
  const session = connect('', { fetch })
  await waitForEvent(session, 'open')
  await advance(100_000)
  dispatch('visibilitychange')
  await advance(100_000)
  t.equal(requestCount('GET'), 1)
})

testEachClient(t, 'in a worker, listens to the events of its global object', async (t, connect) => {
  const scope = new EventTarget()
  for (const name of ['addEventListener', 'removeEventListener'] as const) {
    Object.assign(globalThis, { [name]: scope[name].bind(scope) })
    t.teardown(() => { Reflect.deleteProperty(globalThis, name) })
  }
  const server = await scriptedServer(t, [endedStream(LONG_RETRY, welcome()), openStream(welcome(true))])
  const session = connect(server.url)
  await waitForEvent(session, 'disconnect')
  const resumed = waitForEvent(session, 'resume')
  scope.dispatchEvent(new Event('online'))
  await withTimeout(resumed, 'the new stream')
})

testEachClient(t, 'a request that the Content-Security-Policy blocks closes the session; other violations do not', async (t, connect) => {
  const { document } = fakePage(t)
  const server = await scriptedServer(t, [openStream(welcome())])
  const session = connect(server.url)
  await waitForEvent(session, 'open')
  const violate = (blockedURI: string, disposition: string): void => {
    document.dispatchEvent(Object.assign(new Event('securitypolicyviolation'), { blockedURI, disposition }))
  }
  violate(`${server.url}/downward`, 'report')
  violate(`${server.url}/image.png`, 'enforce')
  t.equal(session.state, 'open')
  const failed = waitForEvent(session, 'error')
  violate(`${server.url}/downward`, 'enforce')
  t.match(await failed, { code: 'REQUEST_INVALID', message: /Content-Security-Policy/ })
  t.equal(session.state, 'closed')
})

testEachClient(t, 'a page that is restored from the back/forward cache replaces its stream', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const server = await scriptedServer(t, [openStream(welcome()), openStream(welcome(true))], [accept])
  const session = connect(server.url)
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  dispatch('pagehide', true)
  dispatch('pageshow', false)
  // After a round trip the client would have reported a replaced stream.
  await session.send(1)
  t.strictSame(events.map(([name]) => name), ['open'])
  const resumed = waitForEvent(session, 'resume')
  dispatch('pageshow', true)
  await withTimeout(resumed, 'the new stream')
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume'])
})

testEachClient(t, 'a page that is unloaded closes its session with a keepalive request and removes all listeners', async (t, connect) => {
  const { document, window, dispatch } = fakePage(t)
  const server = await scriptedServer(t, [openStream(welcome())])
  const requests: RequestInit[] = []
  const session = connect(server.url, {
    fetch: (url, init) => {
      requests.push(init)
      return fetch(url, init)
    }
  })
  await waitForEvent(session, 'open')
  dispatch('pagehide', false)
  t.equal(session.state, 'closed')
  await waitUntil(() => server.requests.length === 2, 'the DELETE')
  t.match(server.requests[1], { method: 'DELETE', headers: { 'x-session-id': 's' } })
  t.match(requests, [{ keepalive: undefined }, { keepalive: true }])
  for (const target of [document, window]) {
    for (const event of ['visibilitychange', 'online', 'pageshow', 'pagehide']) t.strictSame(getEventListeners(target, event), [])
  }
})

testEachClient(t, 'listens to a document without a window', async (t, connect) => {
  const { document, dispatch } = fakePage(t)
  Object.assign(document, { defaultView: null })
  const server = await scriptedServer(t, [endedStream(LONG_RETRY, welcome()), openStream(welcome(true))])
  const session = connect(server.url)
  await waitForEvent(session, 'disconnect')
  const resumed = waitForEvent(session, 'resume')
  dispatch('visibilitychange')
  await withTimeout(resumed, 'the new stream')
})
