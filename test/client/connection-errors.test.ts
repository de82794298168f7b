import t from 'tap'
import { fakeNavigator, testEachClient, waitForEvent, recordEvents } from '../support/clients.js'
import { skewClock } from '../support/clock.js'
import { connect as connectNode } from '../../lib/client/node.js'
import { matchList } from '../support/match-list.js'
import { withTimeout } from '../support/wait.js'
import { fakeNetwork } from './support/fake-network.js'
import { CLOSE_EVENT, endedStream, openStream, respond, scriptedServer, welcome, type Responder } from './support/scripted-server.js'

// After these failures the client retries, with the id of the last event.
const TRANSIENT: Array<[title: string, responder: Responder, code: string | undefined]> = [
  ['status 408', respond(408), 'HTTP_408'],
  ['status 425', respond(425), 'HTTP_425'],
  ['status 429', respond(429), 'HTTP_429'],
  ['status 500', respond(500), 'HTTP_500'],
  ['status 503', respond(503, {}, { code: 'FST_SSE_CLOSING', message: 'closing' }), 'FST_SSE_CLOSING'],
  ['a stream that ends at once', endedStream(), 'ENDED'],
  ['a missing content type', respond(200, {}, 'hi'), 'NOT_A_STREAM'],
  ['the HTML of a captive portal', respond(200, { 'content-type': 'text/html' }, 'Log in'), 'NOT_A_STREAM'],
  ['a content type with the same prefix', respond(200, { 'content-type': 'text/event-streams' }), 'NOT_A_STREAM'],
  ['a copy of the first stream', endedStream(welcome()), 'NOT_A_STREAM'],
  ['a copy of a stream that resumed at another id', endedStream('event: welcome\nid: s.7\ndata: {"sessionId":"s","resumed":true}\n\nid: s.8\ndata: 1\n\n'), 'NOT_A_STREAM'],
  ['a connection that is reset before the response', response => { response.socket?.resetAndDestroy() }, undefined]
]

for (const [title, responder, code] of TRANSIENT) {
  testEachClient(t, `reconnects and resumes after ${title}`, async (t, connect) => {
    const server = await scriptedServer(t, [endedStream(welcome()), responder, endedStream(welcome(true), CLOSE_EVENT)])
    const session = connect(server.url)
    const events = recordEvents(session)
    await withTimeout(waitForEvent(session, 'close'), 'the close event')
    t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'error', 'resume', 'close'])
    t.match(events[2]?.[1], code === undefined ? Error : { code })
    t.strictSame(server.requests.map(({ headers }) => headers['last-event-id']), [undefined, 's.0', 's.0'])
  })
}

// After these responses the client does not retry.
const PERMANENT: Array<[title: string, responder: Responder, reason: string]> = [
  ['status 400', respond(400), 'HTTP_400'],
  ['status 401', respond(401, {}, { code: 'NO_TOKEN', message: 'Log in' }), 'NO_TOKEN'],
  ['status 404', respond(404), 'HTTP_404'],
  ['status 406', respond(406, {}, 'not an object'), 'HTTP_406'],
  ['status 205, which has no body,', respond(205, { 'content-type': 'text/event-stream' }), 'NOT_A_STREAM']
]

for (const [title, responder, reason] of PERMANENT) {
  testEachClient(t, `${title} closes the session with an error`, async (t, connect) => {
    const server = await scriptedServer(t, [responder])
    const session = connect(server.url)
    const events = recordEvents(session)
    await t.rejects(async () => { for await (const event of session) t.fail(event.event) }, { code: reason })
    matchList(t, events, [['error', { code: reason }], ['close', { reason }]])
    t.equal(session.state, 'closed')
    await t.rejects(session.send('late'), { code: reason })
    t.equal(server.requests.length, 1)
  })
}

testEachClient(t, 'an error status closes the session without a DELETE', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome()), respond(401)])
  const session = connect(server.url)
  await waitForEvent(session, 'close')
  await session.close()
  t.strictSame(server.requests.map(({ method }) => method), ['GET', 'GET'])
})

testEachClient(t, 'status 204 closes the session without an error', async (t, connect) => {
  const server = await scriptedServer(t, [respond(204)])
  const session = connect(server.url)
  const events = recordEvents(session)
  for await (const event of session) t.fail(event.event)
  t.strictSame(events, [['close', { reason: 'closed' }]])
  await t.rejects(session.send('late'), { code: 'CLOSED' })
  t.equal(server.requests.length, 1)
})

testEachClient(t, 'follows redirects of every kind', async (t, connect) => {
  const codes = [301, 302, 303, 307, 308]
  const server = await scriptedServer(t, [...codes.map(code => respond(code, { location: '/other' })), endedStream(welcome(), CLOSE_EVENT)])
  t.strictSame(await waitForEvent(connect(server.url), 'close'), { reason: 'the end' })
  t.strictSame(server.requests.map(({ url }) => url), ['/downward', ...codes.map(() => '/other')])
})

testEachClient(t, 'retries after a refused connection', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome(), CLOSE_EVENT)])
  const urls = ['http://127.0.0.1:1', server.url]
  const session = connect(() => urls.shift() ?? '')
  const events = recordEvents(session)
  await withTimeout(waitForEvent(session, 'close'), 'the close event')
  t.strictSame(events.map(([name]) => name), ['error', 'open', 'close'])
})

// `fetch` itself repeats a request after 421, on another connection.
testEachClient(t, 'tries again after a second response with status 421', async (t, connect) => {
  const statuses = [421, 204]
  const session = connect('', { fetch: async () => new Response(null, { status: statuses.shift() ?? 204 }) })
  const events = recordEvents(session)
  await withTimeout(waitForEvent(session, 'close'), 'the close event')
  matchList(t, events, [['error', { code: 'HTTP_421' }], ['close', {}]])
})

testEachClient(t, 'closes the session after a minute of responses that are not from the server, with the content of the last one', async (t, connect) => {
  const { fetch, advance } = fakeNetwork(t, () => new Response('<h1>offline</h1>', { headers: { 'content-type': 'text/html' } }))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await advance(0)
  const error = { code: 'NOT_A_STREAM', message: 'Received 200 text/html: <h1>offline</h1>' }
  matchList(t, events, [['error', error]])
  for (let seconds = 0; seconds < 59; seconds++) await advance(1000)
  t.equal(session.state, 'connecting')
  for (let seconds = 0; seconds < 12; seconds++) await advance(1000)
  t.match(events.at(-2), ['error', error])
  t.match(events.at(-1), ['close', { reason: 'NOT_A_STREAM' }])
})

testEachClient(t, 'a failure of another kind starts the minute of responses that are not from the server again', async (t, connect) => {
  // An attempt each second.
  t.intercept(Math, 'random', { value: () => 0 })
  const { fetch, advance } = fakeNetwork(t, (_method, attempt) => attempt === 31 ? new Response('busy', { status: 500 }) : new Response('offline', { headers: { 'content-type': 'text/html' } }))
  const session = connect('', { fetch })
  const events = recordEvents(session)
  await advance(0)
  for (let seconds = 0; seconds < 90; seconds++) await advance(1000)
  t.match(events[30], ['error', { code: 'HTTP_500' }])
  t.equal(session.state, 'connecting')
  await advance(1000)
  t.match(events.slice(-2), [['error', { code: 'NOT_A_STREAM' }], ['close']])
})

testEachClient(t, 'a clock that is set forward does not end the minute of responses that are not from the server', async (t, connect) => {
  const { fetch, advance } = fakeNetwork(t, () => new Response('offline', { headers: { 'content-type': 'text/html' } }))
  const skew = skewClock(t, Date)
  const session = connect('', { fetch })
  await advance(0)
  skew(3_600_000)
  await advance(30_000)
  t.equal(session.state, 'connecting')
})

testEachClient(t, 'does not count the time in which the browser reports that it is offline', async (t, connect) => {
  fakeNavigator(t).onLine = false
  const { fetch, advance } = fakeNetwork(t, () => new Response('offline', { headers: { 'content-type': 'text/html' } }))
  const session = connect('', { fetch })
  for (let seconds = 0; seconds < 200; seconds++) await advance(1000)
  t.equal(session.state, 'connecting')
})

// Requests that can never work, with a part of the message of the cause.
const INVALID: Array<[title: string, url: string, headers: Record<string, string>, cause: RegExp]> = [
  ['a relative URL outside a page', '/chat', {}, /Failed to parse URL/],
  ['a text that is not a URL', 'not a url', {}, /Failed to parse URL/],
  ['a URL with a password', 'http://user:secret@127.0.0.1/chat', {}, /includes credentials/],
  ['a scheme other than http and https', 'ws://127.0.0.1/chat', {}, /^Not HTTP: ws:/],
  ['a header with a line break', 'http://127.0.0.1:1', { authorization: 'a\nb' }, /invalid/i],
  ['a header outside Latin-1', 'http://127.0.0.1:1', { name: 'Zoë €' }, /ByteString|255/]
]
for (const [title, url, headers, cause] of INVALID) {
  testEachClient(t, `${title} closes the session at once, with the cause`, async (t, connect) => {
    const session = connect(url, { headers })
    const events = recordEvents(session)
    const error = await withTimeout(session.send(1).catch((error: unknown) => error), 'the error')
    t.match(error, { code: 'REQUEST_INVALID', cause: { message: cause } })
    t.strictSame(events, [['error', error], ['close', { reason: 'REQUEST_INVALID' }]])
  })
}

for (const [title, url, headers] of [
  ['a header with a control character', 'http://127.0.0.1:3000', { authorization: 'a\x01b' }],
  ['a header that undici refuses', 'http://127.0.0.1:3000', { expect: '100-continue' }]
] as const) {
  t.test(`${title} closes the session at once, in Node`, async t => {
    const session = connectNode(url, { headers })
    t.match(await withTimeout(waitForEvent(session, 'error'), 'the error'), { code: 'REQUEST_INVALID' })
    t.equal(session.state, 'closed')
  })
}

testEachClient(t, 'a fetch without readable bodies closes the session at once', async (t, connect) => {
  const session = connect('', { fetch: async () => Object.defineProperty(new Response('', { headers: { 'content-type': 'text/event-stream' } }), 'body', { value: undefined }) })
  t.match(await withTimeout(waitForEvent(session, 'error'), 'the error'), { code: 'NOT_A_STREAM', message: /no readable body/ })
  t.equal(session.state, 'closed')
})

testEachClient(t, 'a URL that becomes invalid rejects the messages that are sent to it', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())])
  let url = server.url
  const session = connect(() => url)
  await waitForEvent(session, 'open')
  url = 'ws://127.0.0.1'
  await t.rejects(withTimeout(session.send(1), 'the error'), { code: 'REQUEST_INVALID' })
})
