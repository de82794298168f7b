import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server'
import t from 'tap'
import { z } from 'zod'
import { matchList } from '../support/match-list.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { post } from './support/raw.js'
import { serveMcp } from './support/server.js'

const VERSION = '2026-07-28'
const META = { 'io.modelcontextprotocol/protocolVersion': VERSION, 'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1.0.0' }, 'io.modelcontextprotocol/clientCapabilities': {} }

/** Sends a request of the revision 2026-07-28. */
function send (url: string, method: string, params: object, { headers = {}, signal }: { headers?: Record<string, string>, signal?: AbortSignal } = {}): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', 'mcp-protocol-version': VERSION, 'mcp-method': method, ...headers },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: { ...params, _meta: META } }),
    ...signal && { signal }
  })
}

function createHandler (): { handler: ReturnType<typeof createMcpHandler>, finish: () => void, wasAborted: () => boolean, started: Promise<void> } {
  const { promise, resolve: finish } = deferred()
  const started = deferred()
  let isAborted = false
  const handler = createMcpHandler(() => {
    const server = new McpServer({ name: 'test', version: '1.0.0' })
    server.registerTool('count', { inputSchema: z.object({ to: z.number() }) }, async ({ to }, { mcpReq, http }) => {
      for (let progress = 1; progress <= to; progress++) await mcpReq.notify({ method: 'notifications/progress', params: { progressToken: mcpReq._meta?.progressToken ?? 0, progress, total: to } })
      return { content: [{ type: 'text', text: `counted to ${to} for ${String(http?.authInfo?.token)}` }] }
    })
    server.registerTool('wait', { inputSchema: z.object({}) }, async (_args, { mcpReq }) => {
      mcpReq.signal.addEventListener('abort', () => { isAborted = true })
      started.resolve()
      await promise
      return { content: [{ type: 'text', text: 'waited' }] }
    })
    return server
  }, { legacy: 'reject' })
  return { handler, finish, wasAborted: () => isAborted, started: started.promise }
}

t.test('the official client uses the revision without sessions, with progress and authentication', async t => {
  const { handler } = createHandler()
  const { url } = await serveMcp(t, { handler, principal: () => 'a' }, app => { app.addHook('onRequest', async request => { Object.assign(request, { auth: { token: 'abc', clientId: 'a', scopes: [] } }) }) })
  const client = new Client({ name: 'test', version: '1.0.0' }, { versionNegotiation: { mode: 'auto' } })
  t.teardown(() => client.close())
  await withTimeout(client.connect(new StreamableHTTPClientTransport(new URL(url))), 'the client to connect')
  t.equal(client.getNegotiatedProtocolVersion(), VERSION)
  const progress: number[] = []
  matchList(t, await client.callTool({ name: 'count', arguments: { to: 3 } }, { onprogress: event => { progress.push(event.progress) } }), { content: [{ text: 'counted to 3 for abc' }] })
  t.strictSame(progress, [1, 2, 3])
})

t.test('a client that disconnects cancels its call', async t => {
  const { handler, started, wasAborted } = createHandler()
  const { url } = await serveMcp(t, { handler })
  const aborter = new AbortController()
  const response = send(url, 'tools/call', { name: 'wait', arguments: {} }, { headers: { 'mcp-name': 'wait' }, signal: aborter.signal })
  await withTimeout(started, 'the call to start')
  aborter.abort()
  await t.rejects(response)
  await waitUntil(wasAborted, 'the signal to abort')
})

t.test('close() waits for calls, not for subscriptions, and refuses new requests', async t => {
  const { handler, started, finish } = createHandler()
  const { app, url } = await serveMcp(t, { handler, closeTimeout: 5000 }, undefined, { return503OnClosing: false })
  const subscription = await send(url, 'subscriptions/listen', { notifications: { toolsListChanged: true } })
  t.equal(subscription.status, 200)
  const response = send(url, 'tools/call', { name: 'wait', arguments: {} }, { headers: { 'mcp-name': 'wait' } })
  await withTimeout(started, 'the call to start')
  const closed = app.close()
  const refused = await post(url, { jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta: META } })
  t.equal(refused.status, 503)
  finish()
  t.match(await (await response).text(), /waited/)
  await withTimeout(closed, 'close()')
  await subscription.text().catch(() => {})
})

t.test('a client that has disconnected before is not served', async t => {
  const { handler } = createHandler()
  const { url } = await serveMcp(t, { handler }, app => { app.addHook('preHandler', async request => { request.raw.socket.destroy() }) })
  await t.rejects(send(url, 'tools/list', {}))
})

t.test('without a handler, the client uses an older revision', async t => {
  const { url } = await serveMcp(t)
  t.equal((await send(url, 'tools/list', {})).status, 400)
  const client = new Client({ name: 'test', version: '1.0.0' }, { versionNegotiation: { mode: 'auto' } })
  t.teardown(() => client.close())
  await withTimeout(client.connect(new StreamableHTTPClientTransport(new URL(url))), 'the client to connect')
  t.equal(client.getNegotiatedProtocolVersion(), '2025-11-25')
  t.equal((await post(url, { jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta: META } })).status, 400)
})
