import t from 'tap'
import { eachClient, next, record } from '../support/clients.js'
import { begin, CLOSE, open, scriptedServer, status, stream, welcome, write, type Answer } from './support/scripted-server.js'
import { signal, within } from '../support/wait.js'

const euro = Buffer.from('data: "a€b😀c"\n\n')
const bytes = Array.from(euro, byte => Buffer.from([byte]))
const characters = (text: string): string[] => [...text]
const large = 'x'.repeat(10_000_000)

// What a stream says, in chunks, and what the session hears of it.
const BODIES: Array<[title: string, chunks: Array<string | Buffer>, heard: unknown[]]> = [
  ['lines that end in LF', ['data: 1\ndata:\ndata: \n\n'], [1]],
  ['lines that end in CR', ['data: [1,\rdata: 2]\r', '\r', 'data: 3\r\r:\r'], [[1, 2], 3]],
  ['lines that end in CRLF', ['data: [1,\r\ndata: 2]\r\n\r\n'], [[1, 2]]],
  ['a CRLF that is split', ['data: 1\r', '\n\r', '\ndata: 2\r', '\n', '\r\n'], [1, 2]],
  ['one character a chunk', characters('event: a\r\ndata: 1\r\n\r\ndata: 2\n\n:\ndata: 3\r\r:\r'), [1, 2, 3]],
  ['characters of many bytes that are split', bytes, ['a€b😀c']],
  ['comments', [': one\n:two\ndata: 1\n:\n\n: three\n\n'], [1]],
  ['blocks without data', ['event: a\n\nid: 9\n\n\n\nretry: 1\n\ndata: 1\n\n'], [1]],
  ['fields that nobody knows, and lines without a colon', ['nonsense: 1\nfoo\ndata: 1\n\ndatas: 2\n\n'], [1]],
  ['data without a blank before it, and with two', ['data:1\n\ndata:  2\n\n'], [1, 2]],
  ['data that is no JSON', ['data: {nonsense\n\ndata: 2\n\n'], [2]],
  ['an event of 10 MB', [`data: "${large.slice(0, 5_000_000)}`, `${large.slice(5_000_000)}"\n\n`], [large]],
  ['an event that the end has cut', ['data: 1\n\ndata: 2\n'], [1]]
]

for (const [title, chunks, heard] of BODIES) {
  eachClient(t, `of ${title} is heard what there is`, async (t, connect) => {
    const server = await scriptedServer(t, [stream(welcome(), ...chunks)])
    const session = connect(server.url)
    const data: unknown[] = []
    for await (const event of session) data.push(event.data)
    t.ok(JSON.stringify(data) === JSON.stringify(heard), JSON.stringify(data).slice(0, 100))
  })
}

eachClient(t, 'an event that is no JSON is told as an error', async (t, connect) => {
  const server = await scriptedServer(t, [stream(welcome(), 'data: {nonsense\n\n', CLOSE)])
  const session = connect(server.url)
  const events = record(session)
  await next(session, 'close')
  t.match(events, [['open'], ['error', SyntaxError], ['close', { reason: 'the end' }]])
})

eachClient(t, 'a byte order mark, split over chunks, is passed over', async (t, connect) => {
  const server = await scriptedServer(t, [async response => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    await write(response, Buffer.of(0xef), Buffer.of(0xbb, 0xbf), welcome(), CLOSE)
  }])
  const session = connect(server.url)
  await within(next(session, 'close'), 'the end')
  t.equal(session.sessionId, 's')
})

eachClient(t, 'an id with NUL, and one of an event that was cut, are not where the stream stands', async (t, connect) => {
  const server = await scriptedServer(t, [
    stream(welcome(), 'id: s.1\ndata: 1\n\n', 'id: s.\0\ndata: 2\n\n', 'id: s.3\ndata: 3\n'),
    stream(welcome(true), 'id: s.3\ndata: 3\n\n')
  ])
  const session = connect(server.url)
  const data: unknown[] = []
  for await (const event of session) data.push(event.data)
  t.strictSame(data, [1, 2, 3])
  t.strictSame(server.requests.map(({ headers }) => headers['last-event-id']), [undefined, 's.1', 's.3'])
})

eachClient(t, 'a retry of digits is the least to wait, any other is none', async (t, connect) => {
  const server = await scriptedServer(t, [stream(welcome(), 'retry: 200\n\n', 'retry: 1x\n\nretry: -1\n\nretry:\n\n')])
  await next(connect(server.url), 'close')
  const [first, second] = server.requests.map(({ at }) => at) as [number, number]
  t.ok(second - first >= 195, `${second - first} ms`)
})

// Answers that are passing: the client comes again, and says where it stands.
const PASSING: Array<[title: string, answer: Answer, code: string | undefined]> = [
  ['a 429', status(429), 'HTTP_429'],
  ['a 500', status(500), 'HTTP_500'],
  ['a 503', status(503, {}, { code: 'FST_SSE_CLOSING', message: 'closing' }), 'FST_SSE_CLOSING'],
  ['an end at once', stream(), 'ENDED'],
  ['a connection that is reset before the answer', response => { response.socket?.resetAndDestroy() }, undefined]
]

for (const [title, answer, code] of PASSING) {
  eachClient(t, `after ${title} it connects again, and resumes`, async (t, connect) => {
    const server = await scriptedServer(t, [stream(welcome()), answer, stream(welcome(true), CLOSE)])
    const session = connect(server.url)
    const events = record(session)
    await within(next(session, 'close'), 'the end')
    t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'error', 'resume', 'close'])
    t.match(events[2]?.[1], code === undefined ? Error : { code })
    t.strictSame(server.requests.map(({ headers }) => headers['last-event-id']), [undefined, 's.0', 's.0'])
  })
}

eachClient(t, 'Retry-After is obeyed, in seconds and as a date', async (t, connect) => {
  const server = await scriptedServer(t, [
    stream(welcome()),
    status(503, { 'retry-after': '1' }),
    response => { response.writeHead(429, { 'retry-after': new Date(Date.now() + 2000).toUTCString() }).end() }
  ])
  await next(connect(server.url), 'close')
  const [, second, third, fourth] = server.requests.map(({ at }) => at) as [number, number, number, number]
  t.ok(third - second >= 995, `${third - second} ms`)
  t.ok(fourth - third >= 900, `${fourth - third} ms`)
})

// Answers that are for good.
const FINAL: Array<[title: string, answer: Answer, reason: string]> = [
  ['400', status(400), 'HTTP_400'],
  ['401', status(401, {}, { code: 'NO_TOKEN', message: 'Log in' }), 'NO_TOKEN'],
  ['404', status(404), 'HTTP_404'],
  ['406', status(406, {}, 'not an object'), 'HTTP_406'],
  ['205, which has no body', status(205, { 'content-type': 'text/event-stream' }), 'NOT_A_STREAM'],
  ['no content type', status(200, {}, 'hi'), 'NOT_A_STREAM'],
  ['another content type', status(200, { 'content-type': 'text/html' }), 'NOT_A_STREAM'],
  ['a content type that only begins alike', status(200, { 'content-type': 'text/event-streams' }), 'NOT_A_STREAM']
]

for (const [title, answer, reason] of FINAL) {
  eachClient(t, `${title} ends the session with its reason`, async (t, connect) => {
    const server = await scriptedServer(t, [answer])
    const session = connect(server.url)
    const events = record(session)
    await t.rejects(async () => { for await (const event of session) t.fail(event.event) }, { code: reason })
    t.match(events, [['error', { code: reason }], ['close', { reason }]])
    t.equal(session.state, 'closed')
    await t.rejects(session.send('late'), { code: reason })
    t.equal(server.requests.length, 1)
  })
}

eachClient(t, '204 ends the session quietly', async (t, connect) => {
  const server = await scriptedServer(t, [status(204)])
  const session = connect(server.url)
  const events = record(session)
  for await (const event of session) t.fail(event.event)
  t.strictSame(events, [['close', { reason: 'closed' }]])
  await t.rejects(session.send('late'), { code: 'CLOSED' })
  t.equal(server.requests.length, 1)
})

eachClient(t, 'a stream that another has replaced ends the session here, which is not the end of it there', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome(), 'event: replaced\nid: closed\ndata: {}\n\n')])
  const session = connect(server.url)
  t.strictSame(await next(session, 'close'), { reason: 'replaced' })
  await session.close()
  t.equal(server.requests.length, 1)
})

eachClient(t, 'redirects are followed, of every kind', async (t, connect) => {
  const codes = [301, 302, 303, 307, 308]
  const server = await scriptedServer(t, [...codes.map(code => status(code, { location: '/elsewhere' })), stream(welcome(), CLOSE)])
  t.strictSame(await next(connect(server.url), 'close'), { reason: 'the end' })
  t.strictSame(server.requests.map(({ url }) => url), ['/downward', ...codes.map(() => '/elsewhere')])
})

eachClient(t, 'a connection that is refused is tried again', async (t, connect) => {
  const server = await scriptedServer(t, [stream(welcome(), CLOSE)])
  const urls = ['http://127.0.0.1:1', server.url]
  const session = connect(() => urls.shift() ?? '')
  const events = record(session)
  await within(next(session, 'close'), 'the end')
  t.strictSame(events.map(([name]) => name), ['error', 'open', 'close'])
})

eachClient(t, 'a stream that is reset in the middle of an event goes on after the last whole one', async (t, connect) => {
  const heard = signal()
  const server = await scriptedServer(t, [
    async response => {
      await begin(response, welcome(), 'id: s.1\ndata: 1\n\n', 'id: s.2\ndata: ')
      await heard.promise
      response.socket?.resetAndDestroy()
    },
    stream(welcome(true), 'id: s.2\ndata: 2\n\n', CLOSE)
  ])
  const session = connect(server.url)
  const data: unknown[] = []
  for await (const event of session) {
    data.push(event.data)
    heard.resolve()
  }
  t.strictSame(data, [1, 2])
  t.equal(server.requests[1]?.headers['last-event-id'], 's.1')
})

const part = 'x'.repeat(10_000)
// Whole in one chunk; of many lines, or of one, that do not end.
for (const chunks of [[`data: "${part}"\n\n`], Array<string>(30).fill(`data: ${part}\n`), ['data: "', ...Array<string>(30).fill(part)]]) {
  eachClient(t, `an event larger than maxEventSize ends the session, in ${chunks.length} chunks`, async (t, connect) => {
    const server = await scriptedServer(t, [open(welcome(), ...chunks)])
    const session = connect(server.url, { maxEventSize: 200 })
    await t.rejects(within((async () => { for await (const event of session) t.fail(event.event) })(), 'the end'), { code: 'EVENT_TOO_LARGE' })
    t.equal(server.requests.length, 1)
  })
}

for (const [title, cuts] of [['whole', []], ['without its end', [-2]], ['in three parts', [30, -1]]] satisfies Array<[string, number[]]>) {
  eachClient(t, `an event whose data are as long as maxEventSize is heard, and one of a character more is not, in chunks that hold it ${title}`, async (t, connect) => {
    const chunks = [998, 999].flatMap(length => {
      const event = `id: s.1\nevent: message\ndata: "${'x'.repeat(length)}"\n\n`
      return [0, ...cuts].map((cut, index, starts) => event.slice(cut, starts[index + 1]))
    })
    const server = await scriptedServer(t, [open(welcome(), ...chunks)])
    const session = connect(server.url, { maxEventSize: 1000 })
    const lengths: number[] = []
    session.on('message', data => { lengths.push(String(data).length) })
    t.match(await within(next(session, 'close'), 'the end'), { reason: 'EVENT_TOO_LARGE' })
    t.strictSame(lengths, [998])
  })
}

eachClient(t, 'events and comments that are small do not add up to one that is too large', async (t, connect) => {
  for (const small of ['data: 1\n\n', ': heartbeat\n']) {
    const server = await scriptedServer(t, [stream(welcome(), ...Array<string>(200).fill(small), CLOSE)])
    t.strictSame(await next(connect(server.url, { maxEventSize: 200 }), 'close'), { reason: 'the end' })
  }
})

eachClient(t, 'a session that is over hears nothing of what still comes, though it be too large', async (t, connect) => {
  let come = (_text: string): void => {}
  const body = new ReadableStream({
    start: controller => { come = text => { controller.enqueue(new TextEncoder().encode(text)) } }
  })
  const session = connect('', {
    maxEventSize: 200,
    fetch: async (_url, { method }) => method === 'DELETE' ? new Response() : new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  })
  const events = record(session)
  const opened = next(session, 'open')
  come(welcome())
  await opened
  await session.close()
  come(`data: ${part}`)
  await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(events.map(([name]) => name), ['open', 'close'])
})
