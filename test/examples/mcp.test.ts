import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js'
import t from 'tap'
import { runScript } from '../support/child-process.js'
import { matchList } from '../support/match-list.js'
import { withTimeout } from '../support/wait.js'

t.test('the tools of the MCP example report progress, and ask the user', async t => {
  const [, url = ''] = await runScript(t, 'example/mcp/index.js', { PORT: '0' }).waitForOutput(/(http:\S+\/mcp)/)
  const client = new Client({ name: 'test', version: '1.0.0' }, { capabilities: { elicitation: {} } })
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept' as const, content: { address: 'Main Street 1' } }))
  t.teardown(() => client.close())
  await withTimeout(client.connect(new StreamableHTTPClientTransport(new URL(url))), 'the client to connect')
  const progress: unknown[] = []
  matchList(t, await client.callTool({ name: 'bake', arguments: { loaves: 2 } }, undefined, { onprogress: event => { progress.push(event) } }), { content: [{ text: '2 loaves are ready' }] })
  t.strictSame(progress, [{ progress: 1, total: 2 }, { progress: 2, total: 2 }])
  matchList(t, await client.callTool({ name: 'order' }), { content: [{ text: 'The bread is on its way to Main Street 1' }] })
})
