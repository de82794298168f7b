import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import { eachClient, next, record } from '../support/clients.js'
import { skewClock } from '../support/clock.js'
import { open, scriptedServer, status, stream, welcome } from './support/scripted-server.js'
import { until, within } from '../support/wait.js'

const NEVER = 'retry: 100000\n\n'
const answered = status(200, {}, [{ status: 200, body: 1 }])

/** Stands in for a page, which Node has not: a document and its window to listen to are all that the client asks of one. */
function standIn (t: Test): { document: EventTarget & { hidden: boolean }, window: EventTarget, tell: (name: string, persisted?: boolean) => void } {
  const window = new EventTarget()
  const document = Object.assign(new EventTarget(), { hidden: false, defaultView: window })
  Object.assign(globalThis, { document })
  t.teardown(() => { Reflect.deleteProperty(globalThis, 'document') })
  return {
    document,
    window,
    tell: (name, persisted) => {
      const target = name === 'visibilitychange' ? document : window
      target.dispatchEvent(Object.assign(new Event(name), { persisted }))
    }
  }
}

for (const [event, persisted] of [['online'], ['visibilitychange'], ['pageshow', true]] satisfies Array<[string, boolean?]>) {
  eachClient(t, `${event} ends the wait for the next attempt`, async (t, connect) => {
    const { tell } = standIn(t)
    const server = await scriptedServer(t, [stream(NEVER, welcome()), open(welcome(true))])
    const session = connect(server.url)
    await next(session, 'disconnect')
    const resumed = next(session, 'resume')
    tell(event, persisted)
    await within(resumed, 'the new stream')
  })
}

eachClient(t, 'neither hiding a page nor showing one that was not restored ends the wait, as coming online does', async (t, connect) => {
  const { document, tell } = standIn(t)
  const server = await scriptedServer(t, [stream(NEVER, welcome()), open(welcome(true))])
  let attempts = 0
  const session = connect(server.url, {
    fetch: (url, init) => {
      attempts++
      return fetch(url, init)
    }
  })
  await next(session, 'disconnect')
  const attemptsAfter = async (event: string, persisted?: boolean): Promise<number> => {
    tell(event, persisted)
    await new Promise(setImmediate)
    return attempts
  }
  document.hidden = true
  t.equal(await attemptsAfter('visibilitychange'), 1)
  t.equal(await attemptsAfter('pageshow', false), 1)
  // So one turn is enough to see an attempt.
  t.equal(await attemptsAfter('online'), 2)
})

eachClient(t, 'a server that asked to be left alone for a time is, whatever wakes the page', async (t, connect) => {
  const { tell } = standIn(t)
  const server = await scriptedServer(t, [stream(welcome()), status(503, { 'retry-after': '1' })])
  const session = connect(server.url)
  await next(session, 'error')
  tell('online')
  tell('visibilitychange')
  tell('pageshow', true)
  await next(session, 'close')
  const [, second, third] = server.requests.map(({ at }) => at) as [number, number, number]
  t.ok(third - second >= 995, `${third - second} ms`)
})

eachClient(t, 'a page that wakes gives a stream up that has been silent for 2.5 heartbeats, and no other', async (t, connect) => {
  const { tell } = standIn(t)
  const skew = skewClock(t, Date)
  const server = await scriptedServer(t, [open(NEVER, welcome(false, 's', { heartbeatInterval: 40_000 })), open(welcome(true))], [answered])
  const session = connect(server.url)
  const events = record(session)
  await next(session, 'open')
  skew(99_000)
  tell('online')
  await session.send('by now it would have been told')
  t.strictSame(events.map(([name]) => name), ['open'])
  skew(2000)
  const resumed = next(session, 'resume')
  tell('online')
  await within(resumed, 'the new stream')
  t.match(events, [['open'], ['disconnect', { error: { code: 'SILENT' } }], ['resume']])
})

eachClient(t, 'a page that is restored replaces its stream, which may only look alive', async (t, connect) => {
  const { tell } = standIn(t)
  const server = await scriptedServer(t, [open(welcome()), open(welcome(true))], [answered])
  const session = connect(server.url)
  const events = record(session)
  await next(session, 'open')
  tell('pagehide', true)
  tell('pageshow', false)
  await session.send('by now it would have been told')
  t.strictSame(events.map(([name]) => name), ['open'])
  const resumed = next(session, 'resume')
  tell('pageshow', true)
  await within(resumed, 'the new stream')
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume'])
})

eachClient(t, 'a page that goes ends its session by a request that outlives it, and nothing listens to it any more', async (t, connect) => {
  const { document, window, tell } = standIn(t)
  const server = await scriptedServer(t, [open(welcome())])
  const requests: RequestInit[] = []
  const session = connect(server.url, {
    fetch: (url, init) => {
      requests.push(init)
      return fetch(url, init)
    }
  })
  await next(session, 'open')
  tell('pagehide', false)
  t.equal(session.state, 'closed')
  await until(() => server.requests.length === 2, 'the farewell')
  t.match(server.requests[1], { method: 'DELETE', headers: { 'x-session-id': 's' } })
  t.match(requests, [{ keepalive: undefined }, { keepalive: true }])
  for (const target of [document, window]) {
    for (const event of ['visibilitychange', 'online', 'pageshow', 'pagehide']) t.strictSame(getEventListeners(target, event), [])
  }
})

eachClient(t, 'a document without a window is listened to, too', async (t, connect) => {
  const { document, tell } = standIn(t)
  Object.assign(document, { defaultView: null })
  const server = await scriptedServer(t, [stream(NEVER, welcome()), open(welcome(true))])
  const session = connect(server.url)
  await next(session, 'disconnect')
  const resumed = next(session, 'resume')
  tell('visibilitychange')
  await within(resumed, 'the new stream')
})
