import type { ServerResponse } from 'node:http'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { Heartbeat } from '../../lib/stream/heartbeat.js'
import { HEARTBEAT_FRAME } from '../../lib/wire/frame.js'
import { kStream } from '../../lib/sessions/session.js'
import { eventSources } from '../support/eventsources.js'
import { serve, type Served, type ServeOptions } from '../support/server.js'
import { FILL, flood, listOpened, streamsOpen, wire, type Opened } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

const INTERVAL = 1000

/** Serves with an interval that passes, a fifth at a time, when `tick` is called. */
async function serveTicking (t: Test, options: SseSessionsOptions = {}, more: ServeOptions = {}): Promise<Served & { opened: Opened[], tick: (fifths: number) => void }> {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => { mock.timers.reset() })
  const served = await serve(t, { heartbeatInterval: INTERVAL, ...options }, more)
  const tick = (fifths: number): void => { for (let i = 0; i < fifths; i++) mock.timers.tick(INTERVAL / 5) }
  return { ...served, opened: listOpened(served.sessions), tick }
}

t.test('an idle stream gets a comment and one line feed an interval', async t => {
  const { sessions, port, tick } = await serveTicking(t)
  const client = wire(t, port)
  await client.waitFor('event: welcome')
  tick(5)
  await client.waitFor(': heartbeat')
  tick(4)
  await sessions.broadcast('news', 1)
  await client.waitFor('event: news')
  t.match(client.text(), /\n\n: heartbeat\nid: \S+\nevent: news\n/, 'nothing stands between it and the next event')
  tick(4)
  await sessions.broadcast('last', 1)
  await client.waitFor('event: last')
  t.equal(client.text().split(': heartbeat').length - 1, 1, 'a stream that was written to within the interval gets none')
  tick(12)
  await client.waitFor(': heartbeat\n: heartbeat\n')
})

t.test('a stream that is waiting for its client to read is skipped', async t => {
  const { sessions, port, opened, tick } = await serveTicking(t, { log: { bytes: 2 ** 26 } })
  const client = wire(t, port, { stalled: true })
  await streamsOpen(sessions, 1)
  const [{ session }] = opened as [Opened]
  const count = await flood([session], n => session.send({ n, FILL }))
  const { cursor } = session[kStream]
  tick(50)
  client.read()
  await session.emit('last', 1)
  await client.waitFor('event: last')
  t.ok(session[kStream].cursor > cursor, 'it was waiting')
  t.equal(client.numbers().length, count)
  t.notMatch(client.text(), ': heartbeat')
  tick(5)
  await client.waitFor(': heartbeat')
})

t.test('a client that stalls amid heartbeats is waited for from then on', async t => {
  const { sessions, port, opened, tick } = await serveTicking(t, { heartbeatEvent: 'p'.repeat(100_000) })
  wire(t, port, { stalled: true })
  await streamsOpen(sessions, 1)
  const [{ socket }] = opened as [Opened]
  // Each is more than the socket's buffer: the next comes when it is drained.
  await within((async () => {
    for (let still = 0, before = 0; still < 20; before = socket.bytesWritten) {
      tick(5)
      await new Promise(resolve => { setTimeout(resolve, 1) })
      still = socket.bytesWritten === before ? still + 1 : 0
    }
  })(), 'the client to stall')
  t.ok(socket.writableLength < 200_000, 'no more than one heartbeat is queued')
})

t.test('a heartbeat into a response that something else has just ended throws nothing', async t => {
  const responses: ServerResponse[] = []
  const { sessions, port, tick } = await serveTicking(t, {}, { before: app => app.addHook('onRequest', async (_request, { raw }) => { responses.push(raw) }) })
  const client = wire(t, port)
  await client.waitFor('event: welcome')
  responses[0]?.end()
  tick(5)
  await until(() => sessions.stats().streams === 0, 'the end of the stream')
  t.notMatch(client.text(), ': heartbeat')
})

t.test('a named event takes the place of the comment', async t => {
  const { port, tick } = await serveTicking(t, { heartbeatEvent: 'ping' })
  const client = wire(t, port)
  await client.waitFor('event: welcome')
  tick(5)
  await client.waitFor('event: ping\ndata: {}\n\n')
  t.notMatch(client.text(), ': heartbeat')
})

t.test('heartbeats can be turned off', async t => {
  const { sessions, port, tick } = await serveTicking(t, { heartbeatInterval: false })
  const client = wire(t, port)
  await client.waitFor('event: welcome')
  tick(100)
  await sessions.broadcast('news', 1)
  await client.waitFor('event: news')
  t.notMatch(client.text(), 'heartbeat')
})

t.test('a closed server looks for idle streams no more', async t => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => { mock.timers.reset() })
  let looks = 0
  const heartbeat = new Heartbeat(INTERVAL, HEARTBEAT_FRAME, {
    [Symbol.iterator]: () => {
      looks++
      return [].values()
    }
  })
  mock.timers.tick(INTERVAL)
  t.equal(looks, 5)
  heartbeat.stop()
  mock.timers.tick(INTERVAL)
  t.equal(looks, 5)
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} sees nothing of a comment, and all of a named heartbeat`, async t => {
    for (const heartbeatEvent of [undefined, 'ping']) {
      const { sessions, url, tick } = await serveTicking(t, heartbeatEvent === undefined ? {} : { heartbeatEvent })
      const source = open(t, `${url}/downward`)
      const got: string[] = []
      const welcome = signal()
      const last = signal()
      for (const event of ['ping', 'message', 'error', 'last']) source.addEventListener(event, ({ data }) => { got.push(`${event} ${String(data)}`) })
      source.addEventListener('welcome', () => { welcome.resolve() })
      source.addEventListener('last', () => { last.resolve() })
      await within(welcome.promise, 'the welcome')
      tick(11)
      await sessions.broadcast('last', 1)
      await within(last.promise, 'the last event')
      t.strictSame(got, heartbeatEvent === undefined ? ['last 1'] : ['ping {}', 'ping {}', 'last 1'])
      mock.timers.reset()
    }
  })
}
