import t from 'tap'
import { testEachClient, waitForEvent, recordEvents } from '../support/clients.js'
import { skewClock } from '../support/clock.js'
import { matchList } from '../support/match-list.js'
import { deferred, withTimeout } from '../support/wait.js'
import { openStream, respond, scriptedServer, startStream, welcome } from './support/scripted-server.js'

const stale = respond(200, { 'x-session-connected': 'false' }, [{ status: 200, body: 1 }])

testEachClient(t, 'X-Session-Connected: false replaces the stream at once', async (t, connect) => {
  const skew = skewClock(t, Date)
  const server = await scriptedServer(t, [openStream('retry: 100000\n\n', welcome()), openStream(welcome(true))], [stale])
  const session = connect(server.url)
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  skew(100_000)
  const resumed = waitForEvent(session, 'resume')
  t.equal(await session.request('a', 1), 1)
  await withTimeout(resumed, 'the new stream')
  matchList(t, events, [['open', {}], ['disconnect', { error: { code: 'SILENT' } }], ['resume', {}]])
})

testEachClient(t, 'a stream that is stale right after it opened is replaced after the retry delay', async (t, connect) => {
  const server = await scriptedServer(t, [openStream('retry: 300\n\n', welcome()), openStream(welcome(true))], [stale])
  // Measured in the client, because a request may arrive late at the server.
  const sentAt: number[] = []
  const session = connect(server.url, {
    fetch: (url, init) => {
      if (init.method !== 'POST') sentAt.push(performance.now())
      return fetch(url, init)
    }
  })
  const resumed = waitForEvent(session, 'resume')
  await session.request('a', 1)
  await resumed
  const [first, second] = sentAt as [number, number]
  t.ok(second - first >= 295, `${second - first} ms`)
})

testEachClient(t, 'ignores X-Session-Connected: false while it reconnects, and X-Session-Connected: true', async (t, connect) => {
  const posted = deferred()
  const requested = deferred()
  const released = deferred()
  const server = await scriptedServer(t, [
    async response => {
      await startStream(response, welcome())
      await posted.promise
      response.end()
    },
    async response => {
      requested.resolve()
      await released.promise
      await startStream(response, welcome(true))
    }
  ], [async (response, body) => {
    posted.resolve()
    await requested.promise
    await stale(response, body)
  }, respond(200, { 'x-session-connected': 'true' }, [{ status: 200, body: 2 }])])
  const session = connect(server.url)
  const events = recordEvents(session)
  const resumed = waitForEvent(session, 'resume')
  t.equal(await withTimeout(session.request('a', 1), 'the response'), 1)
  released.resolve()
  await resumed
  t.equal(await session.request('a', 2), 2)
  await session.close()
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume', 'close'])
  t.equal(server.requests.filter(({ method }) => method === 'GET').length, 2)
})
