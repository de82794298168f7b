import t from 'tap'
import { eachClient, next, record } from '../support/clients.js'
import { within } from '../support/wait.js'
import { CLOSE_EVENT, endedStream, respond, scriptedServer, welcome, type Responder } from './support/scripted-server.js'

// After these failures the client retries, with the id of the last event.
const TRANSIENT: Array<[title: string, responder: Responder, code: string | undefined]> = [
  ['status 429', respond(429), 'HTTP_429'],
  ['status 500', respond(500), 'HTTP_500'],
  ['status 503', respond(503, {}, { code: 'FST_SSE_CLOSING', message: 'closing' }), 'FST_SSE_CLOSING'],
  ['a stream that ends at once', endedStream(), 'ENDED'],
  ['a connection that is reset before the response', response => { response.socket?.resetAndDestroy() }, undefined]
]

for (const [title, responder, code] of TRANSIENT) {
  eachClient(t, `reconnects and resumes after ${title}`, async (t, connect) => {
    const server = await scriptedServer(t, [endedStream(welcome()), responder, endedStream(welcome(true), CLOSE_EVENT)])
    const session = connect(server.url)
    const events = record(session)
    await within(next(session, 'close'), 'the close event')
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
  ['status 205, which has no body,', respond(205, { 'content-type': 'text/event-stream' }), 'NOT_A_STREAM'],
  ['a missing content type', respond(200, {}, 'hi'), 'NOT_A_STREAM'],
  ['another content type', respond(200, { 'content-type': 'text/html' }), 'NOT_A_STREAM'],
  ['a content type with the same prefix', respond(200, { 'content-type': 'text/event-streams' }), 'NOT_A_STREAM']
]

for (const [title, responder, reason] of PERMANENT) {
  eachClient(t, `${title} closes the session with an error`, async (t, connect) => {
    const server = await scriptedServer(t, [responder])
    const session = connect(server.url)
    const events = record(session)
    await t.rejects(async () => { for await (const event of session) t.fail(event.event) }, { code: reason })
    t.match(events, [['error', { code: reason }], ['close', { reason }]])
    t.equal(session.state, 'closed')
    await t.rejects(session.send('late'), { code: reason })
    t.equal(server.requests.length, 1)
  })
}

eachClient(t, 'status 204 closes the session without an error', async (t, connect) => {
  const server = await scriptedServer(t, [respond(204)])
  const session = connect(server.url)
  const events = record(session)
  for await (const event of session) t.fail(event.event)
  t.strictSame(events, [['close', { reason: 'closed' }]])
  await t.rejects(session.send('late'), { code: 'CLOSED' })
  t.equal(server.requests.length, 1)
})

eachClient(t, 'follows redirects of every kind', async (t, connect) => {
  const codes = [301, 302, 303, 307, 308]
  const server = await scriptedServer(t, [...codes.map(code => respond(code, { location: '/other' })), endedStream(welcome(), CLOSE_EVENT)])
  t.strictSame(await next(connect(server.url), 'close'), { reason: 'the end' })
  t.strictSame(server.requests.map(({ url }) => url), ['/downward', ...codes.map(() => '/other')])
})

eachClient(t, 'retries after a refused connection', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome(), CLOSE_EVENT)])
  const urls = ['http://127.0.0.1:1', server.url]
  const session = connect(() => urls.shift() ?? '')
  const events = record(session)
  await within(next(session, 'close'), 'the close event')
  t.strictSame(events.map(([name]) => name), ['error', 'open', 'close'])
})
