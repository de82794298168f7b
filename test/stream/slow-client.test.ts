import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import t, { type Test } from 'tap'
import type { Session } from '../../lib/index.js'
import type { Order, Report } from './support/measured-server.js'
import { serve, type Served } from '../support/server.js'
import { openStream } from '../support/stream.js'
import { FILL, flood, get, listOpened, numbersIn, streamsOpen, wire, type Wire } from '../support/wire.js'
import { signal, until, within } from '../support/wait.js'

const MEGABYTE = 2 ** 20

t.test('a client that stops reading while 200 MB are sent costs bounded memory, and delays nobody', async t => {
  const server = fork(new URL('./support/measured-server.ts', import.meta.url), { execArgv: [...process.execArgv, '--expose-gc'] })
  t.teardown(() => { server.disconnect() })
  const report = async (): Promise<Report> => (await within(once(server, 'message') as Promise<[Report]>, 'the server', 30_000))[0]
  const first = await report()
  const port = 'port' in first ? first.port : NaN
  const readers = [reader(t, port), reader(t, port)]
  const slow = wire(t, port)
  await Promise.all([...readers, slow].map(({ waitFor }) => waitFor('event: welcome')))
  let sent = 0
  // Few enough at a time for the log to keep them until the readers, who are waited for, have them.
  const burst = async (): Promise<number> => {
    const count = 12
    const order: Order = { send: count, from: sent + 1 }
    const answer = report()
    server.send(order)
    sent += count
    const got = await answer
    await until(() => readers.every(({ last }) => last() === sent), `the readers to have ${sent}`, 20_000)
    return 'memory' in got ? got.memory : NaN
  }
  // Warm up while everybody reads.
  let before = 0
  while (sent * FILL.length < 10 * MEGABYTE) before = Math.max(before, await burst())
  await until(() => numbersIn(slow.text().slice(-2 * FILL.length)).includes(sent), 'the slow client')
  slow.socket.pause()
  const received = slow.socket.bytesRead
  let most = 0
  while (sent * FILL.length < 210 * MEGABYTE) most = Math.max(most, await burst())
  t.ok(most - before < 64 * MEGABYTE, `the server grew by ${Math.round((most - before) / MEGABYTE)} MB`)
  t.strictSame(readers.map(({ problems }) => problems), [[], []], 'the others got everything, in order')
  t.ok(slow.socket.bytesRead - received < MEGABYTE, 'while the slow one had not read on')
  // What the log has kept comes, and what it has not is told, each number in the one way or the other.
  slow.socket.resume()
  await slow.waitFor(`data: {"n":${sent},`)
  const told = slow.numbers()
  const gaps = Array.from(slow.text().matchAll(/^event: gap\n.*\ndata: (.*)$/gm), ([, data]) => JSON.parse(String(data)) as { after: number, resumedAt: number })
  for (const { after, resumedAt } of gaps) told.push(...Array.from({ length: resumedAt - after }, (_, i) => after + i + 1))
  told.sort((a, b) => a - b)
  t.ok(gaps.length > 0)
  t.equal(told.findIndex((n, index) => n !== index + 1), -1)
  t.equal(told.length, sent)
})

/** Reads, and forgets what it has checked. */
function reader (t: Test, port: number): Wire & { readonly last: () => number, readonly problems: string[] } {
  const client = wire(t, port, { forgets: true })
  const problems: string[] = []
  let last = 0
  let rest = ''
  client.socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line.startsWith('event: gap')) problems.push(`a gap came after ${last}`)
      if (!line.startsWith('data: {"n":')) continue
      const { n, FILL: { length } } = JSON.parse(line.slice(6)) as { n: number, FILL: string }
      if (n !== last + 1 || length !== FILL.length) problems.push(`${n} with ${length} characters came after ${last}`)
      last = n
    }
  })
  return { ...client, last: () => last, problems }
}

interface Stalled extends Served {
  readonly session: Session
  readonly client: Wire
  /** How many messages were sent until the client took no more. */
  readonly sent: number
}

/** Serves a client that does not read, whose log keeps all it was sent. */
async function serveStalled (t: Test): Promise<Stalled> {
  const served = await serve(t, { log: { bytes: 2 ** 26 } })
  const opened = listOpened(served.sessions)
  const client = wire(t, served.port, { stalled: true })
  await streamsOpen(served.sessions, 1)
  const [{ session }] = opened as [typeof opened[0]]
  return { ...served, session, client, sent: await flood([session], n => session.send({ n, FILL })) }
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1)

t.test('a parked client that reads on gets from the log all that it has missed, and then what is new', async t => {
  const { session, client, sent } = await serveStalled(t)
  for (let n = 1; n <= 50; n++) await session.send({ n: sent + n })
  client.read()
  await client.waitFor(`data: {"n":${sent + 50}}`)
  await session.send({ n: sent + 51 })
  await client.waitFor(`data: {"n":${sent + 51}}`)
  t.strictSame(client.numbers(), upTo(sent + 51))
  t.notMatch(client.text(), 'event: gap')
})

t.test('with a stalled client send, emit, stream and close settle, and it gets everything with the end', async t => {
  const { sessions, session, client, sent } = await serveStalled(t)
  await within(session.send({ n: sent + 1 }), 'send')
  await within(session.emit('message', { n: sent + 2 }), 'emit')
  await within(session.stream('message', [{ n: sent + 3 }]), 'stream')
  await within(session.close('done'), 'close')
  t.ok(session.closed)
  await t.rejects(within(session.send({ n: 0 }), 'send'), { code: 'FST_SSE_SESSION_OVER' })
  client.read()
  await client.waitFor('event: close\nid: closed\ndata: {"reason":"done"}\n\n')
  t.strictSame(client.numbers(), upTo(sent + 3))
  await until(() => sessions.stats().streams === 0, 'the end of the stream')
})

t.test('a client that comes back while its stalled stream stands takes over at once', async t => {
  const { sessions, session, url, client, sent } = await serveStalled(t)
  const again = await openStream(t, url, { headers: { 'last-event-id': `${session.id}.${(sent - 10).toString(36)}` } })
  await again.waitFor(({ data }) => (data as { n?: number }).n === sent)
  t.strictSame(numbersIn(again.raw()), upTo(sent).slice(-10))
  client.read()
  await within(client.closed, 'the end of the first connection')
  t.notMatch(client.text(), /event: (close|replaced)/, 'it is cut, not ended behind a backlog')
  t.equal(sessions.stats().streams, 1)
  t.ok(session.connected)
})

for (const state of ['stalled', 'reading', 'replaced', 'closing'] as const) {
  t.test(`a ${state} client may vanish at any moment: nothing throws, send and close settle, nothing is written`, async t => {
    const stray: unknown[] = []
    const note = (error: unknown): void => { stray.push(error) }
    for (const event of ['uncaughtException', 'unhandledRejection']) {
      process.on(event, note)
      t.teardown(() => { process.off(event, note) })
    }
    const { sessions, port } = await serve(t)
    const opened = listOpened(sessions)
    const lost: string[] = []
    let resumed = 0
    sessions.addHook('onDisconnect', ({ id }) => { lost.push(id) })
    sessions.addHook('onResume', () => { resumed++ })
    const clients = Array.from({ length: 30 }, () => wire(t, port, { stalled: state !== 'reading' }))
    await streamsOpen(sessions, 30)
    const all = opened.map(({ session }) => session)
    if (state === 'stalled') await flood(all, () => sessions.broadcast('fill', FILL))
    if (state === 'closing') for (const session of all) await session.close()
    if (state === 'replaced') {
      for (const { id } of all) clients.push(wire(t, port, { stalled: true, headers: { 'x-session-id': id } }))
      await until(() => resumed === 30 && sessions.stats().streams === 30, 'the second streams')
    }
    const settled: Array<Promise<void>> = []
    for (const [index, { socket }] of clients.entries()) {
      // In the same turn as writes, between them, and by every kind of end.
      settled.push(sessions.broadcast('fill', FILL))
      if (index % 3 === 0) socket.resetAndDestroy()
      else if (index % 3 === 1) socket.destroy()
      else socket.end().destroySoon()
      if (index % 2 === 0) await new Promise(setImmediate)
      settled.push(...all.slice(index % 30, index % 30 + 1).map(session => session.send(FILL)))
    }
    await within(Promise.allSettled(settled), 'what was sent')
    await until(() => sessions.stats().streams === 0, 'the loss of every stream')
    const written = opened.map(({ socket }) => socket.bytesWritten)
    await sessions.broadcast('fill', FILL)
    for (const session of all) {
      if (state !== 'closing') await within(session.send(FILL), 'send')
      await within(session.close(), 'close')
    }
    await new Promise(setImmediate)
    t.strictSame(opened.map(({ socket }) => socket.bytesWritten), written)
    t.strictSame(lost.sort(), state === 'closing' ? [] : all.map(({ id }) => id).sort(), 'each loss is told once')
    t.strictSame(stray, [])
  })
}

t.test('an app that ends the response under its stream loses the stream, and nothing else', async t => {
  const responses: ServerResponse[] = []
  const { sessions, url } = await serve(t, {}, { before: app => app.addHook('onRequest', async (_request, { raw }) => { responses.push(raw) }) })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  responses[0]?.end()
  await session?.send('one')
  await within(stream.ended, 'the end of the stream')
  await until(() => session?.connected === false, 'the loss to be noticed')
  const again = await openStream(t, url, { headers: { 'last-event-id': String(stream.events[0]?.id) } })
  await again.waitFor(({ data }) => data === 'one')
})

t.test('streams that are pipelined over one connection end with it', async t => {
  const { sessions, port } = await serve(t)
  const client = wire(t, port, { request: get().repeat(5) })
  await streamsOpen(sessions, 5)
  client.socket.destroy()
  await until(() => sessions.stats().streams === 0, 'the end of the streams')
  t.equal(sessions.size, 5)
})

t.test('a stream that is pipelined behind another response begins when that has ended', async t => {
  const held = signal()
  const { sessions, port } = await serve(t, {}, { before: app => { app.get('/held', async () => await held.promise) } })
  const opened = listOpened(sessions)
  const client = wire(t, port, { request: `GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n${get()}` })
  await streamsOpen(sessions, 1)
  await opened[0]?.session.send('from behind')
  t.equal(client.text(), '')
  held.resolve()
  await client.waitFor('from behind')
  t.match(client.text(), /HTTP\/1.1 200 OK[^]+HTTP\/1.1 200 OK[^]+event: welcome[^]+from behind/)
})

t.test('a stream that is pipelined behind another is lost with the connection, which ends with the first', async t => {
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
  // Both the response and its connection tell.
  await new Promise(setImmediate)
  t.ok(lost.length === 1 && lost[0] === second, 'its loss is told once')
  t.notMatch(client.text(), 'from the second')
  const again = await openStream(t, url, { headers: { 'last-event-id': `${String(second?.id)}.0` } })
  await again.waitFor(({ data }) => data === 'from the second')
})
