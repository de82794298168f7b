import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { z } from 'zod'
import mcp, { type McpOptions } from '../../../lib/mcp/index.js'
import { listen } from '../../support/server.js'
import { withTimeout } from '../../support/wait.js'

/** Creates a server of the SDK with the tools that the tests use. */
export function createServer (): McpServer {
  const server = new McpServer({ name: 'test', version: '1.0.0' }, { capabilities: { logging: {} } })
  server.registerTool('add', { inputSchema: { a: z.number(), b: z.number() } }, ({ a, b }) => ({ content: [{ type: 'text', text: String(a + b) }] }))
  server.registerTool('count', { inputSchema: { to: z.number() } }, async ({ to }, { sendNotification, _meta }) => {
    for (let progress = 1; progress <= to; progress++) {
      await sendNotification({ method: 'notifications/progress', params: { progressToken: _meta?.progressToken ?? 0, progress, total: to } })
    }
    return { content: [{ type: 'text', text: `counted to ${to}` }] }
  })
  // Runs until the call is canceled.
  server.registerTool('wait', {}, ({ signal }) => new Promise(resolve => {
    signal.addEventListener('abort', () => { resolve({ content: [] }) })
  }))
  return server
}

export const text = (value: string): { content: Array<{ type: 'text', text: string }> } => ({ content: [{ type: 'text', text: value }] })

/** Returns a function that creates a server with the tools that `addTools` adds, and the list of the servers that it has created. */
export function serverWith (addTools: (server: McpServer) => void): { server: () => McpServer, servers: McpServer[] } {
  const servers: McpServer[] = []
  return {
    servers,
    server: () => {
      const server = createServer()
      addTools(server)
      servers.push(server)
      return server
    }
  }
}

/** Starts an app that serves MCP. It is closed when the test ends. */
export async function serveMcp (t: Test, options: Partial<McpOptions> = {}, prepare: (app: FastifyInstance) => unknown = () => {}, fastify: FastifyServerOptions = {}): Promise<{ app: FastifyInstance, url: string }> {
  const app = Fastify(fastify)
  await prepare(app)
  await app.register(mcp, { server: createServer, closeTimeout: 500, retry: 1, ...options })
  return { app, url: `${await listen(t, app)}/mcp` }
}

/** Connects the official client. */
export async function connectClient (t: Test, url: string, client = new Client({ name: 'test', version: '1.0.0' })): Promise<{ client: Client, transport: StreamableHTTPClientTransport }> {
  const transport = new StreamableHTTPClientTransport(new URL(url), { reconnectionOptions: { initialReconnectionDelay: 1, maxReconnectionDelay: 10, reconnectionDelayGrowFactor: 1, maxRetries: 100 } })
  t.teardown(() => client.close())
  await withTimeout(client.connect(transport), 'the client to connect')
  return { client, transport }
}
