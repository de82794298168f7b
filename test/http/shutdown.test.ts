import { once } from 'node:events'
import { connect } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import sseSessions, { type Session, type SseSessionsOptions } from '../../lib/index.js'
import { eventSources } from '../support/eventsources.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { FILL, flood, listOpened, streamsOpen, wire } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

const FAREWELL = /\n\nretry: (\d+)\n\n$/

/** How long the farewell tells a client to wait; undefined where it did not come, or not as the last thing before the body's end. */
const farewell = (text: string): number => Number(FAREWELL.exec(text)?.[1])

t.test('close() with 1,000 open streams, twenty of them stalled behind a backlog, ends within the grace', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 1500, retry: 10 })
  const opened = listOpened(sessions)
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  sessions.addHook('onOpen', async (session, { headers }) => { if (headers['x-stalled'] !== undefined) await session.join('stalled') })
  const readers = Array.from({ length: 980 }, () => wire(t, port))
  await streamsOpen(sessions, 980)
  for (let i = 0; i < 20; i++) wire(t, port, { stalled: true, headers: { 'X-Stalled': '1' } })
  await streamsOpen(sessions, 1000)
  const stalled = opened.filter(({ request }) => request.headers['x-stalled'] !== undefined)
  await flood(stalled.map(({ session }) => session), () => sessions.channel('stalled').send(FILL))
  await sessions.broadcast('last', 1)
  await within(app.close(), 'close()', 1500 + 5000)
  await within(Promise.all(readers.map(({ closed }) => closed)), 'the end of every connection')
  t.equal(readers.filter(({ text }) => text().includes('event: last') && farewell(text()) === 1510).length, 980, 'every reader got what was sent last, and the farewell')
  t.ok(stalled.every(({ socket }) => socket.destroyed), 'the stalled ones were cut')
  t.strictSame(reasons, Array(1000).fill('shutdown'))
  await until(() => sessions.stats().streams === 0, 'the end of every stream')
  t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
})

t.test('the grace is not waited out when every client takes what it gets', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 9500 })
  for (let i = 0; i < 50; i++) wire(t, port)
  await streamsOpen(sessions, 50)
  await within(app.close(), 'close()', 6000)
})

t.test('connections over which nothing was asked, such as clients keep ready, do not keep close()', async t => {
  const { app, port } = await serve(t)
  const sockets = Array.from({ length: 5 }, () => connect(port, '127.0.0.1').on('error', () => {}))
  t.teardown(() => { for (const socket of sockets) socket.destroy() })
  let accepted = 0
  app.server.on('connection', () => { accepted++ })
  await until(() => accepted === 5, 'the connections')
  await within(app.close(), 'close()', 5000)
  await Promise.all(sockets.map(async socket => { if (!socket.destroyed) await within(once(socket, 'close'), 'the end of a connection') }))
})

t.test('a backlog that fits the grace arrives whole, and the farewell behind it', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 9500, retry: [1000, 2000], log: { bytes: 2 ** 26 } })
  const opened = listOpened(sessions)
  const client = wire(t, port, { stalled: true })
  await streamsOpen(sessions, 1)
  const [{ session }] = opened as [typeof opened[0]]
  const count = await flood([session], n => session.send({ n, FILL }))
  const closing = app.close()
  client.read()
  await within(client.closed, 'the end of the connection')
  t.strictSame(client.numbers(), Array.from({ length: count }, (_, i) => i + 1))
  const retry = farewell(client.text())
  t.ok(retry >= 10_500 && retry <= 11_500, `the client is told to stay away longer than the grace: ${retry}`)
  t.notMatch(client.text(), 'event: close')
  await within(closing, 'close()')
})

t.test('the graces of several registrations run at once', async t => {
  const closeTimeout = 9500
  const { app, sessions, url, port } = await serve(t, { closeTimeout }, {
    after: app => app.register(sseSessions, { prefix: '/other', decorator: 'others', closeTimeout })
  })
  const opened = listOpened(sessions)
  const stalled = wire(t, port, { stalled: true })
  await streamsOpen(sessions, 1)
  await flood(opened.map(({ session }) => session), () => sessions.broadcast('fill', FILL))
  const other = await openStream(t, url, { path: '/other/downward' })
  const closing = app.close()
  await within(other.ended, 'the end of the stream that nothing holds up', 5000)
  t.equal(sessions.stats().streams, 1, 'the stalled one still has its time')
  stalled.read()
  await within(closing, 'close()')
})

t.test('a grace of no time cuts a stalled stream at once', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 0 })
  const opened = listOpened(sessions)
  wire(t, port, { stalled: true })
  await streamsOpen(sessions, 1)
  await flood(opened.map(({ session }) => session), () => sessions.broadcast('fill', FILL))
  await within(app.close(), 'close()', 5000)
  t.ok(opened[0]?.socket.destroyed)
})

t.test('a grace of no time is time enough for many clients that take what they get', async t => {
  const { app, sessions, port } = await serve(t, { closeTimeout: 0, retry: 10 })
  const clients = Array.from({ length: 300 }, () => wire(t, port))
  await streamsOpen(sessions, 300)
  sessions.broadcast('last', 1)
  await within(app.close(), 'close()', 5000)
  await within(Promise.all(clients.map(({ closed }) => closed)), 'the end of every connection')
  t.equal(clients.filter(({ text }) => text().includes('event: last') && farewell(text()) === 10).length, 300)
})

t.test('sessions, connected or not, end with their signal aborted and the reason shutdown', async t => {
  const { app, sessions, url } = await serve(t)
  const opened: Session[] = []
  const signals = new Map<Session, AbortSignal>()
  const closed: Array<[string, string, boolean | undefined]> = []
  sessions.addHook('onOpen', session => {
    opened.push(session)
    signals.set(session, session.signal)
  })
  sessions.addHook('onClose', (session, reason) => { closed.push([session.id, reason, signals.get(session)?.aborted]) })
  await openStream(t, url)
  const gone = await openStream(t, url)
  const [first, second] = opened as [Session, Session]
  t.notOk(signals.get(first)?.aborted)
  gone.destroy()
  await until(() => !second.connected, 'the loss of the stream')
  await within(app.close(), 'close()')
  t.strictSame(closed, [[first.id, 'shutdown', true], [second.id, 'shutdown', true]])
  t.match(signals.get(first)?.reason, { code: 'FST_SSE_SESSION_OVER' })
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} comes back to the restarted server`, async t => {
    const options = { closeTimeout: 500, retry: 10 }
    const { app, url, port } = await serve(t, options)
    const source = open(t, `${url}/downward`)
    const welcomes: Array<{ sessionId: string, previous?: string }> = []
    const back = signal()
    const first = signal()
    let closes = 0
    source.addEventListener('close', () => { closes++ })
    source.addEventListener('welcome', ({ data }) => {
      if (welcomes.push(JSON.parse(String(data)) as { sessionId: string }) === 1) first.resolve()
      else back.resolve()
    })
    await within(first.promise, 'the welcome')
    await within(app.close(), 'close()')
    const restarted = Fastify()
    t.teardown(() => restarted.close())
    await restarted.register(sseSessions, options)
    await restarted.listen({ port, host: '127.0.0.1' })
    await within(back.promise, 'the welcome of the restarted server')
    t.equal(welcomes[1]?.previous, 'unknown')
    t.not(welcomes[1]?.sessionId, welcomes[0]?.sessionId)
    t.equal(closes, 0)
  })
}

/** Serves an app whose close() does not go on after the plugin's part until `release` is called. */
async function serveHeld (t: Test, options: SseSessionsOptions = {}): Promise<Awaited<ReturnType<typeof serve>> & { reached: Promise<void>, release: () => void }> {
  const held = signal()
  const reached = signal()
  const after = (app: FastifyInstance): void => {
    app.addHook('preClose', () => {
      reached.resolve()
      return held.promise
    })
  }
  return { ...await serve(t, options, { fastify: { return503OnClosing: false }, after }), reached: within(reached.promise, 'close() to get that far'), release: () => { held.resolve() } }
}

t.test('who comes while the server closes is told to come later, in a way that a native EventSource survives', async t => {
  const { app, sessions, url, reached, release } = await serveHeld(t, { closeTimeout: 700, retry: 10 })
  const { sessionId, events: [welcome] } = await openStream(t, url)
  const closing = app.close()
  await reached
  for (const headers of [{}, { 'last-event-id': String(welcome?.id) }, { 'x-session-id': sessionId }]) {
    const { status, headers: got, raw, ended } = await openStream(t, url, { headers, raw: true })
    await within(ended, 'the end of the response')
    t.equal(status, 200)
    t.match(got['content-type'], /^text\/event-stream/)
    t.equal(raw(), 'retry: 710\n\n')
  }
  const refusal = { statusCode: 503, code: 'FST_SSE_CLOSING' }
  const answer = await post(url, sessionId, { text: 'hi' })
  t.match(answer, { status: 503, headers: { 'retry-after': '1' }, body: refusal })
  const deletion = await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId } })
  t.match(deletion, { statusCode: 503, headers: { 'retry-after': '1' } })
  t.match(await deletion.body.json(), refusal)
  t.equal(sessions.size, 0)
  release()
  await within(closing, 'close()')
})

for (const where of ['principal', 'onOpen', 'onSend', 'onResume']) {
  t.test(`a stream whose ${where} is still running when close() begins does not keep the server`, async t => {
    const asked = signal()
    const hold = signal()
    let armed = false
    const holdIn = (place: string) => async () => {
      if (place !== where || !armed) return
      asked.resolve()
      await hold.promise
    }
    const { app, sessions, url } = await serve(t, {
      closeTimeout: 300,
      retry: 10,
      principal: async () => {
        await holdIn('principal')()
        return 'somebody'
      },
      routes: { downward: { onSend: holdIn('onSend') } }
    })
    const told: string[] = []
    sessions.addHook('onOpen', () => { told.push('open') })
    sessions.addHook('onOpen', holdIn('onOpen'))
    sessions.addHook('onResume', holdIn('onResume'))
    sessions.addHook('onClose', (_session, reason) => { told.push(reason) })
    const first = where === 'onResume' ? await openStream(t, url) : undefined
    armed = true
    const coming = openStream(t, url, { raw: true, headers: first === undefined ? {} : { 'x-session-id': first.sessionId } })
    await within(asked.promise, 'the request')
    const closing = app.close()
    await until(() => sessions.closing, 'close() to begin')
    hold.resolve()
    const { status, raw, ended } = await within(coming, 'the response')
    await within(ended, 'the end of the response')
    t.equal(status, 200)
    t.equal(raw(), 'retry: 310\n\n')
    await within(closing, 'close()')
    t.strictSame(told, ['open', 'shutdown'])
    t.strictSame(sessions.stats(), { sessions: 0, streams: 0, channels: 0 })
  })
}
