import t from 'tap'
import { eachClient, next, record } from '../support/clients.js'
import { skewClock } from '../support/clock.js'
import { begin, echo, open, scriptedServer, status, stream, welcome } from './support/scripted-server.js'
import { signal, within } from '../support/wait.js'

const stale = status(200, { 'x-session-connected': 'false' }, [{ status: 200, body: 1 }])

eachClient(t, 'X-Session-Connected: false has the stream replaced at once', async (t, connect) => {
  const skew = skewClock(t, Date)
  const server = await scriptedServer(t, [open('retry: 100000\n\n', welcome()), open(welcome(true))], [stale])
  const session = connect(server.url)
  const events = record(session)
  await next(session, 'open')
  skew(100_000)
  const resumed = next(session, 'resume')
  t.equal(await session.request('a', 1), 1)
  await within(resumed, 'the new stream')
  t.match(events, [['open'], ['disconnect', { error: { code: 'SILENT' } }], ['resume']])
})

eachClient(t, 'a stream that is given up as soon as it was had is not replaced before the server\'s retry has passed', async (t, connect) => {
  const server = await scriptedServer(t, [open('retry: 300\n\n', welcome()), open(welcome(true))], [stale])
  // As the client counts: a request may be long on its way.
  const begun: number[] = []
  const session = connect(server.url, {
    fetch: (url, init) => {
      if (init.method !== 'POST') begun.push(performance.now())
      return fetch(url, init)
    }
  })
  const resumed = next(session, 'resume')
  await session.request('a', 1)
  await resumed
  const [first, second] = begun as [number, number]
  t.ok(second - first >= 295, `${second - first} ms`)
})

eachClient(t, 'X-Session-Connected is nothing new to a client whose stream is coming, or there', async (t, connect) => {
  const asked = signal()
  const answered = signal()
  const server = await scriptedServer(t, [
    stream(welcome()),
    async response => {
      asked.resolve()
      await answered.promise
      await begin(response, welcome(true))
    }
  ], [stale, status(200, { 'x-session-connected': 'true' }, [{ status: 200, body: 2 }])])
  const session = connect(server.url)
  const events = record(session)
  const resumed = next(session, 'resume')
  await within(asked.promise, 'the next attempt')
  t.equal(await session.request('a', 1), 1)
  answered.resolve()
  await resumed
  t.equal(await session.request('a', 2), 2)
  await session.close()
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume', 'close'])
  t.equal(server.requests.filter(({ method }) => method === 'GET').length, 2)
})

eachClient(t, 'an answer that comes when there is a new stream is none: the message is sent again', async (t, connect) => {
  const posted = signal()
  const late = signal<unknown>()
  const server = await scriptedServer(t, [
    async response => {
      await begin(response, welcome())
      await posted.promise
      response.end()
    },
    open(welcome(true))
  ], [echo])
  let posts = 0
  const session = connect(server.url, {
    fetch: async (url, init) => {
      if (init.method !== 'POST' || posts++ > 0) return await fetch(url, init)
      posted.resolve()
      return Object.assign(new Response(null, { headers: { 'x-session-connected': 'false' } }), { json: () => late.promise })
    }
  })
  const resumed = next(session, 'resume')
  const answer = session.request('a', 1)
  await resumed
  late.resolve([{ status: 200, body: 'late' }])
  t.equal(await within(answer, 'the answer'), 1)
  await session.close()
  t.strictSame(server.requests.map(({ method }) => method), ['GET', 'GET', 'POST', 'DELETE'])
})
