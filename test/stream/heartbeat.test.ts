import type { ServerResponse } from 'node:http'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { Heartbeat } from '../../lib/stream/heartbeat.js'
import type { StreamWriter } from '../../lib/stream/stream-writer.js'
import { HEARTBEAT_FRAME } from '../../lib/wire/frame.js'
import { kInternals } from '../../lib/sessions/session.js'
import { freezeClock } from '../support/clock.js'
import { eventSources } from '../support/event-sources.js'
import { serve, type TestServer, type ServeOptions } from '../support/server.js'
import { PADDING, sendUntilStalled, recordOpenedSessions, waitForStreams, openRawClient, type OpenedSession } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const INTERVAL = 1000

/** Serves with a mocked heartbeat interval. `tick` advances it by so many fifths. */
async function serveWithMockedInterval (t: Test, options: SseSessionsOptions = {}, serveOptions: ServeOptions = {}): Promise<TestServer & { opened: OpenedSession[], tick: (fifths: number) => void }> {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => { mock.timers.reset() })
  const served = await serve(t, { heartbeatInterval: INTERVAL, ...options }, serveOptions)
  const tick = (fifths: number): void => { for (let i = 0; i < fifths; i++) mock.timers.tick(INTERVAL / 5) }
  return { ...served, opened: recordOpenedSessions(served.sessions), tick }
}

t.test('sends a comment and a blank line per interval to an idle stream', async t => {
  const { sessions, port, tick } = await serveWithMockedInterval(t)
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  tick(5)
  await client.waitFor(': heartbeat')
  tick(4)
  await sessions.broadcast('news', 1)
  await client.waitFor('event: news')
  t.match(client.text(), /\n\n: heartbeat\n\nid: \S+\nevent: news\n/, 'the heartbeat is a block of its own')
  tick(4)
  await sessions.broadcast('last', 1)
  await client.waitFor('event: last')
  t.equal(client.text().split(': heartbeat').length - 1, 1, 'a stream that was written to within the interval receives no heartbeat')
  tick(12)
  await client.waitFor(': heartbeat\n\n: heartbeat\n\n')
})

// A simple reader handles a chunk when it contains a blank line, and would wait for ever for a chunk without one.
t.test('ends every chunk with a blank line, also that of a heartbeat', async t => {
  const { sessions, url, tick } = await serveWithMockedInterval(t)
  const response = await fetch(`${url}/downward`)
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  t.teardown(() => reader.cancel())
  const readChunk = async (): Promise<string> => new TextDecoder().decode((await withTimeout(reader.read(), 'a chunk')).value)
  t.match(await readChunk(), /^retry: \d+\nevent: welcome\n[^]*\n\n$/)
  for (let i = 0; i < 2; i++) {
    tick(5)
    t.equal(await readChunk(), ': heartbeat\n\n')
    await sessions.broadcast('news', i)
    t.match(await readChunk(), /^id: \S+\nevent: news\ndata: \d\n\n$/)
  }
})

t.test('sends no heartbeat to a stream that waits for its client to read', async t => {
  const { sessions, port, opened, tick } = await serveWithMockedInterval(t, { log: { bytes: 2 ** 26 } })
  const client = openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  const [{ session }] = opened as [OpenedSession]
  const count = await sendUntilStalled([session], n => session.send({ n, padding: PADDING }))
  const { cursor } = session[kInternals]
  tick(50)
  client.read()
  await session.emit('last', 1)
  await client.waitFor('event: last')
  t.ok(session[kInternals].cursor > cursor, 'the stream was waiting')
  t.equal(client.numbers().length, count)
  t.notMatch(client.text(), ': heartbeat')
  tick(5)
  await client.waitFor(': heartbeat')
})

t.test('stops sending heartbeats to a client that stalls while it receives them', async t => {
  const { sessions, port, opened, tick } = await serveWithMockedInterval(t, { heartbeatEvent: 'p'.repeat(100_000) })
  openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  const [{ socket }] = opened as [OpenedSession]
  // Each heartbeat exceeds the high-water mark of the socket, so the next one waits for a drain.
  await withTimeout((async () => {
    for (let unchanged = 0, before = 0; unchanged < 20; before = socket.bytesWritten) {
      tick(5)
      await new Promise(resolve => { setTimeout(resolve, 1) })
      unchanged = socket.bytesWritten === before ? unchanged + 1 : 0
    }
  })(), 'the client to stall')
  t.ok(socket.bytesWritten > 100_000, 'heartbeats were written')
  t.ok(socket.writableLength < 200_000, 'no more than one heartbeat is queued')
})

t.test('a heartbeat to a response that the app has ended throws no error', async t => {
  const responses: ServerResponse[] = []
  const { sessions, port, tick } = await serveWithMockedInterval(t, {}, { beforeRegister: app => app.addHook('onRequest', async (_request, { raw }) => { responses.push(raw) }) })
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  responses[0]?.end()
  tick(5)
  await waitUntil(() => sessions.stats().streams === 0, 'the end of the stream')
  t.notMatch(client.text(), ': heartbeat')
})

t.test('sends a named event instead of the comment if heartbeatEvent is set', async t => {
  const { port, tick } = await serveWithMockedInterval(t, { heartbeatEvent: 'ping' })
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  tick(5)
  await client.waitFor('event: ping\ndata: {}\n\n')
  t.notMatch(client.text(), ': heartbeat')
})

t.test('sends no heartbeats if heartbeatInterval is false', async t => {
  const { sessions, port, tick } = await serveWithMockedInterval(t, { heartbeatInterval: false })
  const client = openRawClient(t, port)
  await client.waitFor('event: welcome')
  tick(100)
  await sessions.broadcast('news', 1)
  await client.waitFor('event: news')
  t.notMatch(client.text(), 'heartbeat')
})

t.test('a stopped heartbeat does not check for idle streams any more', async t => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => { mock.timers.reset() })
  let checks = 0
  const heartbeat = new Heartbeat(INTERVAL, HEARTBEAT_FRAME, {
    [Symbol.iterator]: () => {
      checks++
      return [].values()
    }
  })
  mock.timers.tick(INTERVAL)
  t.equal(checks, 5)
  heartbeat.stop()
  mock.timers.tick(INTERVAL)
  t.equal(checks, 5)
})

t.test('many heartbeats are written in slices of time, and other work runs between them', async t => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => { mock.timers.reset() })
  const advance = freezeClock(t)
  let written = 0
  const streams = Array.from({ length: 40 }, () => ({
    idleChecks: 4,
    writeHeartbeat () {
      this.idleChecks = 0
      written++
      advance(1)
    }
  }))
  const heartbeat = new Heartbeat(INTERVAL, HEARTBEAT_FRAME, streams as unknown as StreamWriter[])
  mock.timers.tick(INTERVAL / 5)
  t.equal(written, 16)
  mock.timers.tick(INTERVAL / 5)
  t.equal(written, 16, 'a tick does not start a second round while the first is not done')
  await nextEventLoopTick()
  t.equal(written, 32)
  await nextEventLoopTick()
  t.equal(written, 40)
  for (let i = 0; i < 5; i++) mock.timers.tick(INTERVAL / 5)
  t.equal(written, 56)
  heartbeat.stop()
  await nextEventLoopTick()
  t.equal(written, 56, 'a stopped heartbeat writes no more')
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} ignores a comment and receives a named heartbeat`, async t => {
    for (const heartbeatEvent of [undefined, 'ping']) {
      const { sessions, url, tick } = await serveWithMockedInterval(t, heartbeatEvent === undefined ? {} : { heartbeatEvent })
      const source = open(t, `${url}/downward`)
      const received: string[] = []
      const welcome = deferred()
      const last = deferred()
      for (const event of ['ping', 'message', 'error', 'last']) source.addEventListener(event, ({ data }) => { received.push(`${event} ${String(data)}`) })
      source.addEventListener('welcome', () => { welcome.resolve() })
      source.addEventListener('last', () => { last.resolve() })
      await withTimeout(welcome.promise, 'the welcome')
      tick(11)
      await sessions.broadcast('last', 1)
      await withTimeout(last.promise, 'the last event')
      t.strictSame(received, heartbeatEvent === undefined ? ['last 1'] : ['ping {}', 'ping {}', 'last 1'])
      mock.timers.reset()
    }
  })
}
