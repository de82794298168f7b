import t from 'tap'
import { request } from 'undici'
import { assertErrorResponse } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openRawClient } from '../support/raw-client.js'

const ACCEPTED = [
  'text/event-stream',
  'TEXT/Event-Stream',
  'text/event-stream;charset=utf-8',
  'text/event-stream; q=0.001',
  'text/event-stream;q=1;ext',
  'text/*',
  '*/*',
  '*/*;q=0.1',
  'image/avif,image/webp,*/*;q=0.8',
  'text/html, text/event-stream',
  'text/html;q=0.9,text/event-stream;q=0.1',
  'text/*;q=0, text/event-stream',
  '*/*;q=0, text/*',
  'text/event-stream, */*;q=0',
  'text/html;title="a, b; c", text/event-stream',
  'text/event-stream;note=";q=0"',
  ', text/event-stream ,',
  'text/event-stream, text/event-stream;version=2;q=0',
  'text/event-stream;version=2;q=0, text/event-stream'
]

const REFUSED = [
  'text/html',
  'application/json, text/plain',
  'text/event-stream;q=0',
  'text/event-stream; Q=0.000',
  'text/event-stream;charset=utf-8;q=0',
  'text/event-stream;q=0, */*',
  'text/event-stream;q=0, text/*;q=1, */*;q=1',
  'text/*;q=0, */*',
  '*/*;q=0',
  'text/event-stream-x',
  '*',
  'text/html;title="text/event-stream, */*"'
]

t.test('the header Accept is evaluated as RFC 9110 specifies', async t => {
  const { url, sessions } = await serve(t)
  for (const accept of ['', ...ACCEPTED]) {
    const { statusCode, body } = await request(`${url}/downward`, { headers: { accept } })
    t.equal(statusCode, 200, accept)
    body.on('error', () => {}).destroy()
  }
  t.equal(sessions.size, ACCEPTED.length + 1)
  for (const accept of REFUSED) {
    const { statusCode: status, headers, body } = await request(`${url}/downward`, { headers: { accept } })
    assertErrorResponse(t, { status, headers, body: await body.json() }, 406, 'FST_SSE_NOT_ACCEPTABLE')
  }
  t.equal(sessions.size, ACCEPTED.length + 1)
})

t.test('several Accept headers are one list', async t => {
  const { port } = await serve(t)
  for (const [first, second, status] of [['text/html', 'text/event-stream', 200], ['*/*', 'text/event-stream;q=0', 406]] as const) {
    const request = `GET /downward HTTP/1.1\r\nHost: localhost\r\nAccept: ${first}\r\nAccept: ${second}\r\n\r\n`
    await t.resolves(openRawClient(t, port, { request }).waitFor(`HTTP/1.1 ${status}`), `${first}, ${second}`)
  }
})
