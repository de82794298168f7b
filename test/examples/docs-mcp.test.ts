import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { discoverOAuthProtectedResourceMetadata, extractWWWAuthenticateParams } from '@modelcontextprotocol/sdk/client/auth.js'
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import Fastify from 'fastify'
import t from 'tap'
import { findFreePort } from '../support/free-port.js'
import { matchList } from '../support/match-list.js'
import { withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder } from './docs-run.js'

t.test('a client without a token finds the authorization server, and one with a token calls a tool', async t => {
  const { addMcp } = await import(createFolder(t)('authorization.ts', block('docs/mcp.md', 'authorization'))) as { addMcp: (...args: unknown[]) => Promise<void> }
  const createServer = (): McpServer => {
    const server = new McpServer({ name: 'test', version: '1.0.0' })
    server.registerTool('whoami', {}, ({ authInfo }) => ({ content: [{ type: 'text', text: String(authInfo?.extra?.sub) }] }))
    return server
  }
  const app = Fastify()
  t.teardown(() => app.close())
  const port = await findFreePort()
  const url = new URL(`http://127.0.0.1:${port}/v1/mcp`)
  await addMcp(app, createServer, async (token: string) => token.startsWith('valid') ? { clientId: 'client', token, scopes: [], extra: { sub: token } } : undefined, url)
  await app.listen({ port, host: '127.0.0.1' })
  const refused = await fetch(url, { method: 'POST' })
  t.equal(refused.status, 401)
  const { resourceMetadataUrl } = extractWWWAuthenticateParams(refused)
  matchList(t, await discoverOAuthProtectedResourceMetadata(url), { resource: url.href, authorization_servers: ['https://login.example.com'] })
  t.equal((await fetch(String(resourceMetadataUrl))).status, 200)
  const connect = async (token: string, sessionId?: string): Promise<Client> => {
    const client = new Client({ name: 'test', version: '1.0.0' })
    t.teardown(() => client.close())
    const transport = new StreamableHTTPClientTransport(url, { requestInit: { headers: { authorization: `Bearer ${token}` } }, ...sessionId !== undefined && { sessionId } })
    await withTimeout(client.connect(transport), 'the client to connect')
    return client
  }
  const client = await connect('valid-a')
  matchList(t, await client.callTool({ name: 'whoami' }), { content: [{ text: 'valid-a' }] })
  // Another user of the same client.
  const foreign = await connect('valid-b', client.transport?.sessionId)
  await t.rejects(foreign.callTool({ name: 'whoami' }), /no such session/)
})
