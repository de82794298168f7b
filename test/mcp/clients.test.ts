import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { McpServer } from '@modelcontextprotocol/server'
import t from 'tap'
import { z } from 'zod'
import { matchList } from '../support/match-list.js'
import { withTimeout } from '../support/wait.js'
import { connectClient, serveMcp } from './support/server.js'

t.test('the official client calls tools and ends its session', async t => {
  const { url } = await serveMcp(t)
  const { client, transport } = await connectClient(t, url)
  t.strictSame((await client.listTools()).tools.map(({ name }) => name), ['add', 'count', 'wait'])
  matchList(t, await client.callTool({ name: 'add', arguments: { a: 1, b: 2 } }), { content: [{ type: 'text', text: '3' }] })
  const progress: number[] = []
  matchList(t, await client.callTool({ name: 'count', arguments: { to: 3 } }, undefined, { onprogress: event => { progress.push(event.progress) } }), { content: [{ text: 'counted to 3' }] })
  t.strictSame(progress, [1, 2, 3])
  await transport.terminateSession()
})

/** Creates a server of version 2 of the SDK. */
function createServer2 (): McpServer {
  const server = new McpServer({ name: 'test', version: '1.0.0' })
  server.registerTool('whoami', { inputSchema: z.object({}) }, (_args, { http }) => ({ content: [{ type: 'text', text: String(http?.req?.headers.get('user')) }] }))
  server.registerTool('count', { inputSchema: z.object({ to: z.number() }) }, async ({ to }, { mcpReq }) => {
    for (let progress = 1; progress <= to; progress++) {
      await mcpReq.notify({ method: 'notifications/progress', params: { progressToken: mcpReq._meta?.progressToken ?? 0, progress, total: to } })
    }
    return { content: [{ type: 'text', text: `counted to ${to}` }] }
  })
  return server
}

t.test('version 2 of the official client and server', async t => {
  const { url } = await serveMcp(t, { server: createServer2 })
  const client = new Client({ name: 'test', version: '1.0.0' })
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: { user: 'a' } } })
  t.teardown(() => client.close())
  await withTimeout(client.connect(transport), 'the client to connect')
  matchList(t, await client.callTool({ name: 'whoami', arguments: {} }), { content: [{ text: 'a' }] })
  const progress: number[] = []
  matchList(t, await client.callTool({ name: 'count', arguments: { to: 3 } }, { onprogress: event => { progress.push(event.progress) } }), { content: [{ text: 'counted to 3' }] })
  t.strictSame(progress, [1, 2, 3])
})
