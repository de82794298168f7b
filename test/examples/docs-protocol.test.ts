import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { resolveOptions } from '../../lib/options.js'
import * as headerNames from '../../lib/wire/headers.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { removeFraming } from '../support/raw-client.js'
import { waitUntil } from '../support/wait.js'
import { block, nameOf, read, table } from './docs.js'

const PAGE = 'docs/protocol.md'

interface HttpMessage {
  readonly start: string
  /** In lower case, sorted; without those that the page leaves out. */
  readonly headers: readonly string[]
  readonly body: string
}

function parse (text: string): HttpMessage {
  const [head = '', ...rest] = text.trimStart().replaceAll('\r\n', '\n').split('\n\n')
  const [start = '', ...lines] = head.trimEnd().split('\n')
  const headers = lines
    .map(line => line.replace(/^[^:]+/, name => name.toLowerCase()))
    .filter(line => !/^(date|keep-alive):|^connection: keep-alive$/.test(line))
    .sort()
  return { start, headers, body: rest.join('\n\n') }
}

/** Removes the line feed before the fence, which belongs to the body of a stream only. */
const withoutLastLineFeed = (message: HttpMessage): HttpMessage => ({ ...message, body: message.body.replace(/\n$/, '') })

const idIn = (text: string): string | undefined => /^x-session-id: (\S+)$/im.exec(text)?.[1]

/** Maps the session ids of the page to those of the server under test. */
class Ids {
  readonly #ids = new Map<string, string>()

  record (expected: string, actual: string): void {
    const [documented, real] = [idIn(expected), idIn(actual)]
    if (documented !== undefined && real !== undefined) this.#ids.set(documented, real)
  }

  toReal (text: string): string {
    return [...this.#ids].reduce((text, [documented, real]) => text.replaceAll(documented, real), text)
  }

  toDocumented (text: string): string {
    return [...this.#ids].reduce((text, [documented, real]) => text.replaceAll(real, documented), text)
  }
}

interface Exchange {
  readonly socket: Socket
  /** Everything received, without chunked framing and carriage returns. */
  readonly received: () => string
}

/** Sends the request of a block, with its session ids replaced. */
function send (t: Test, port: number, text: string, ids: Ids): Exchange {
  const { start, headers, body } = withoutLastLineFeed(parse(ids.toReal(text)))
  const length = headers.find(header => header.startsWith('content-length:'))
  if (length !== undefined) t.equal(length, `content-length: ${Buffer.byteLength(body)}`, start)
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => { socket.destroy() })
  let received = ''
  socket.setEncoding('utf8').on('error', () => {}).on('data', (chunk: string) => { received += chunk })
  socket.write(`${[start, ...headers].join('\r\n')}\r\n\r\n${body}`)
  return { socket, received: () => removeFraming(received).replaceAll('\r\n', '\n') }
}

t.test('a server responds to the example requests as the page shows', async t => {
  const { app, sessions, port } = await serve(t, { prefix: '/chat', retry: 2000, closeTimeout: 3000, log: { entries: 2 } })
  sessions
    .addHook('onOpen', () => {})
    .handle('say', async (session, data) => {
      const { text } = data as { text: string }
      await session.emit('said', { text })
      return { said: text }
    })
    .handle('note', () => {})
  const ids = new Ids()

  const request = async (requested: string, expected: string): Promise<void> => {
    const { received } = send(t, port, requested, ids)
    const wanted = withoutLastLineFeed(parse(expected))
    await waitUntil(() => /\n\n/.test(received()) && parse(received()).body.length >= wanted.body.length, wanted.start)
    t.strictSame(parse(ids.toDocumented(received())), wanted)
  }
  const stream = async (requested: string, expected: string): Promise<Exchange> => {
    const exchange = send(t, port, requested, ids)
    const wanted = parse(expected)
    await waitUntil(() => parse(exchange.received()).body.length >= wanted.body.length, 'the stream')
    ids.record(expected, exchange.received())
    t.strictSame(parse(ids.toDocumented(exchange.received())), wanted)
    return exchange
  }
  /** Asserts what a stream receives next. `before` is the response that it has received so far. */
  const receives = async ({ received }: Exchange, before: string, expected: string): Promise<void> => {
    const wanted = parse(before).body + expected
    await waitUntil(() => parse(received()).body.length >= wanted.length, expected)
    t.equal(parse(ids.toDocumented(received())).body, wanted)
  }

  const opened = block('docs/protocol.md', 'opened')
  const first = await stream(block('docs/protocol.md', 'open'), opened)
  await request(block('docs/protocol.md', 'say'), block('docs/protocol.md', 'said'))
  await receives(first, opened, block('docs/protocol.md', 'said-event'))
  await request(block('docs/protocol.md', 'repeat'), block('docs/protocol.md', 'repeated'))
  await request(block('docs/protocol.md', 'reuse'), block('docs/protocol.md', 'reused'))

  const session = await sessions.find(ids.toReal(idIn(opened) ?? ''))
  first.socket.destroy()
  await waitUntil(() => session?.connected === false, 'the loss of the stream')
  await request(block('docs/protocol.md', 'batch'), block('docs/protocol.md', 'batched'))
  for (const text of ['two', 'three', 'four']) await session?.emit('said', { text })
  const resumed = block('docs/protocol.md', 'resumed')
  const second = await stream(block('docs/protocol.md', 'resume'), resumed)

  await request(block('docs/protocol.md', 'end'), block('docs/protocol.md', 'ended'))
  await receives(second, resumed, block('docs/protocol.md', 'close-event'))
  await waitUntil(() => second.socket.destroyed, 'the end of the stream')
  await request(block('docs/protocol.md', 'return'), block('docs/protocol.md', 'returned'))
  await request(block('docs/protocol.md', 'late'), block('docs/protocol.md', 'refused'))

  const renewed = block('docs/protocol.md', 'renewed')
  const third = await stream(block('docs/protocol.md', 'new'), renewed)
  const closing = app.close()
  await receives(third, renewed, block('docs/protocol.md', 'shutdown'))
  await waitUntil(() => third.socket.destroyed, 'the end of the stream')
  await closing
})

t.test('a GET names its session by Last-Event-ID, or by X-Session-ID if that is not an event id', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const open = async (headers: Record<string, string>): Promise<unknown> => (await openStream(t, url, { headers })).events[0]?.data
  t.match(await open({ 'last-event-id': 'not an id', 'x-session-id': sessionId }), { sessionId, resumed: true })
  t.match(await open({ 'last-event-id': 'not an id' }), { resumed: false, previous: 'unknown' })
  t.match(await open({ 'last-event-id': '', 'x-session-id': '' }), { resumed: false, previous: undefined })
  t.match(await open({ 'x-session-id': 'A'.repeat(24), 'x-resume': 'optional' }), { resumed: false, previous: 'unknown' })
  t.equal((await openStream(t, url, { headers: { 'x-session-id': 'A'.repeat(24), 'x-resume': 'required' }, skipWelcome: true })).status, 404)
  t.match(await open({ 'x-resume': 'required' }), { resumed: false, previous: undefined })
})

t.test('a message may have a reserved name; its data is compared with its properties in order', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('gap', (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  const options = { event: 'gap', key: '"k"' }
  t.match(await postMessage(url, sessionId, '{"a":1,"b":2}', options), { status: 200, body: { a: 1, b: 2 } })
  t.match(await postMessage(url, sessionId, '{ "a": 1, "b": 2 }', options), { status: 200, headers: { 'idempotent-replayed': 'true' } })
  t.equal((await postMessage(url, sessionId, '{"b":2,"a":1}', options)).status, 422)
  t.strictSame((await postMessage(url, sessionId, '\n', { headers: { 'content-type': 'application/x-ndjson' } })).body, [])
})

t.test('the reserved events are those that the server refuses to send', async t => {
  const { sessions } = await serve(t)
  const named = table(PAGE, 'Reserved events', 'event').map(nameOf)
  const [, others = ''] = /An app also cannot send events named (.*?)\. `EventSource`/.exec(read(PAGE)) ?? []
  const documented = [...named, ...[...others.matchAll(/`(\w+)`/g)].map(([, name = '']) => name)]
  t.strictSame(named, ['welcome', 'gap', 'part', 'request', 'replaced', 'close'])
  for (const name of documented) await t.rejects(sessions.broadcast(name, null), { code: 'FST_SSE_EVENT_INVALID' }, name)
  const [, list = ''] = /reserved names (.*?);/.exec(await sessions.broadcast('gap', null).catch(String) as string) ?? []
  t.strictSame(list.split(/, | and /).sort(), documented.sort(), 'the error lists the same names')
})

t.test('requests, answers and acknowledged events have the documented form', async t => {
  const { url, sessions } = await serve(t)
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  const calls = [session?.request('confirm', { text: 'Delete it?' }), session?.emit('said', { text: 'hello' }, { acknowledged: true })]
  await stream.waitFor(({ event }) => event === 'said')
  const text = stream.text().slice(stream.text().indexOf('\n\n') + 2)
  const [documented, acknowledged] = [block('docs/protocol.md', 'request'), block('docs/protocol.md', 'acknowledged')]
  const idsOf = (text: string): string[] => [...text.matchAll(/"?request"?: ?"?([\w-]{24})/g)].map(([, id = '']) => id)
  const ids = idsOf(text)
  const expected = idsOf(documented + acknowledged)
  const withIds = ids.reduce((text, id, index) => text.replace(id, expected[index] ?? ''), text).replaceAll(stream.sessionId, 'TVhgP4pd-CAB7INk2uSwNXzm')
  t.equal(withIds.replace(/\.1$/m, '.6').replace(/\.2$/m, '.7'), documented + acknowledged)
  const [head = '', body = ''] = block('docs/protocol.md', 'answer').split('\n\n')
  t.match(head, `Content-Length: ${body.trim().length}`)
  t.match(await postMessage(url, stream.sessionId, body.replace(expected[0] ?? '', ids[0] ?? ''), { event: 'response' }), { status: 202 })
  t.match(await postMessage(url, stream.sessionId, { request: ids[1] }, { event: 'response' }), { status: 202 })
  t.strictSame(await Promise.all(calls), [true, undefined])
})

t.test('parts have the documented form', async t => {
  const { url, sessions } = await serve(t)
  const run = await sessions.runs.start('chat:42', {}, function * () { yield 'All is' })
  const stream = await openStream(t, url)
  await (await sessions.find(stream.sessionId))?.follow(run)
  await stream.waitFor(({ data }) => 'end' in (data as object))
  const received = stream.text().slice(stream.text().indexOf('\n\n') + 2)
  t.equal(received.replaceAll(stream.sessionId, 'TVhgP4pd-CAB7INk2uSwNXzm'), block('docs/protocol.md', 'parts'))
})

t.test('the headers are those that the server reads and sends', t => {
  const documented = ['Request headers', 'Response headers'].flatMap(chapter => table(PAGE, chapter, 'header').map(row => nameOf(row).toLowerCase()))
  const { SESSION_ID, SESSION_CONNECTED, LAST_EVENT_ID, RESUME, IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, EXPOSED_HEADERS } = headerNames
  for (const name of [SESSION_ID, SESSION_CONNECTED, LAST_EVENT_ID, RESUME, IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, ...EXPOSED_HEADERS.toLowerCase().split(', ')]) {
    t.ok(documented.includes(name), name)
  }
  t.end()
})

t.test('the pseudo code handles every reserved event, and uses every header of a resuming and repeating client', t => {
  const code = block('docs/protocol.md', 'client')
  for (const event of table(PAGE, 'Reserved events', 'event').map(nameOf)) t.match(code, new RegExp(`\\b${event}:`), event)
  for (const name of ['Last-Event-ID', 'X-Session-ID', 'X-Session-Connected', 'Idempotency-Key', 'Idempotent-Replayed']) t.match(code, name)
  t.end()
})

t.test('the limits are the defaults of the server', t => {
  const { maxWaitingMessages, maxIdempotencyKeys, maxSessions, maxSessionsPerPrincipal, resumeTimeout, log } = resolveOptions({}, 0)
  const seconds = (ms: number): string => `${ms / 1000} s`
  const documented = new Map(table(PAGE, 'Limits', 'limit').map(([limit = '', value = '']) => [limit, value]))
  for (const [limit, value] of [
    ['Lines of a batch', String(maxWaitingMessages)],
    ['Messages of a session that wait while one is handled', String(maxWaitingMessages)],
    ['Idempotency keys of a session', String(maxIdempotencyKeys)],
    ['Time a session exists without a stream', seconds(resumeTimeout)],
    ['Events, bytes and age of each log', `${log.entries.toLocaleString('en')}, ${log.bytes / 2 ** 20} MiB, ${seconds(log.age)}`],
    ['Sessions', `${maxSessions.toLocaleString('en')} in total, ${maxSessionsPerPrincipal} for each principal`]
  ] as const) t.equal(documented.get(limit), value, limit)
  t.end()
})
