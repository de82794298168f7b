// A server of the Model Context Protocol with two tools: one reports its progress, the other one asks the user.
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { ElicitResultSchema } from '@modelcontextprotocol/sdk/types.js'
import Fastify from 'fastify'
import mcp from 'fastify-sse-sessions/mcp'
import { setTimeout } from 'node:timers/promises'
import { z } from 'zod'

/** Each session gets its own server. */
function createServer () {
  const server = new McpServer({ name: 'bakery', version: '1.0.0' })
  server.registerTool('bake', {
    description: 'Bakes loaves of bread, one per second',
    inputSchema: { loaves: z.number().int().min(1).max(100) }
  }, async ({ loaves }, { signal, sendNotification, _meta }) => {
    for (let progress = 1; progress <= loaves; progress++) {
      // The signal aborts if the client cancels the call, or does not reconnect.
      await setTimeout(1000, undefined, { signal })
      // The client sends a token if it wants to be informed about the progress.
      if (_meta?.progressToken !== undefined) await sendNotification({ method: 'notifications/progress', params: { progressToken: _meta.progressToken, progress, total: loaves } })
    }
    return { content: [{ type: 'text', text: `${loaves} loaves are ready` }] }
  })
  server.registerTool('order', {
    description: 'Orders bread, after it has asked the user for the address'
  }, async ({ sendRequest }) => {
    // The request is sent in the stream of the call. The result arrives with another POST of the client.
    const { action, content } = await sendRequest({
      method: 'elicitation/create',
      params: { message: 'Where do you live?', requestedSchema: { type: 'object', properties: { address: { type: 'string' } }, required: ['address'] } }
    }, ElicitResultSchema)
    return { content: [{ type: 'text', text: action === 'accept' ? `The bread is on its way to ${content?.address}` : 'Nothing was ordered' }] }
  })
  return server
}

const app = Fastify()
await app.register(mcp, { server: createServer })
console.log(`${await app.listen({ port: Number(process.env.PORT ?? 3000) })}/mcp`)
