import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { memoryStore, StoreUnavailable, type StoreFactory } from '../../lib/index.js'
import type { McpOptions } from '../../lib/mcp/index.js'
import type { JsonRpcRequest } from '../../lib/mcp/json-rpc.js'
import { addSetupRequest } from '../../lib/mcp/setup-requests.js'
import type { McpServerLike, McpTransport } from '../../lib/mcp/transport.js'
import { FlakyStore } from '../support/flaky-store.js'
import { openRawClient } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { ACCEPT, callMessage, initializeMessage, openGet, post, startSession } from './support/raw.js'
import { serveMcp, serverWith, text } from './support/server.js'

const PING = { jsonrpc: '2.0', id: 1, method: 'ping' }
const cancel = (requestId: number): object => ({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId } })

/** Returns the id of the last event of a stream that has one. */
const lastIdOf = (text: string): string => [...text.matchAll(/^id: (\S+)$/gm)].at(-1)?.[1] ?? ''

/** Creates servers with a tool that returns when a promise resolves. */
function withSlowTool (): ReturnType<typeof serverWith> & { finish: (value: string) => void, isAborted: () => boolean } {
  const { promise, resolve } = deferred<string>()
  let isAborted = false
  return {
    finish: resolve,
    isAborted: () => isAborted,
    ...serverWith(server => {
      server.registerTool('slow', {}, async ({ signal }) => {
        signal.addEventListener('abort', () => { isAborted = true })
        return text(await promise)
      })
    })
  }
}

t.test('a response that the store does not accept ends its stream, and the client that reconnects gets an error', async t => {
  const store = new FlakyStore()
  const { server, finish } = withSlowTool()
  const { url } = await serveMcp(t, { server, store: store.createStore })
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'slow'), session)
  store.isDown = true
  finish('slow')
  const id = lastIdOf(await withTimeout(response.text(), 'the end of the stream'))
  store.isDown = false
  const rest = await (await fetch(url, { headers: { ...session, 'last-event-id': id } })).text()
  t.match(rest, /"id":1,"error":\{"code":-32603,"message":"The response is lost, [^"]*"\}[^]*event: close/)
  // The call has ended, so its id can be used again.
  t.equal((await post(url, callMessage(1, 'slow'), session)).status, 200)
})

/** Starts an app with a hook that waits for a gate while an error with the status 503 is sent. */
async function serveWithHook (t: Test, name: 'onError' | 'onSend', options: Partial<McpOptions>): Promise<{ app: FastifyInstance, url: string, failing: Promise<void>, release: () => void }> {
  const [failing, gate] = [deferred(), deferred()]
  const wait = async (): Promise<void> => {
    failing.resolve()
    await gate.promise
  }
  const { app, url } = await serveMcp(t, { ...options, closeTimeout: 300 }, app => {
    if (name === 'onError') app.addHook('onError', wait)
    else app.addHook('onSend', async (_request, { statusCode }) => { if (statusCode === 503) await wait() })
  })
  return { app, url, failing: withTimeout(failing.promise, 'the hook'), release: gate.resolve }
}

for (const name of ['onError', 'onSend'] as const) {
  t.test(`while an ${name} hook runs for the 503 of close(), a DELETE that finishes sends nothing else`, async t => {
    const [ending, storeGate] = [deferred(), deferred()]
    const store = new FlakyStore()
    const { app, url, failing, release } = await serveWithHook(t, name, { store: store.createStore })
    const session = await startSession(url)
    store.delay = async name => {
      if (name !== 'end') return
      ending.resolve()
      await storeGate.promise
    }
    const deleted = fetch(url, { method: 'DELETE', headers: session })
    await withTimeout(ending.promise, 'the call of the store')
    const closing = app.close()
    await failing
    storeGate.resolve()
    // The result reaches the request in microtasks.
    await nextEventLoopTick()
    release()
    t.equal((await withTimeout(deleted, 'the response')).status, 503)
    await withTimeout(closing, 'close()')
  })

  t.test(`while an ${name} hook runs for the 503 of close(), a request without sessions that finishes sends nothing else`, async t => {
    const [started, gate] = [deferred(), deferred()]
    const fetchResponse = async (): Promise<Response> => {
      started.resolve()
      await gate.promise
      return Response.json({})
    }
    const { app, url, failing, release } = await serveWithHook(t, name, { handler: { fetch: fetchResponse } as NonNullable<McpOptions['handler']> })
    const posted = post(url, PING, { 'mcp-protocol-version': '2026-07-28' })
    await withTimeout(started.promise, 'the handler')
    const closing = app.close()
    await failing
    gate.resolve()
    await nextEventLoopTick()
    release()
    t.equal((await withTimeout(posted, 'the response')).status, 503)
    await withTimeout(closing, 'close()')
  })
}

t.test('a request is not handled if the handlerTimeout passes before, while an onError hook runs for its error', async t => {
  const [gate, failing, hookGate] = [deferred(), deferred(), deferred()]
  const { url } = await serveMcp(t, {}, app => {
    app.addHook('preHandler', async ({ headers }) => { if (headers['x-late'] !== undefined) await gate.promise })
    app.addHook('onError', async () => {
      failing.resolve()
      await hookGate.promise
    })
  }, { handlerTimeout: 50 })
  const session = await startSession(url)
  const deleted = fetch(url, { method: 'DELETE', headers: { ...session, 'x-late': 'yes' } })
  await withTimeout(failing.promise, 'the hook')
  gate.resolve()
  // Fastify calls the handler in a microtask.
  await nextEventLoopTick()
  hookGate.resolve()
  t.equal((await withTimeout(deleted, 'the response')).status, 503)
  t.equal((await post(url, PING, session)).status, 200, 'the session is not closed')
})

t.test('while an onError hook runs for the handlerTimeout of a GET that fails, nothing else is sent', async t => {
  const [failing, storeGate, hookGate] = [deferred(), deferred(), deferred()]
  const store = new FlakyStore()
  const { url } = await serveMcp(t, { store: store.createStore }, app => {
    app.addHook('onError', async () => {
      failing.resolve()
      await hookGate.promise
    })
  }, { handlerTimeout: 50 })
  const session = await startSession(url)
  store.delay = async name => {
    if (name !== 'findCached') return
    await storeGate.promise
    throw new StoreUnavailable()
  }
  const opened = openGet(t, url, session)
  await withTimeout(failing.promise, 'the hook')
  storeGate.resolve()
  // The error reaches the request in microtasks.
  await nextEventLoopTick()
  hookGate.resolve()
  t.equal((await withTimeout(opened, 'the response')).status, 503)
})

for (const method of ['open', 'update'] as const) {
  t.test(`a call is canceled if its stream cannot be opened because the method ${method} of the store fails`, async t => {
    const store = new FlakyStore()
    const { server, finish, isAborted } = withSlowTool()
    const { url } = await serveMcp(t, { server, store: store.createStore })
    const session = await startSession(url)
    store.delay = name => { if (name === method) throw new StoreUnavailable() }
    t.equal((await post(url, callMessage(1, 'slow'), session)).status, 503)
    t.ok(isAborted())
    store.delay = () => {}
    finish('slow')
    t.match(await (await post(url, callMessage(1, 'slow'), session)).json(), { id: 1, result: text('slow') })
  })
}

t.test('the client gets an error if the log level cannot be stored', async t => {
  const store = new FlakyStore()
  const { url } = await serveMcp(t, { store: store.createStore })
  const session = await startSession(url)
  const request = { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params: { level: 'debug' } }
  store.delay = name => { if (name === 'update') throw new StoreUnavailable() }
  t.match(await (await post(url, request, session)).json(), { id: 1, error: { code: -32603, message: /store/ } })
  store.delay = () => {}
  t.match(await (await post(url, request, session)).json(), { id: 1, result: {} })
})

t.test('a request that is canceled while its effect is stored gets no response', async t => {
  const store = new FlakyStore()
  const { url } = await serveMcp(t, { store: store.createStore })
  const session = await startSession(url)
  const [started, stored] = [deferred(), deferred()]
  store.delay = name => {
    if (name !== 'update') return
    started.resolve()
    return stored.promise
  }
  const response = post(url, { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params: { level: 'debug' } }, session)
  await withTimeout(started.promise, 'the update')
  store.delay = () => {}
  t.equal((await post(url, cancel(1), session)).status, 202)
  stored.resolve()
  t.notMatch(await withTimeout((await response).text(), 'the response'), /"id":1/)
})

t.test('the subscriptions that are stored are limited in number and size', async t => {
  const initialize = initializeMessage() as JsonRpcRequest
  let requests: readonly JsonRpcRequest[] = [initialize]
  const subscribe = (uri: string, method = 'resources/subscribe'): void => { requests = addSetupRequest(requests, { jsonrpc: '2.0', id: 1, method, params: { uri } }) }
  for (let count = 0; count < 300; count++) subscribe(`test://${count}`)
  t.equal(requests.length, 257)
  subscribe(`test://${'x'.repeat(64 * 1024)}`)
  t.equal(requests.length, 257)
  for (let count = 0; count < 300; count++) subscribe(`test://${count}`, 'resources/unsubscribe')
  t.strictSame(requests, [initialize])
  for (let count = 0; count < 300; count++) subscribe(`test://${count}${'x'.repeat(1000)}`)
  t.ok(JSON.stringify(requests).length < 66_000)
  t.equal(addSetupRequest(requests, { jsonrpc: '2.0', id: 1, method: 'constructor' }), requests)
  t.strictSame(addSetupRequest([initialize], { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params: { notJson: 1n } }), [initialize])
})

t.test('a response that cannot be serialized becomes an error', async t => {
  const { server } = serverWith(server => {
    server.registerTool('big', {}, async ({ sendNotification }) => {
      await sendNotification({ method: 'notifications/message', params: { level: 'info', data: '' } })
      return { content: [], structuredContent: { value: 1n } }
    })
  })
  const { url } = await serveMcp(t, { server })
  t.match(await (await post(url, callMessage(1, 'big'), await startSession(url))).text(), /"code":-32603,"message":"The data of an event is invalid/)
})

t.test('at the limit of sessions, the one that was not used for the longest time is closed, but none that has a call or a stream', async t => {
  const { url } = await serveMcp(t, { maxSessions: 6 })
  const [calling, streaming, used, unused] = [await startSession(url), await startSession(url), await startSession(url), await startSession(url)]
  const waiting = await post(url, callMessage(1, 'wait'), calling)
  // A client between two connections of a call.
  await waiting.body?.cancel()
  const stream = await openGet(t, url, streaming as Record<string, string>)
  await waitUntil(() => stream.events.length > 0, 'the first event')
  const statusOf = async (session: Record<string, string> | undefined): Promise<number> => (await post(url, { jsonrpc: '2.0', method: 'notifications/progress' }, session)).status
  t.equal(await statusOf(used), 202)
  await startSession(url)
  t.strictSame(await Promise.all([unused, used, streaming, calling].map(statusOf)), [404, 202, 202, 202])
  await startSession(url)
  t.strictSame(await Promise.all([streaming, calling].map(statusOf)), [202, 202])
  const error = await post(url, callMessage(1, 'wait'), calling)
  t.equal(error.status, 400, 'the call runs')
})

t.test('a session is closed if its client sends nothing after initialize', async t => {
  const { url } = await serveMcp(t, { initializeTimeout: 50 })
  const session = { 'mcp-session-id': String((await post(url, initializeMessage())).headers.get('mcp-session-id')) }
  const stream = await openGet(t, url, session)
  await stream.ended
  t.equal((await post(url, PING, session)).status, 404)
  const { url: other } = await serveMcp(t, { initializeTimeout: 1000 })
  const used = await startSession(other)
  await new Promise(resolve => setTimeout(resolve, 1100))
  t.equal((await post(other, PING, used)).status, 200)
})

t.test('initialize fails if the server does not respond, or closes the session', async t => {
  for (const connect of [() => {}, (transport: McpTransport) => { transport.close() }]) {
    const { url } = await serveMcp(t, { initializeTimeout: 50, server: () => ({ connect: async (transport: McpTransport) => { connect(transport) } }) })
    const response = await post(url, initializeMessage())
    t.equal(response.status, 503)
    t.match(await response.json(), { error: { data: { code: 'FST_SSE_MCP_SERVER_FAILED' } } })
  }
})

t.test('a server that is created after initialize has failed is closed', async t => {
  const created = deferred<McpServerLike>()
  const { url } = await serveMcp(t, { initializeTimeout: 50, server: () => created.promise })
  t.equal((await post(url, initializeMessage())).status, 503)
  const closed = deferred()
  created.resolve({ connect: async (transport: McpTransport) => { transport.onclose = () => { closed.resolve() } } })
  await withTimeout(closed.promise, 'the end of the server')
})

t.test('errors of a server that throws are logged, and its requests get an error response', async t => {
  const lines: string[] = []
  const server = () => ({
    connect: async (transport: McpTransport) => {
      transport.onmessage = ({ id = 0, method }) => {
        if (method === 'initialize') transport.send({ jsonrpc: '2.0', id, result: { protocolVersion: '2025-11-25' } })
        else throw new Error(`no ${method}`)
      }
      transport.onclose = () => { throw new Error('no close') }
    }
  })
  const { url } = await serveMcp(t, { server }, undefined, { logger: { level: 'error', stream: { write: (line: string) => { lines.push(line) } } } })
  const session = await startSession(url)
  t.match(await (await post(url, PING, session)).json(), { id: 1, error: { code: -32603 } })
  t.match(await (await post(url, PING, session)).json(), { id: 1, error: { code: -32603 } }, 'the id can be used again')
  t.equal((await fetch(url, { method: 'DELETE', headers: session })).status, 204)
  t.strictSame(lines.map(line => (JSON.parse(line) as { err: Error }).err.message), ['no notifications/initialized', 'no ping', 'no ping', 'no close'])
  t.notMatch(lines.join(''), new RegExp(String(session['mcp-session-id'])))
})

t.test('the requests of a session that run, and the messages of a batch, are limited', async t => {
  const { url } = await serveMcp(t, { maxWaitingMessages: 2 })
  const session = await startSession(url, '2025-03-26')
  t.equal((await post(url, [PING, { ...PING, id: 2 }, { ...PING, id: 3 }], session)).status, 413)
  const responses = await Promise.all([1, 2].map(id => post(url, callMessage(id, 'wait'), session)))
  const refused = await post(url, { ...PING, id: 3 }, session)
  t.equal(refused.status, 429)
  t.match(await refused.json(), { error: { data: { code: 'FST_SSE_MCP_TOO_MANY_REQUESTS' } } })
  t.equal((await post(url, cancel(1), session)).status, 202)
  await responses[0]?.text()
  t.equal((await post(url, { ...PING, id: 3 }, session)).status, 200)
  await responses[1]?.body?.cancel()
})

t.test('the header Host is checked, also if the app trusts proxies', async t => {
  const { app } = await serveMcp(t, {}, undefined, { trustProxy: true })
  for (const [headers, status] of [[{ host: 'evil.example', 'x-forwarded-host': 'localhost' }, 403], [{ host: 'localhost', 'x-forwarded-host': 'evil.example' }, 200], [{ host: 'localhost', 'x-forwarded-host': 'evil.example:99999' }, 403]] as const) {
    t.equal((await app.inject({ method: 'POST', url: '/mcp', headers: { ...headers, accept: ACCEPT }, payload: initializeMessage() })).statusCode, status)
  }
})

t.test('errors of other plugins reach the error handler of the app', async t => {
  const { url } = await serveMcp(t, {}, app => {
    app.setErrorHandler(async ({ code }: Error & { code: string }, _request, reply) => reply.code(401).header('www-authenticate', 'Bearer').send({ code }))
    app.addHook('onRequest', async () => { throw Object.assign(new Error('no'), { code: 'FST_ERR_LOGIN', statusCode: 401 }) })
  })
  const response = await post(url, initializeMessage())
  t.equal(response.headers.get('www-authenticate'), 'Bearer')
  t.strictSame(await response.json(), { code: 'FST_ERR_LOGIN' })
})

t.test('a stream that is pipelined behind another waits, and too many close the connection', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const headers = `Host: localhost\r\nAccept: ${ACCEPT}\r\nMcp-Session-Id: ${session['mcp-session-id'] ?? ''}\r\n`
  const requests = Array.from({ length: 12 }, (_, id) => {
    const body = JSON.stringify(callMessage(id, 'wait'))
    return `POST /mcp HTTP/1.1\r\n${headers}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  })
  const client = openRawClient(t, Number(new URL(url).port), { request: `GET /mcp HTTP/1.1\r\n${headers}\r\n${requests.join('')}` })
  await withTimeout(client.closed, 'the connection to close')
  t.equal((await post(url, PING, session)).status, 400, 'the calls run')
})

t.test('while close() waits for a call, a client that has lost its connection receives the result', async t => {
  const { server, finish } = withSlowTool()
  const { app, url } = await serveMcp(t, { server, closeTimeout: 5000 }, undefined, { return503OnClosing: false })
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'slow'), session)
  const reader = response.body?.getReader()
  const id = lastIdOf(new TextDecoder().decode((await reader?.read())?.value))
  await reader?.cancel()
  const closed = app.close()
  const resumed = await openGet(t, url, { ...session, 'last-event-id': id })
  finish('result')
  await resumed.waitFor(({ data }) => JSON.stringify(data)?.includes('result'))
  await withTimeout(closed, 'close()')
})

t.test('close() waits until the last response is in a store that is slow', async t => {
  const store = new FlakyStore()
  const { server, finish } = withSlowTool()
  const { app, url } = await serveMcp(t, { server, closeTimeout: 5000, store: store.createStore })
  const response = await post(url, callMessage(1, 'slow'), await startSession(url))
  store.delay = name => name === 'send' ? new Promise(resolve => setTimeout(resolve, 200)) : undefined
  const closed = app.close()
  finish('result')
  t.match(await response.text(), /result[^]*event: close/)
  await withTimeout(closed, 'close()')
})

t.test('close() ends the servers also if other processes could continue the sessions', async t => {
  const store: StoreFactory = (settings, callbacks) => Object.assign(memoryStore(settings, callbacks), { close: () => [] })
  const { server, servers } = serverWith(() => {})
  const { app, url } = await serveMcp(t, { server, store })
  await startSession(url)
  const closed = deferred()
  const [created] = servers
  if (created !== undefined) created.server.onclose = () => { closed.resolve() }
  await app.close()
  await withTimeout(closed.promise, 'the server to close')
})
