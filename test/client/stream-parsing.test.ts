import t from 'tap'
import { testEachClient, waitForEvent, recordEvents } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
import { withTimeout } from '../support/wait.js'
import { CLOSE_EVENT, endedStream, openStream, scriptedServer, welcome, writeChunks } from './support/scripted-server.js'

const multiByte = Buffer.from('data: "a€b😀c"\n\n')
const singleBytes = Array.from(multiByte, byte => Buffer.from([byte]))
const characters = (text: string): string[] => [...text]
const large = 'x'.repeat(10_000_000)

// The chunks of a stream, and the data of the events that the session receives.
const STREAMS: Array<[title: string, chunks: Array<string | Buffer>, expected: unknown[]]> = [
  ['lines that end with LF', ['data: 1\ndata:\ndata: \n\n'], [1]],
  ['lines that end with CR', ['data: [1,\rdata: 2]\r', '\r', 'data: 3\r\r:\r'], [[1, 2], 3]],
  ['lines that end with CRLF', ['data: [1,\r\ndata: 2]\r\n\r\n'], [[1, 2]]],
  ['a CRLF that is split over chunks', ['data: 1\r', '\n\r', '\ndata: 2\r', '\n', '\r\n'], [1, 2]],
  ['one character per chunk', characters('event: a\r\ndata: 1\r\n\r\ndata: 2\n\n:\ndata: 3\r\r:\r'), [1, 2, 3]],
  ['multi-byte characters that are split over chunks', singleBytes, ['a€b😀c']],
  ['comments', [': one\n:two\ndata: 1\n:\n\n: three\n\n'], [1]],
  ['blocks without data', ['event: a\n\nid: 9\n\n\n\nretry: 1\n\ndata: 1\n\n'], [1]],
  ['unknown fields, and lines without a colon', ['nonsense: 1\nfoo\ndata: 1\n\ndatas: 2\n\n'], [1]],
  ['no space and two spaces before the data', ['data:1\n\ndata:  2\n\n'], [1, 2]],
  ['data that is not JSON', ['data: {nonsense\n\ndata: 2\n\n'], [2]],
  ['an event of 10 MB', [`data: "${large.slice(0, 5_000_000)}`, `${large.slice(5_000_000)}"\n\n`], [large]],
  ['an incomplete event at its end', ['data: 1\n\ndata: 2\n'], [1]]
]

for (const [title, chunks, expected] of STREAMS) {
  testEachClient(t, `receives the events of a stream with ${title}`, async (t, connect) => {
    const server = await scriptedServer(t, [endedStream(welcome(), ...chunks)])
    const session = connect(server.url)
    const data: unknown[] = []
    for await (const event of session) data.push(event.data)
    t.ok(JSON.stringify(data) === JSON.stringify(expected), JSON.stringify(data).slice(0, 100))
  })
}

testEachClient(t, 'emits error for an event whose data is not JSON', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome(), 'data: {nonsense\n\n', CLOSE_EVENT)])
  const session = connect(server.url)
  const events = recordEvents(session)
  await waitForEvent(session, 'close')
  matchList(t, events, [['open', {}], ['error', SyntaxError], ['close', { reason: 'the end' }]])
})

// Streams, and the `Last-Event-ID` of the next request as bytes in Latin-1.
const IDS: Array<[title: string, text: string, expected: string | undefined]> = [
  ['a block with only an id', 'id: s.5\n\n', 's.5'],
  ['an empty id, which clears it', 'id: s.5\ndata: 1\n\nid\n\n', undefined],
  ['an id outside Latin-1', 'id: 5€\n\n', Buffer.from('5€').toString('latin1')],
  ['an id with a control character', 'id: s.5\n\nid: s.\x016\n\n', 's.5'],
  ['an id that is too long for a header', `id: s.5\n\nid: ${'6'.repeat(20_000)}\n\n`, 's.5']
]
for (const [title, text, expected] of IDS) {
  testEachClient(t, `reconnects with the last event id after ${title}`, async (t, connect) => {
    const server = await scriptedServer(t, [endedStream(welcome(), text)])
    await withTimeout(waitForEvent(connect(server.url), 'close'), 'the close event')
    t.equal(server.requests[1]?.headers['last-event-id'], expected)
  })
}

testEachClient(t, 'a CR at the end of a chunk ends an event at once', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome(), 'data: 1\r\r')])
  t.equal(await waitForEvent(connect(server.url), 'message'), 1)
})

testEachClient(t, 'skips a byte order mark that is split over chunks', async (t, connect) => {
  const server = await scriptedServer(t, [async response => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    await writeChunks(response, Buffer.of(0xef), Buffer.of(0xbb, 0xbf), welcome(), CLOSE_EVENT)
  }])
  const session = connect(server.url)
  await withTimeout(waitForEvent(session, 'close'), 'the close event')
  t.equal(session.sessionId, 's')
})
