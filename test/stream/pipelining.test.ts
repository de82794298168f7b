import t from 'tap'
import type { Session } from '../../lib/index.js'
import { serve } from '../support/server.js'
import { openStream } from '../support/stream.js'
import { get, listOpened, streamsOpen, wire } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

t.test('streams that are pipelined over one connection end with the connection', async t => {
  const { sessions, port } = await serve(t)
  const client = wire(t, port, { request: get().repeat(5) })
  await streamsOpen(sessions, 5)
  client.socket.destroy()
  await until(() => sessions.stats().streams === 0, 'the end of the streams')
  t.equal(sessions.size, 5)
})

t.test('a stream that is pipelined after another response starts when that response has ended', async t => {
  const gate = signal()
  const { sessions, port } = await serve(t, {}, { before: app => { app.get('/held', async () => await gate.promise) } })
  const opened = listOpened(sessions)
  const client = wire(t, port, { request: `GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n${get()}` })
  await streamsOpen(sessions, 1)
  await opened[0]?.session.send('from behind')
  t.equal(client.text(), '')
  gate.resolve()
  await client.waitFor('from behind')
  t.match(client.text(), /HTTP\/1.1 200 OK[^]+HTTP\/1.1 200 OK[^]+event: welcome[^]+from behind/)
})

t.test('a stream that is pipelined after another is lost when the first ends and closes the connection', async t => {
  const { sessions, url, port } = await serve(t)
  const opened = listOpened(sessions)
  const lost: Session[] = []
  sessions.addHook('onDisconnect', session => { lost.push(session) })
  const client = wire(t, port, { request: get().repeat(2) })
  await streamsOpen(sessions, 2)
  const [first, second] = opened.map(({ session }) => session)
  await second?.send('from the second')
  await first?.close()
  await within(client.closed, 'the end of the connection')
  await until(() => sessions.stats().streams === 0, 'the end of the streams')
  // Both the response and the connection emit an event; a second report would come by now.
  await new Promise(setImmediate)
  t.ok(lost.length === 1 && lost[0] === second, 'its disconnect is reported once')
  t.notMatch(client.text(), 'from the second')
  const resumed = await openStream(t, url, { headers: { 'last-event-id': `${String(second?.id)}.0` } })
  await resumed.waitFor(({ data }) => data === 'from the second')
})
