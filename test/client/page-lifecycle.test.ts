import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import { testEachClient, waitForEvent, recordEvents } from '../support/clients.js'
import { skewClock } from '../support/clock.js'
import { endedStream, openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const LONG_RETRY = 'retry: 100000\n\n'
const accept = respond(200, {}, [{ status: 200, body: 1 }])

/** Creates what the client uses of a page: a document, and its window. */
function fakePage (t: Test): { document: EventTarget & { hidden: boolean }, window: EventTarget, dispatch: (name: string, persisted?: boolean) => void } {
  const window = new EventTarget()
  const document = Object.assign(new EventTarget(), { hidden: false, defaultView: window })
  Object.assign(globalThis, { document })
  t.teardown(() => { Reflect.deleteProperty(globalThis, 'document') })
  return {
    document,
    window,
    dispatch: (name, persisted) => {
      const target = name === 'visibilitychange' ? document : window
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

testEachClient(t, 'the online event replaces a stream that was idle for 2.5 heartbeat intervals, and no other stream', async (t, connect) => {
  const { dispatch } = fakePage(t)
  const skew = skewClock(t, Date)
  const server = await scriptedServer(t, [openStream(LONG_RETRY, welcome(false, 's', { heartbeatInterval: 40_000 })), openStream(welcome(true))], [accept])
  const session = connect(server.url)
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  skew(99_000)
  dispatch('online')
  // After a round trip the client would have reported a replaced stream.
  await session.send(1)
  t.strictSame(events.map(([name]) => name), ['open'])
  skew(2000)
  const resumed = waitForEvent(session, 'resume')
  dispatch('online')
  await withTimeout(resumed, 'the new stream')
  t.match(events, [['open'], ['disconnect', { error: { code: 'SILENT' } }], ['resume']])
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
