import cors from '@fastify/cors'
import Fastify from 'fastify'
import t from 'tap'
import mcp, { type McpOptions } from '../../lib/mcp/index.js'
import { FlakyStore } from '../support/flaky-store.js'
import { matchList } from '../support/match-list.js'
import { openRawClient } from '../support/raw-client.js'
import { listen } from '../support/server.js'
import { waitUntil } from '../support/wait.js'
import { ACCEPT, callMessage, initializeMessage, openGet, post, startSession } from './support/raw.js'
import { createServer, serveMcp } from './support/server.js'

const PING = { jsonrpc: '2.0', id: 1, method: 'ping' }

async function assertError (t: import('tap').Test, response: Response, status: number, code: number, message = /./): Promise<void> {
  t.equal(response.status, status)
  t.equal(response.headers.get('cache-control'), 'no-store')
  t.match(await response.json(), { jsonrpc: '2.0', id: null, error: { code, message } })
}

t.test('starts a session whose id is in the response, and refuses a second initialize', async t => {
  const { url } = await serveMcp(t)
  const response = await post(url, initializeMessage())
  t.match(await response.json(), { id: 0, result: { protocolVersion: '2025-11-25' } })
  const session = { 'mcp-session-id': String(response.headers.get('mcp-session-id')) }
  t.match(session['mcp-session-id'], /^[\w-]{24}$/)
  t.equal((await post(url, { jsonrpc: '2.0', method: 'notifications/initialized' }, session)).status, 202)
  t.match(await (await post(url, PING, session)).json(), { id: 1, result: {} })
  await assertError(t, await post(url, initializeMessage(), session), 400, -32600, /initialized before/)
  await assertError(t, await post(url, { jsonrpc: '2.0', method: 'initialize' }), 400, -32600, /must be a request/)
  await assertError(t, await post(url, [initializeMessage(), PING]), 400, -32600, /the only one/)
})

t.test('a request without the id of an open session is refused', async t => {
  const { url } = await serveMcp(t)
  await assertError(t, await post(url, PING), 400, -32000, /Mcp-Session-Id/)
  await assertError(t, await post(url, PING, { 'mcp-session-id': 'unknown' }), 404, -32001)
  t.equal((await fetch(url, { headers: { accept: 'text/event-stream' } })).status, 400)
  t.equal((await fetch(url, { method: 'DELETE' })).status, 400)
  const session = await startSession(url)
  t.equal((await fetch(url, { method: 'DELETE', headers: session })).status, 204)
  await assertError(t, await post(url, PING, session), 404, -32001)
  t.equal((await fetch(url, { method: 'DELETE', headers: session })).status, 404)
  t.equal((await fetch(url, { headers: session })).status, 404)
})

t.test('a session belongs to the principal that has started it', async t => {
  const { url } = await serveMcp(t, { principal: ({ headers: { user } }) => user as string | undefined })
  const session = await startSession(url, undefined, { user: 'a' })
  t.equal((await post(url, PING, session)).status, 200)
  await assertError(t, await post(url, PING, { ...session, user: 'b' }), 404, -32001)
  t.equal((await fetch(url, { headers: { ...session, user: 'b' } })).status, 404)
  t.equal((await fetch(url, { method: 'DELETE', headers: { ...session, user: 'b' } })).status, 404)
})

t.test('refuses other methods, types, revisions, hosts and origins', async t => {
  const { app, url } = await serveMcp(t, { allowedOrigins: ['https://Pages.example'] })
  const session = await startSession(url)
  for (const method of ['PUT', 'PATCH', 'HEAD']) {
    const response = await fetch(url, { method })
    t.equal(response.status, 405)
    t.equal(response.headers.get('allow'), 'GET, POST, DELETE')
  }
  await assertError(t, await post(url, PING, { ...session, accept: 'application/json' }), 406, -32000)
  await assertError(t, await post(url, PING, { ...session, accept: 'text/event-stream' }), 406, -32000)
  await assertError(t, await fetch(url, { headers: { ...session, accept: 'application/json' } }), 406, -32000)
  await assertError(t, await post(url, PING, { ...session, 'content-type': 'text/plain' }), 415, -32000)
  await assertError(t, await fetch(url, { method: 'POST', headers: session }), 415, -32000)
  await assertError(t, await post(url, PING, { ...session, 'mcp-protocol-version': '1999-01-01' }), 400, -32000, /2025-11-25/)
  t.equal((await post(url, PING, { ...session, 'mcp-protocol-version': '2025-06-18' })).status, 200)
  for (const [origin, status] of [['https://evil.example', 403], ['null', 403], ['http://localhost:1', 200], ['https://pages.example', 200]] as const) t.equal((await post(url, PING, { ...session, origin })).status, status, origin)
  for (const [host, status] of [['evil.example', 403], ['LOCALHOST:1', 400]] as const) t.equal((await app.inject({ method: 'POST', url: '/mcp', headers: { host, accept: ACCEPT }, payload: PING })).statusCode, status, host)
})

t.test('refuses bodies that are no messages', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  await assertError(t, await post(url, '{', session), 400, -32700)
  await assertError(t, await post(url, '', session), 415, -32000)
  for (const body of [[], 1, {}, { jsonrpc: '2.0' }, { ...PING, jsonrpc: '1.0' }, { ...PING, id: {} }, { ...PING, id: null }, { ...PING, method: 1 }, { ...PING, params: [] }, { jsonrpc: '2.0', result: {} }, { jsonrpc: '2.0', id: 1, result: {}, error: {} }]) await assertError(t, await post(url, body, session), 400, -32600)
  t.equal((await post(url, { jsonrpc: '2.0', id: null, error: { code: 1, message: '' } }, session)).status, 202)
  await assertError(t, await post(url, [PING], session), 400, -32600, /no batches/)
})

t.test('responds to a batch of revision 2025-03-26 with an array, or with a stream', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url, '2025-03-26')
  matchList(t, await (await post(url, [PING, { ...PING, id: 2 }], session)).json(), [{ id: 1 }, { id: 2 }])
  await assertError(t, await post(url, [PING, PING], session), 400, -32600, /in use/)
  const text = await (await post(url, [PING, callMessage(2, 'count', { to: 2 })], session)).text()
  t.match(text, /^retry: 1\nid: \S+\n\nid: \S+\ndata: \{"result":\{\},"jsonrpc":"2.0","id":1\}\n\n/)
  t.match(text, /counted to 2/)
})

t.test('a stream starts with an event without data, and ends with an id that stops the client', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'count', { to: 1 }), session)
  t.match(response.headers.get('content-type'), /^text\/event-stream/)
  t.equal(response.headers.get('mcp-session-id'), session['mcp-session-id'])
  const text = await response.text()
  t.match(text, /^retry: 1\nid: \S+\ndata: \n\nid: /)
  t.match(text, /\nevent: close\nid: closed\ndata: \n\n$/)
  t.equal((await fetch(url, { headers: { ...session, 'last-event-id': 'closed' } })).status, 204)
  const [, id = ''] = /id: (\S+)/.exec(text) ?? []
  t.match(await (await fetch(url, { headers: { ...session, 'last-event-id': id } })).text(), /counted to 1/)
  for (const lastEventId of ['unknown', `${'x'.repeat(24)}.1`]) await assertError(t, await fetch(url, { headers: { ...session, 'last-event-id': lastEventId } }), 400, -32000, /no stream/)
  await assertError(t, await fetch(url, { headers: { ...await startSession(url), 'last-event-id': id } }), 400, -32000, /no stream/)
})

t.test('a second GET replaces the first one', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const first = await openGet(t, url, session)
  await waitUntil(() => first.events.length > 0, 'the first event')
  const second = await openGet(t, url, session)
  await first.ended
  t.match(first.events.at(-1), { event: 'replaced', id: 'closed' })
  await waitUntil(() => second.events.length > 0, 'the first event')
  t.equal((await fetch(url, { method: 'DELETE', headers: session })).status, 204)
  await second.ended
  t.match(second.events.at(-1), { event: 'close', id: 'closed' })
})

t.test('a GET of a session or stream that the store does not have any more is refused', async t => {
  const store = new FlakyStore()
  const { url } = await serveMcp(t, { store: store.createStore })
  const session = await startSession(url)
  const [, id = ''] = /id: (\S+)/.exec(await (await post(url, callMessage(1, 'count', { to: 1 }), session)).text()) ?? []
  store.losesSessions = true
  await assertError(t, await fetch(url, { headers: { ...session, 'last-event-id': id } }), 400, -32000, /no stream/)
  await assertError(t, await fetch(url, { headers: session }), 404, -32001)
})

t.test('a connection with many pipelined GETs is closed', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const get = `GET /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: ${session['mcp-session-id'] ?? ''}\r\n\r\n`
  const client = openRawClient(t, Number(new URL(url).port), { request: get.repeat(12) })
  await client.closed
})

t.test('limits of sessions and streams give 503', async t => {
  const { url } = await serveMcp(t, { maxSessionsPerPrincipal: 1, principal: () => 'a' })
  const session = await startSession(url)
  const stream = await openGet(t, url, session)
  const response = await post(url, initializeMessage())
  t.equal(response.headers.get('retry-after'), '1')
  await assertError(t, response, 503, -32000, /sessions/)
  stream.destroy()
  const waiting = await post(url, callMessage(1, 'wait'), session)
  await assertError(t, await post(url, callMessage(2, 'wait'), session), 503, -32000, /streams/)
  await waiting.body?.cancel()
})

t.test('an error of initialize starts no session', async t => {
  const { url } = await serveMcp(t, {
    server: async () => ({
      connect: async (transport: import('../../lib/mcp/transport.js').McpTransport) => {
        transport.onmessage = ({ id = 0 }) => { transport.send({ jsonrpc: '2.0', id, error: { code: -32602, message: 'no' } }) }
      }
    })
  })
  const response = await post(url, initializeMessage())
  t.match(await response.json(), { error: { message: 'no' } })
  t.equal(response.headers.get('mcp-session-id'), null)
  const { url: failing } = await serveMcp(t, { server: () => { throw Object.assign(new Error('no server'), { statusCode: 418 }) } })
  const failed = await post(failing, initializeMessage())
  t.equal(failed.status, 418)
  t.match(await failed.json(), { statusCode: 418, message: 'no server' })
})

t.test('hooks, CORS and the authentication of the app apply', async t => {
  let auth: unknown
  const server = (): ReturnType<typeof createServer> => {
    const server = createServer()
    server.registerTool('whoami', {}, ({ authInfo, requestInfo }) => {
      auth = authInfo
      return { content: [{ type: 'text', text: String(requestInfo?.headers.host) }] }
    })
    return server
  }
  const { url } = await serveMcp(t, { server }, app => {
    app.register(cors, { exposedHeaders: ['x-a'] })
    app.addHook('onRequest', async request => {
      if (request.headers.authorization === 'wrong') throw Object.assign(new Error('wrong'), { statusCode: 401 })
      Object.assign(request, { auth: { token: 'abc' } })
    })
  })
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'whoami'), { ...session, origin: 'http://localhost' })
  t.equal(response.headers.get('access-control-expose-headers'), 'x-a, Mcp-Session-Id')
  matchList(t, await response.json(), { result: { content: [{ text: new URL(url).host }] } })
  t.strictSame(auth, { token: 'abc' })
  t.match(await (await post(url, PING, { ...session, authorization: 'wrong' })).json(), { statusCode: 401, message: 'wrong' })
  const { url: plain } = await serveMcp(t, {}, app => { app.register(cors) })
  t.equal((await post(plain, PING, { origin: 'http://localhost' })).headers.get('access-control-expose-headers'), 'Mcp-Session-Id')
})

t.test('a shared cache cannot store a response with a session id, even if a later hook of the app sets Cache-Control', async t => {
  const app = Fastify()
  await app.register(mcp, { server: createServer, closeTimeout: 500 })
  app.addHook('onSend', async (_request, reply) => { reply.header('cache-control', 'public, max-age=60') })
  const url = `${await listen(t, app)}/mcp`
  t.equal((await post(url, initializeMessage())).headers.get('cache-control'), 'no-store')
  const session = await startSession(url)
  t.equal((await post(url, callMessage(1, 'count', { to: 1 }), session)).headers.get('cache-control'), 'no-store')
  t.equal((await openGet(t, url, session)).headers['cache-control'], 'no-store')
})

t.test('invalid options fail the boot', async t => {
  const invalid: Array<[Record<string, unknown>, RegExp]> = [
    [{ sessionTimeout: 1 }, /"sessionTimeout" must be removed/],
    [{ path: 'mcp' }, /"path"/],
    [{ server: {} }, /"server"/],
    [{ handler: {} }, /"handler"/],
    [{ allowedHosts: 'localhost' }, /"allowedHosts"/],
    [{ allowedOrigins: [1] }, /"allowedOrigins"/],
    [{ resumeTimeout: -1 }, /"resumeTimeout"/],
    [{ resumeTimeout: 0 }, /"resumeTimeout"/],
    [{ initializeTimeout: 0 }, /"initializeTimeout"/],
    [{ allowedHosts: ['https://example.com'] }, /"allowedHosts" must be an array of hosts/],
    [{ allowedOrigins: ['https://example.com/'] }, /"allowedOrigins" must be an array of origins/],
    [{ log: 5 }, /"log"/]
  ]
  for (const [options, message] of invalid) {
    const app = Fastify()
    app.register(mcp, { server: createServer, ...options } as McpOptions)
    await t.rejects(async () => { await app.ready() }, { code: 'FST_SSE_OPTION_INVALID', message })
  }
})

t.test('is registered under a prefix, and ignores options that fastify-cli and @fastify/autoload add', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(mcp, { server: createServer, prefix: '/api', path: '/tools', log: { entries: 500 }, skipOverride: true } as McpOptions)
  t.equal((await app.inject({ method: 'POST', url: '/api/tools', headers: { accept: ACCEPT }, payload: initializeMessage() })).statusCode, 200)
})
