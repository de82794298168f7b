import { fork } from 'node:child_process'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import type { Session } from '../../lib/index.js'
import type { Command, Report } from './support/measured-server.js'
import { serve, type Served } from '../support/server.js'
import { openStream } from '../support/stream.js'
import { FILL, flood, listOpened, numbersIn, streamsOpen, wire, type Wire } from '../support/wire.js'
import { until, within } from '../support/wait.js'

const MEGABYTE = 2 ** 20

t.test('a client that stops reading while 200 MB are sent takes bounded memory and does not delay others', async t => {
  const server = fork(new URL('./support/measured-server.ts', import.meta.url), { execArgv: [...process.execArgv, '--expose-gc'] })
  t.teardown(() => { server.disconnect() })
  const nextReport = async (): Promise<Report> => (await within(once(server, 'message') as Promise<[Report]>, 'the server', 30_000))[0]
  const first = await nextReport()
  const port = 'port' in first ? first.port : NaN
  const readers = [openReader(t, port), openReader(t, port)]
  const slow = wire(t, port)
  await Promise.all([...readers, slow].map(({ waitFor }) => waitFor('event: welcome')))
  let sent = 0
  // The log keeps all messages of a burst, and the test waits until the readers have them.
  const burst = async (): Promise<number> => {
    const count = 12
    const command: Command = { send: count, from: sent + 1 }
    const reply = nextReport()
    server.send(command)
    sent += count
    const result = await reply
    await until(() => readers.every(({ last }) => last() === sent), `the readers to receive ${sent}`, 20_000)
    return 'memory' in result ? result.memory : NaN
  }
  // Warm up while all clients read.
  let before = 0
  while (sent * FILL.length < 10 * MEGABYTE) before = Math.max(before, await burst())
  await until(() => numbersIn(slow.text().slice(-2 * FILL.length)).includes(sent), 'the slow client')
  slow.socket.pause()
  const received = slow.socket.bytesRead
  let peak = 0
  while (sent * FILL.length < 210 * MEGABYTE) peak = Math.max(peak, await burst())
  t.ok(peak - before < 64 * MEGABYTE, `the memory of the server grew by ${Math.round((peak - before) / MEGABYTE)} MB`)
  t.strictSame(readers.map(({ problems }) => problems), [[], []], 'the other clients received everything in order')
  t.ok(slow.socket.bytesRead - received < MEGABYTE, 'the slow client did not read meanwhile')
  // Each number is either received or reported in a gap.
  slow.socket.resume()
  await slow.waitFor(`data: {"n":${sent},`)
  const accounted = slow.numbers()
  const gaps = Array.from(slow.text().matchAll(/^event: gap\n.*\ndata: (.*)$/gm), ([, data]) => JSON.parse(String(data)) as { after: number, resumedAt: number })
  for (const { after, resumedAt } of gaps) accounted.push(...Array.from({ length: resumedAt - after }, (_, i) => after + i + 1))
  accounted.sort((a, b) => a - b)
  t.ok(gaps.length > 0)
  t.equal(accounted.findIndex((n, index) => n !== index + 1), -1)
  t.equal(accounted.length, sent)
})

/** Opens a client that checks what it reads and does not keep it. */
function openReader (t: Test, port: number): Wire & { readonly last: () => number, readonly problems: string[] } {
  const client = wire(t, port, { forgets: true })
  const problems: string[] = []
  let last = 0
  let incompleteLine = ''
  client.socket.on('data', (chunk: string) => {
    const lines = (incompleteLine + chunk).split('\n')
    incompleteLine = lines.pop() ?? ''
    for (const line of lines) {
      if (line.startsWith('event: gap')) problems.push(`a gap came after ${last}`)
      if (!line.startsWith('data: {"n":')) continue
      const { n, padding: { length } } = JSON.parse(line.slice(6)) as { n: number, padding: string }
      if (n !== last + 1 || length !== FILL.length) problems.push(`${n} with ${length} characters came after ${last}`)
      last = n
    }
  })
  return { ...client, last: () => last, problems }
}

interface Stalled extends Served {
  readonly session: Session
  readonly client: Wire
  /** The number of messages that were sent until the client accepted no more. */
  readonly sent: number
}

/** Serves a client that does not read. The log of its session keeps everything that was sent. */
async function serveStalled (t: Test): Promise<Stalled> {
  const served = await serve(t, { log: { bytes: 2 ** 26 } })
  const opened = listOpened(served.sessions)
  const client = wire(t, served.port, { stalled: true })
  await streamsOpen(served.sessions, 1)
  const [{ session }] = opened as [typeof opened[0]]
  return { ...served, session, client, sent: await flood([session], n => session.send({ n, FILL })) }
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1)

t.test('a stalled client that reads again receives everything it missed from the log, then new messages', async t => {
  const { session, client, sent } = await serveStalled(t)
  for (let n = 1; n <= 50; n++) await session.send({ n: sent + n })
  client.read()
  await client.waitFor(`data: {"n":${sent + 50}}`)
  await session.send({ n: sent + 51 })
  await client.waitFor(`data: {"n":${sent + 51}}`)
  t.strictSame(client.numbers(), upTo(sent + 51))
  t.notMatch(client.text(), 'event: gap')
})

t.test('send, emit, stream and close settle with a stalled client, which then receives everything', async t => {
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

t.test('a client that reconnects while its stream is stalled replaces it at once', async t => {
  const { sessions, session, url, client, sent } = await serveStalled(t)
  const resumed = await openStream(t, url, { headers: { 'last-event-id': `${session.id}.${(sent - 10).toString(36)}` } })
  await resumed.waitFor(({ data }) => (data as { n?: number }).n === sent)
  t.strictSame(numbersIn(resumed.raw()), upTo(sent).slice(-10))
  client.read()
  await within(client.closed, 'the end of the first connection')
  t.notMatch(client.text(), /event: (close|replaced)/, 'the stalled stream is aborted and does not write its backlog')
  t.equal(sessions.stats().streams, 1)
  t.ok(session.connected)
})
