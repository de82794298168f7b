import t from 'tap'
import { request as httpRequest } from 'node:http'
import { connectHttp2, http2Options, requestHttp2 } from '../support/http2.js'
import { openRawClient } from '../support/raw-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { ACCEPT, callMessage, initializeMessage, openGet, post, startSession } from './support/raw.js'
import { serveMcp, serverWith, text } from './support/server.js'

const PING = { jsonrpc: '2.0', id: 1, method: 'ping' }

/** Returns a JSON value that is nested this deeply. */
const nest = (depth: number): string => `${'['.repeat(depth)}${']'.repeat(depth)}`

/** Returns the message of a response, or the last one of its stream. */
async function messageOf (response: Response): Promise<unknown> {
  const [json = ''] = (await withTimeout(response.text(), 'the response')).match(/\{[^\n]*/g)?.slice(-1) ?? []
  return JSON.parse(json)
}

/** Asserts that the session still works. */
async function assertWorks (t: import('tap').Test, url: string, session: Record<string, string>): Promise<void> {
  t.match(await messageOf(await post(url, callMessage(12345, 'add', { a: 1, b: 2 }), session)), { result: text('3') })
}

t.test('every invalid body is refused with 4xx, and the session continues', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const message = (change: object): object => ({ ...PING, ...change })
  const bodies: unknown[] = [
    'null', 'true', '0', '""', '"ping"', '[null]', '[[]]', '[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]', '{}', '[{}]', '{"jsonrpc":"2.0"}',
    '{"jsonrpc":"2.0","id":1}', '{"jsonrpc":"2.0","method":null}', '{"jsonrpc":"2.0","id":1,"method":""', '\u0000', '{"__proto__":{}}', '{"constructor":{"prototype":{}}}',
    '{"jsonrpc":"2.0","id":1,"method":"ping","__proto__":{"id":2}}', '{"jsonrpc":"2.0","id":1e400,"method":"ping"}', '{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
    ...[true, [], {}, null, [1], 1e300, 2 ** 53].map(id => message({ id })),
    ...[1, true, [], {}, null].map(method => message({ method })),
    ...[1, true, 'text', [], null].map(params => message({ params })),
    ...[1, [], 'x', { progressToken: {} }, { progressToken: 1.5 }, { progressToken: null }].map(_meta => message({ params: { _meta } })),
    ...['1.0', 2, '2', null, '', ['2.0']].map(jsonrpc => message({ jsonrpc })),
    { jsonrpc: '2.0', id: 1, result: 1 }, { jsonrpc: '2.0', id: 1, result: null }, { jsonrpc: '2.0', id: 1, error: 'text' }, { jsonrpc: '2.0', id: 1, error: null },
    { jsonrpc: '2.0', result: {} }, { jsonrpc: '2.0', id: null, result: {} }, { jsonrpc: '2.0', id: {}, error: {} }, message({ id: null, error: {} }),
    [PING, PING], [PING, null], [], Array.from({ length: 300 }, (_, id) => ({ ...PING, id })),
    initializeMessage(), [initializeMessage()], { jsonrpc: '2.0', method: 'initialize' },
    `{"jsonrpc":"2.0","id":1,"method":"ping","params":${'x'.repeat(10)}}`, nest(50_000), 'x'.repeat(2_000_000)
  ]
  for (const body of bodies) {
    const { status } = await post(url, body, session)
    t.ok(status >= 400 && status < 500, `${status} for ${String(typeof body === 'string' ? body : JSON.stringify(body)).slice(0, 80)}`)
  }
  await assertWorks(t, url, session)
})

t.test('valid messages with unusual contents get a response', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  for (const id of ['', 'constructor', '__proto__', 'x'.repeat(100_000), '\n\n: \u2028', -1, 0, Number.MAX_SAFE_INTEGER]) {
    t.match(await messageOf(await post(url, { ...PING, id }, session)), { id, result: {} })
  }
  for (const method of ['', 'constructor', '__proto__', 'toString', 'tools/call\n', 'x'.repeat(100_000)]) {
    t.match(await messageOf(await post(url, { ...PING, method }, session)), { error: { code: -32601 } })
  }
  for (const params of [{}, { name: {} }, { name: 'unknown' }, { name: 'add' }, { name: 'add', arguments: [] }, { name: '__proto__', arguments: {} }, { name: 'add', arguments: { a: '1', b: {} } }]) {
    const { result, error } = await messageOf(await post(url, { ...PING, method: 'tools/call', params }, session)) as { result?: { isError: boolean }, error?: object }
    t.ok(error !== undefined || result?.isError)
  }
  const deep = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":${nest(10_000)},"b":1}}}`
  t.ok((await post(url, deep, session)).status < 500)
  // The SDKs ignore a message that has members which they do not know.
  t.match(await messageOf(await post(url, { ...PING, other: 1 }, session)), { id: 1, result: {} })
  // Responses and cancellations for requests that do not exist.
  for (const body of [{ jsonrpc: '2.0', id: 99, result: {} }, { jsonrpc: '2.0', id: '__proto__', error: { code: 1, message: '' } }, ...[1, 'x', {}, null, undefined, [1]].map(requestId => ({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId } })), { jsonrpc: '2.0', method: 'notifications/cancelled' }, { jsonrpc: '2.0', method: 'notifications/unknown', params: {} }]) {
    t.equal((await post(url, body, session)).status, 202)
  }
  await assertWorks(t, url, session)
})

t.test('an initialize that is too large or nested too deeply is refused, and starts no session', async t => {
  const { server, servers } = serverWith(() => {})
  const { url } = await serveMcp(t, { server })
  const initialize = (json: string): string => JSON.stringify(initializeMessage()).replace('"capabilities":{}', `"capabilities":{"experimental":{"x":{"y":${json}}}}`)
  for (const json of [`[${'[],'.repeat(30_000)}[]]`, `"${'x'.repeat(70_000)}"`, nest(50_000)]) {
    const response = await post(url, initialize(json))
    t.equal(response.status, 400)
    t.match(await response.json(), { id: null, error: { code: -32600, message: /at most 65536 characters/, data: { code: 'FST_SSE_MCP_MESSAGE_INVALID' } } })
  }
  t.equal(servers.length, 0)
  t.equal((await post(url, initialize(`"${'x'.repeat(64_000)}"`))).status, 200)
})

t.test('a request with a lasting effect whose params are nested too deeply gets a response', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const request = `{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error","x":${nest(10_000)}}}`
  t.match(await messageOf(await post(url, request, session)), { id: 1, result: {} })
})

t.test('unusual headers are refused with 4xx, and a session works only for its client', async t => {
  const { app, url } = await serveMcp(t, { principal: ({ headers: { user } }) => user as string | undefined })
  const [session, foreign] = [await startSession(url, undefined, { user: 'a' }), await startSession(url, undefined, { user: 'b' })]
  const id = String(session['mcp-session-id'])
  const response = await post(url, callMessage(1, 'count', { to: 1 }), session)
  const [, eventId = ''] = /^id: (\S+)/m.exec(await response.text()) ?? []
  const [streamId = ''] = eventId.split('.')
  const headers = { accept: ACCEPT, host: 'localhost', user: 'a', 'mcp-session-id': id }
  const variants: Array<Record<string, string | string[]>> = [
    ...['', ' ', 'x', id.toLowerCase() + id.toUpperCase(), `${id} `.repeat(2), `${id},${id}`, id.slice(1), streamId, 'x'.repeat(8000), '__proto__', '../x', '*'].map(value => ({ 'mcp-session-id': value })),
    { user: 'b' }, { user: '' }, { user: 'A' }, { 'mcp-session-id': String(foreign['mcp-session-id']) },
    ...['', 'x', '2025', '2025-11-25 ', '2025-11-25, 2025-06-18', '1', '__proto__'].map(version => ({ 'mcp-protocol-version': `${version}?` })),
    ...['', 'text/plain', 'application/json;q=0', 'text/event-stream;q=0, application/json', '*/*;q=0'].map(accept => ({ accept })),
    ...['evil.example', 'localhost.evil.example', 'localhost@evil.example', 'evil.example:80', 'localhost:80:80', '[::1', '127.0.0.1.evil.example', '0.0.0.0', 'localhost/', 'localhost:99999'].map(host => ({ host })),
    ...['https://evil.example', 'null', '', 'http://localhost.evil.example', 'http://localhost@evil.example', 'x', 'file://', 'http://'].map(origin => ({ origin })),
    ...['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', 'application/jsonx'].map(type => ({ 'content-type': type }))
  ]
  for (const variant of variants) {
    const { statusCode } = await app.inject({ method: 'POST', url: '/mcp', headers: { 'content-type': 'application/json', ...headers, ...variant }, payload: JSON.stringify(PING) })
    t.ok(statusCode >= 400 && statusCode < 500, `${statusCode} for ${JSON.stringify(variant).slice(0, 80)}`)
  }
  for (const lastEventId of ['', '.', '.1', `${streamId}.`, `${streamId}.-1`, `${streamId}.1.1`, `${streamId}.!`, `${streamId}.99999999999999999999`, 'x'.repeat(8000), `${String(foreign['mcp-session-id'])}.0`]) {
    const response = await fetch(url, { headers: { ...session, accept: 'text/event-stream', 'last-event-id': lastEventId } })
    t.ok(response.status === 400 || (response.status === 200 && lastEventId === ''), `${response.status} for ${lastEventId.slice(0, 80)}`)
    await response.body?.cancel()
  }
  // Another session cannot resume the stream, and a position of the future is no error.
  t.equal((await fetch(url, { headers: { ...foreign, 'last-event-id': eventId } })).status, 400)
  t.match(await (await fetch(url, { headers: { ...session, 'last-event-id': `${streamId}.999999` } })).text(), /event: close/)
  await assertWorks(t, url, session)
})

t.test('requests that are aborted leave nothing behind', async t => {
  const { app, url } = await serveMcp(t, { maxWaitingMessages: 8 })
  const session = await startSession(url)
  const { port } = new URL(url)
  const body = JSON.stringify(callMessage(1, 'count', { to: 10 }))
  for (let index = 0; index < 20; index++) {
    const request = httpRequest({ port, host: '127.0.0.1', path: '/mcp', method: 'POST', headers: { ...session, host: 'localhost', accept: ACCEPT, 'content-type': 'application/json', 'content-length': body.length } })
    const closed = new Promise<void>(resolve => { request.on('error', () => {}).on('close', resolve) })
    if (index % 2 === 0) request.write(body.slice(0, 10), () => { request.destroy() })
    else request.end(body.replace('"id":1', `"id":${index}`), () => { request.destroy() })
    await withTimeout(closed, 'the request to close')
  }
  const incomplete = openRawClient(t, Number(port), { request: 'POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{' })
  await waitUntil(async () => (await post(url, PING, session)).status === 200, 'the calls to end')
  await withTimeout(app.close(), 'close()')
  await withTimeout(incomplete.closed, 'the connection to close')
})

t.test('tools that fail, reply twice, or send to a client that is gone do no harm', async t => {
  const { server, servers } = serverWith(server => {
    server.registerTool('throw', {}, () => { throw new Error('thrown') })
    server.registerTool('throw-object', {}, () => { throw Object.create(null) })
    server.registerTool('circular', {}, () => {
      const structuredContent: Record<string, unknown> = {}
      structuredContent.self = structuredContent
      return { content: [], structuredContent }
    })
    server.registerTool('big', {}, () => ({ content: [], structuredContent: { value: 1n } }))
    server.registerTool('nothing', {}, () => undefined as never)
    server.registerTool('lines', {}, () => text('a\r\n\n\rdata: x\n\nid: y\u2028'))
  })
  const { url } = await serveMcp(t, { server })
  const session = await startSession(url)
  const unserializable = { code: -32603, message: /^The data of an event is invalid/ }
  for (const [id, [name, outcome]] of Object.entries({
    throw: { result: { isError: true, ...text('thrown') } },
    'throw-object': { error: { code: -32603 } },
    circular: { error: unserializable },
    big: { error: unserializable },
    nothing: { error: { code: -32602 } }
  }).entries()) {
    const response = await post(url, callMessage(id, name), session)
    t.equal(response.status, 200, name)
    t.match(await response.json(), { jsonrpc: '2.0', id, ...outcome }, name)
  }
  t.match(await messageOf(await post(url, callMessage(9, 'lines'), session)), { result: text('a\r\n\n\rdata: x\n\nid: y\u2028') })
  const transport = servers[0]?.server.transport as unknown as { send: (message: object, options?: object) => Promise<void> }
  await transport.send({ jsonrpc: '2.0', id: 'unknown', result: {} })
  await transport.send({ jsonrpc: '2.0', method: 'x' }, { relatedRequestId: 'unknown' })
  await t.rejects(transport.send({ jsonrpc: '2.0', id: 1, method: 'x' }, { relatedRequestId: 'unknown' }))
  const deleted = await startSession(url)
  t.equal((await fetch(url, { method: 'DELETE', headers: deleted })).status, 204)
  await t.rejects(async () => { await servers[1]?.sendLoggingMessage({ level: 'info', data: 'late' }) })
  await assertWorks(t, url, session)
})

t.test('calls, streams and resumed streams over HTTP/2', async t => {
  const { app } = await serveMcp(t, {}, undefined, http2Options)
  const port = (app.server.address() as import('node:net').AddressInfo).port
  const client = connectHttp2(t, { port })
  const send = async (headers: Record<string, string>, body?: object): Promise<Awaited<ReturnType<typeof requestHttp2>>> =>
    await requestHttp2(client, { ':path': '/mcp', ':method': body === undefined ? 'GET' : 'POST', accept: ACCEPT, ...body && { 'content-type': 'application/json' }, ...headers }, body && { body: JSON.stringify(body) })
  const { headers: { 'mcp-session-id': id } } = await send({}, initializeMessage())
  const session = { 'mcp-session-id': String(id) }
  const response = await send(session, callMessage(1, 'count', { to: 3 }))
  await response.ended
  t.match(response.text(), /counted to 3[^]*event: close/)
  const [, eventId = ''] = /^id: (\S+)/m.exec(response.text()) ?? []
  const resumed = await send({ ...session, 'last-event-id': eventId })
  await resumed.ended
  t.match(resumed.text(), /counted to 3/)
  t.equal((await send({ ...session, ':authority': 'evil.example' }, PING)).headers[':status'], 403)
  const waiting = await send(session, callMessage(2, 'wait'))
  waiting.cancel()
  await waiting.ended
  const refused = await send(session, callMessage(2, 'wait'))
  t.equal(refused.headers[':status'], 400, 'the call runs')
  await withTimeout(app.close(), 'close()')
})

t.test('requests while the app closes get a response other than 500, or their connection is closed', async t => {
  /** Resolves when the response has ended. */
  const statusOf = async (request: Promise<Response>): Promise<number> => {
    const response = await request
    await response.text()
    return response.status
  }
  for (const return503OnClosing of [true, false]) {
    const { app, url } = await serveMcp(t, { closeTimeout: 200 }, undefined, { return503OnClosing })
    const session = await startSession(url)
    const stream = await openGet(t, url, session)
    const send = (id: number): Promise<Array<PromiseSettledResult<number>>> => Promise.allSettled([
      post(url, callMessage(id, 'wait'), session),
      post(url, initializeMessage()),
      post(url, { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: id } }, session),
      fetch(url, { headers: session }),
      fetch(url, { method: 'DELETE', headers: { ...session, 'mcp-session-id': id % 2 === 0 ? 'x' : String(session['mcp-session-id']) } })
    ].map(statusOf))
    const before = send(1)
    const closed = app.close()
    const during = send(2)
    await withTimeout(closed, 'close()')
    const outcomes = (await withTimeout(Promise.all([before, during, send(3)]), 'the responses')).flat()
    await withTimeout(stream.ended, 'the end of the stream')
    // `fetch` rejects with a TypeError if the connection is closed.
    t.strictSame(outcomes.filter(outcome => outcome.status === 'fulfilled' ? outcome.value === 500 : !(outcome.reason instanceof TypeError)), [])
  }
})
