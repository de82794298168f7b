import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:http2'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { request } from 'undici'
import { assertErrorResponse } from '../support/error-response.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { connectHttp2, http2Options, requestHttp2 } from '../support/http2.js'
import { openRawClient } from '../support/raw-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'

t.test('responds with 415 to content types other than JSON and NDJSON, also if the app has parsers for them', async t => {
  const { url, sessions } = await serve(t, {}, {
    beforeRegister: app => {
      app.addContentTypeParser('application/x-www-form-urlencoded', (_request, _payload, calls) => { calls(null, { text: 'form' }) })
      app.addContentTypeParser(/^application\/.*xml/, (_request, _payload, calls) => { calls(null, { text: 'xml' }) })
      app.addContentTypeParser('*', (_request, _payload, calls) => { calls(null, { text: 'any' }) })
    }
  })
  sessions.handle('message', () => 'handled')
  const { sessionId } = await openStream(t, url)
  for (const type of ['text/plain', 'application/xml', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/jsonx', 'application/ld+json', 'text/json']) {
    for (const body of ['text=hi', '']) {
      const response = await postMessage(url, sessionId, body, { headers: { 'content-type': type } })
      assertErrorResponse(t, response, 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
      t.match(response.body, { message: /Content-Type: application\/json/ }, type)
    }
  }
  t.equal((await request(`${url}/upward`, { method: 'POST', headers: { 'x-session-id': sessionId }, body: Buffer.from('{}') })).statusCode, 415, 'a body without a content type')
  t.match((await postMessage(url, sessionId, '', { headers: { 'content-type': 'text/plain' } })).body, { message: /application\/x-ndjson/ })
  for (const type of ['application/json', 'Application/JSON ; charset=utf-8']) t.equal((await postMessage(url, sessionId, {}, { headers: { 'content-type': type } })).status, 200, type)
})

t.test('the error response to a batch says to send JSON if the route accepts no batches', async t => {
  const { url } = await serve(t, { routes: { upward: { schema: { body: { type: 'object' } } } } })
  const { sessionId } = await openStream(t, url)
  const response = await postMessage(url, sessionId, '{}', { headers: { 'content-type': 'application/x-ndjson' } })
  assertErrorResponse(t, response, 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
  t.match(response.body, { message: /send "Content-Type: application\/json"$/ })
})

t.test('DELETE accepts JSON and no body, and responds with 415 to other content types, for sessions and runs', async t => {
  for (const hasParsers of [false, true]) {
    const { url } = await serve(t, {}, {
      beforeRegister: app => { if (hasParsers) app.addContentTypeParser('*', (_request, _payload, done) => { done(null) }) },
      afterRegister: app => {
        app.post('/ask', { resumable: true }, (_request, reply) => reply.events(async function * ({ signal }) {
          yield 1
          await once(signal, 'abort')
        }))
      }
    })
    const { sessionId } = await openStream(t, url)
    const post = await request(`${url}/ask`, { method: 'POST' })
    post.body.on('error', () => {}).resume()
    for (const [target, headers] of [[`${url}/downward`, { 'x-session-id': sessionId }], [url + String(post.headers['location']), {}]] as const) {
      const send = async (type: string | undefined, body?: string): Promise<{ status: number, body: unknown }> => {
        const { statusCode: status, body: response } = await request(target, { method: 'DELETE', headers: { ...headers, ...type !== undefined && { 'content-type': type } }, body: body === undefined ? null : Buffer.from(body) })
        const json = await response.text()
        return { status, body: json === '' ? undefined : JSON.parse(json) as unknown }
      }
      for (const [type, body] of [['text/plain', 'hi'], ['text/plain', undefined], ['application/x-www-form-urlencoded', 'a=b'], ['application/x-ndjson', '{}'], ['multipart/form-data; boundary=x', ''], [undefined, 'hi']] as const) {
        const response = await send(type, body)
        assertErrorResponse(t, { ...response, headers: {} } as Parameters<typeof assertErrorResponse>[1], 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
        t.match(response.body, { message: /send no body, or "Content-Type: application\/json"/ }, `${target}, ${type}, ${body}`)
      }
      t.equal((await send('application/json', hasParsers ? undefined : '{"a":1}')).status, 204)
    }
  }
})

t.test('the content type of a GET does not matter, and neither does its body', async t => {
  const { port, url } = await serve(t, {}, {
    afterRegister: app => { app.get('/ask', { resumable: true }, (_request, reply) => reply.events([1])) }
  })
  for (const path of ['/downward', '/ask']) {
    const client = openRawClient(t, port, { request: `GET ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi` })
    await client.waitFor('200 OK')
    await client.waitFor('id: ')
  }
  t.equal((await fetch(`${url}/ask`)).status, 200)
})

t.test('application/json with an empty body is a message without data, and works for DELETE', async t => {
  const { url, sessions } = await serve(t)
  sessions.handle('ping', (_session, data) => typeof data)
  const { sessionId } = await openStream(t, url)
  const headers = { 'content-type': 'application/json', 'x-session-id': sessionId }
  t.match(await postMessage(url, sessionId, '', { event: 'ping' }), { status: 200, body: 'undefined' })
  t.equal((await request(`${url}/upward/ping`, { method: 'POST', headers })).statusCode, 200)
  t.equal((await request(`${url}/downward`, { method: 'DELETE', headers })).statusCode, 204)
})

t.test('a body over HTTP/2 needs no Content-Length', async t => {
  const { url, sessions } = await serve(t, {}, { fastify: { http2: true } as object })
  sessions.handle('return', (_session, data) => ({ data }))
  const client = connect(url)
  t.teardown(() => { client.destroy() })
  const stream = client.request({ ':path': '/downward' })
  const [{ 'x-session-id': sessionId }] = await once(stream, 'response') as [Record<string, string>]
  for (const [body, expected] of [['1', '{"data":1}'], ['', '{}']]) {
    const post = client.request({ ':method': 'POST', ':path': '/upward/return', 'content-type': 'application/json', 'x-session-id': sessionId }, { endStream: body === '' })
    if (body !== '') post.end(body)
    post.setEncoding('utf8')
    let text = ''
    post.on('data', (chunk: string) => { text += chunk })
    await once(post, 'end')
    t.equal(text, expected)
  }
})

// Such a body is recognized only when it ends.
const POSTS: Array<[type: string | undefined, body: string | undefined, status: number, text: string]> = [
  ['application/json', undefined, 200, '"undefined"'],
  [undefined, undefined, 200, '"undefined"'],
  ['application/json', '{"a":1}', 200, '"object"'],
  [undefined, '{"a":1}', 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE'],
  ['application/x-ndjson', undefined, 200, '[]']
]

t.test('an empty body may be chunked', async t => {
  const { url, port, sessions } = await serve(t)
  sessions.handle('ping', (_session, data) => JSON.stringify(typeof data))
  const { sessionId } = await openStream(t, url)
  const send = async (method: string, path: string, type: string | undefined, body: string | undefined): Promise<[status: number | undefined, text: string]> => {
    const post = httpRequest({ port, method, path, headers: { 'transfer-encoding': 'chunked', 'x-session-id': sessionId, ...type !== undefined && { 'content-type': type } } })
    post.flushHeaders()
    post.end(body)
    const [response] = await withTimeout(once(post, 'response'), 'the response') as [IncomingMessage]
    return [response.statusCode, await text(response)]
  }
  for (const [type, body, status, expected] of POSTS) t.match(await send('POST', '/upward/ping', type, body), [status, expected], `${type}, ${body}`)
  t.match(await send('DELETE', '/downward', 'application/json', undefined), [204, ''])
})

t.test('an empty body may end before the hooks of the app', async t => {
  const { port, url, sessions } = await serve(t, {}, {
    beforeRegister: app => app.addHook('preParsing', async ({ raw }) => {
      if (raw.method === 'POST') await waitUntil(() => raw.complete, 'the end of the body')
    })
  })
  sessions.handle('ping', (_session, data) => typeof data)
  const { sessionId } = await openStream(t, url)
  const request = `POST /upward/ping HTTP/1.1\r\nHost: localhost\r\nX-Session-ID: ${sessionId}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`
  await openRawClient(t, port, { request }).waitFor('undefined')
})

t.test('an empty body over HTTP/2 may end after the headers', async t => {
  const server = await serve(t, {}, { fastify: http2Options })
  server.sessions.handle('ping', (_session, data) => JSON.stringify(typeof data))
  const client = connectHttp2(t, server)
  const { headers: { 'x-session-id': sessionId } } = await requestHttp2(client, { ':path': '/downward' })
  const send = async (method: string, path: string, type: string | undefined, body: string | undefined): Promise<[status: number, text: string]> => {
    const { headers, text, ended } = await requestHttp2(client, { ':method': method, ':path': path, 'x-session-id': String(sessionId), ...type !== undefined && { 'content-type': type } }, body === undefined ? {} : { body })
    await ended
    return [Number(headers[':status']), text()]
  }
  for (const [type, body, status, expected] of POSTS) t.match(await send('POST', '/upward/ping', type, body), [status, expected], `${type}, ${body}`)
  t.match(await send('DELETE', '/downward', 'application/json', undefined), [204, ''])
})

t.test('a body of unknown length may arrive in parts, or never', async t => {
  const errors: string[] = []
  let started = 0
  const { port, url, sessions } = await serve(t, {}, {
    beforeRegister: app => app
      .addHook('preParsing', async ({ method }) => { if (method === 'POST') started++ })
      .addHook('onError', async (_request, _reply, { message }) => { errors.push(message) })
  })
  sessions.handle('return', (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  const request = `POST /upward/return HTTP/1.1\r\nHost: localhost\r\nX-Session-ID: ${sessionId}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`
  const [first, second] = [openRawClient(t, port, { request }), openRawClient(t, port, { request })]
  await waitUntil(() => started === 2, 'the requests')
  first.socket.write('3\r\n{"a\r\n')
  first.socket.write('4\r\n":1}\r\n0\r\n\r\n')
  await first.waitFor('{"a":1}')
  second.socket.destroy()
  await waitUntil(() => errors.length === 1, 'the error')
})

t.test('the event name can be in the query, so that it may contain a slash', async t => {
  const { url, sessions } = await serve(t)
  sessions.handle('a/b', (_session, data, { message, request }) => ({ event: message.event, params: request.params, data }))
  const { sessionId } = await openStream(t, url)
  t.strictSame((await postMessage(url, sessionId, 1, { path: '/upward?event=a%2Fb' })).body, { event: 'a/b', params: { event: 'a/b' }, data: 1 })
  assertErrorResponse(t, await postMessage(url, sessionId, 1, { path: '/upward?event=' }), 400, 'FST_ERR_VALIDATION')
  assertErrorResponse(t, await postMessage(url, sessionId, 1, { path: '/upward?event=a&event=b' }), 400, 'FST_ERR_VALIDATION')
  assertErrorResponse(t, await postMessage(url, sessionId, 1, { path: '/upward/other?event=a%2Fb' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  matchList(t, await postMessage(url, sessionId, '{"data":2}', { path: '/upward?event=a%2Fb', headers: { 'content-type': 'application/x-ndjson' } }), { body: [{ body: { event: 'a/b', data: 2 } }] })
})
