import { createMcpHandler, inputRequired, Server } from '@modelcontextprotocol/server'
import type { McpHandlerLike } from '../../../lib/mcp/index.js'

const text = (value: string): { type: 'text', text: string } => ({ type: 'text', text: value })
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=='
const image = { type: 'image' as const, data: PNG, mimeType: 'image/png' }
const resource = (uri: string): object => ({ type: 'resource' as const, resource: { uri, mimeType: 'text/plain', text: 'This is an embedded resource content.' } })
const TOOLS: Record<string, () => unknown[]> = {
  test_simple_text: () => [text('This is a simple text response for testing.')],
  test_image_content: () => [image],
  test_audio_content: () => [{ type: 'audio', data: 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=', mimeType: 'audio/wav' }],
  test_embedded_resource: () => [resource('test://embedded-resource')],
  test_multiple_content_types: () => [text('Multiple content types test:'), image, resource('test://mixed-content-resource')]
}
function createServer (): Server {
  const server = new Server({ name: 'conformance', version: '1.0.0' }, { capabilities: { completions: {}, prompts: {}, resources: {}, tools: {} } })
  server.setRequestHandler('tools/list', () => ({ tools: [...Object.keys(TOOLS), 'test_error_handling', 'test_missing_capability', 'test_tool_with_progress'].map(name => ({ name, description: name, inputSchema: { type: 'object' as const, properties: {} } })) }))
  server.setRequestHandler('tools/call', async ({ params: { name } }, { mcpReq }) => {
    if (name === 'test_error_handling') return { isError: true, content: [text('This tool intentionally returns an error for testing')] }
    // The client does not support sampling.
    if (name === 'test_missing_capability') return inputRequired({ inputRequests: { sample: inputRequired.createMessage({ messages: [], maxTokens: 1 }) } })
    if (name === 'test_tool_with_progress') for (const progress of [0, 50, 100]) await mcpReq.notify({ method: 'notifications/progress', params: { progressToken: mcpReq._meta?.progressToken ?? 0, progress, total: 100 } })
    return { content: (TOOLS[name]?.() ?? [text(name)]) as never }
  })
  const PROMPTS: Record<string, string[]> = { test_simple_prompt: [], test_prompt_with_arguments: ['arg1', 'arg2'], test_prompt_with_embedded_resource: ['resourceUri'], test_prompt_with_image: [] }
  server.setRequestHandler('prompts/list', () => ({ prompts: Object.entries(PROMPTS).map(([name, names]) => ({ name, description: name, arguments: names.map(name => ({ name, required: true })) })) }))
  server.setRequestHandler('prompts/get', ({ params: { name, arguments: args = {} } }) => {
    const message = (content: unknown): { role: 'user', content: never } => ({ role: 'user', content: content as never })
    if (name === 'test_prompt_with_arguments') return { messages: [message(text(`Prompt with arguments: arg1='${args.arg1}', arg2='${args.arg2}'`))] }
    if (name === 'test_prompt_with_embedded_resource') return { messages: [message(resource(String(args.resourceUri))), message(text('Please process the embedded resource above.'))] }
    if (name === 'test_prompt_with_image') return { messages: [message(image), message(text('Please analyze the image above.'))] }
    return { messages: [message(text('This is a simple prompt for testing.'))] }
  })
  server.setRequestHandler('resources/list', () => ({ resources: ['test://static-text', 'test://static-binary', 'test://watched-resource'].map(uri => ({ uri, name: uri, description: uri })) }))
  server.setRequestHandler('resources/templates/list', () => ({ resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'template', mimeType: 'application/json' }] }))
  server.setRequestHandler('resources/read', ({ params: { uri } }) => {
    const id = /^test:\/\/template\/(.+)\/data$/.exec(uri)?.[1]
    if (id !== undefined) return { contents: [{ uri, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] }
    if (uri === 'test://static-binary') return { contents: [{ uri, mimeType: 'image/png', blob: PNG }] }
    if (uri !== 'test://static-text') throw Object.assign(new Error('Resource not found'), { code: -32602, data: { uri } })
    return { contents: [{ uri, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }] }
  })
  server.setRequestHandler('completion/complete', () => ({ completion: { values: ['paris'], total: 1, hasMore: false } }))
  return server
}
/** Creates the handler of revision 2026-07-28 that the conformance suite of MCP tests. It has no tools for requests to the client, which are a matter of the SDK. */
export const createConformanceHandler = (): McpHandlerLike => createMcpHandler(createServer as never, { legacy: 'reject' })
