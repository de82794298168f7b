import { Server } from '@modelcontextprotocol/sdk/server/index.js'
import type { RequestHandlerExtra } from '@modelcontextprotocol/sdk/shared/protocol.js'
import { CallToolRequestSchema, CompleteRequestSchema, CreateMessageResultSchema, ElicitResultSchema, GetPromptRequestSchema, ListPromptsRequestSchema, ListResourcesRequestSchema, ListResourceTemplatesRequestSchema, ListToolsRequestSchema, ReadResourceRequestSchema, SetLevelRequestSchema, SubscribeRequestSchema, UnsubscribeRequestSchema, type CallToolResult, type ElicitRequestFormParams, type PromptMessage, type ServerNotification, type ServerRequest, type Tool } from '@modelcontextprotocol/sdk/types.js'
import { setTimeout as delay } from 'node:timers/promises'

type Extra = RequestHandlerExtra<ServerRequest, ServerNotification>
type Arguments = Readonly<Record<string, unknown>>

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=='
const WAV = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA='

const image = { type: 'image', data: PNG, mimeType: 'image/png' } as const
const text = (value: string): { type: 'text', text: string } => ({ type: 'text', text: value })
const textResult = (value: string): CallToolResult => ({ content: [text(value)] })

const elicit = (extra: Extra, message: string, properties: unknown, required: string[] = []) => {
  const params = { message, requestedSchema: { type: 'object', properties, required } } as ElicitRequestFormParams
  return extra.sendRequest({ method: 'elicitation/create', params }, ElicitResultSchema)
}

const NO_ARGUMENTS: Tool['inputSchema'] = { type: 'object', properties: {} }
const withText = (name: string): Tool['inputSchema'] => ({ type: 'object', properties: { [name]: { type: 'string' } }, required: [name] })

/** The tools, by name: the schema of their arguments and their function. */
const TOOLS: Record<string, [Tool['inputSchema'], (args: Arguments, extra: Extra) => CallToolResult | Promise<CallToolResult>]> = {
  test_simple_text: [NO_ARGUMENTS, () => textResult('This is a simple text response for testing.')],
  test_image_content: [NO_ARGUMENTS, () => ({ content: [image] })],
  test_audio_content: [NO_ARGUMENTS, () => ({ content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] })],
  test_embedded_resource: [NO_ARGUMENTS, () => ({ content: [{ type: 'resource', resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' } }] })],
  test_multiple_content_types: [NO_ARGUMENTS, () => ({
    content: [text('Multiple content types test:'), image, { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } }]
  })],
  test_tool_with_logging: [NO_ARGUMENTS, async (_args, { sendNotification }) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await sendNotification({ method: 'notifications/message', params: { level: 'info', data } })
      await delay(50)
    }
    return textResult('done')
  }],
  test_error_handling: [NO_ARGUMENTS, () => ({ isError: true, ...textResult('This tool intentionally returns an error for testing') })],
  test_tool_with_progress: [NO_ARGUMENTS, async (_args, { sendNotification, _meta }) => {
    for (const progress of [0, 50, 100]) {
      if (_meta?.progressToken !== undefined) await sendNotification({ method: 'notifications/progress', params: { progressToken: _meta.progressToken, progress, total: 100 } })
      await delay(50)
    }
    return textResult('done')
  }],
  test_sampling: [withText('prompt'), async ({ prompt }, { sendRequest }) => {
    const { content } = await sendRequest({ method: 'sampling/createMessage', params: { messages: [{ role: 'user', content: text(String(prompt)) }], maxTokens: 100 } }, CreateMessageResultSchema)
    return textResult(`LLM response: ${JSON.stringify(content)}`)
  }],
  test_elicitation: [withText('message'), async ({ message }, extra) => {
    const result = await elicit(extra, String(message), { username: { type: 'string', description: "User's response" }, email: { type: 'string', description: "User's email address" } }, ['username', 'email'])
    return textResult(`User response: ${JSON.stringify(result)}`)
  }],
  test_elicitation_sep1034_defaults: [NO_ARGUMENTS, async (_args, extra) => {
    const { action, content } = await elicit(extra, 'Defaults', {
      name: { type: 'string', default: 'John Doe' },
      age: { type: 'integer', default: 30 },
      score: { type: 'number', default: 95.5 },
      status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
      verified: { type: 'boolean', default: true }
    })
    return textResult(`Elicitation completed: action=${action}, content=${JSON.stringify(content)}`)
  }],
  test_elicitation_sep1330_enums: [NO_ARGUMENTS, async (_args, extra) => {
    const titled = [1, 2, 3].map(value => ({ const: `value${value}`, title: `Choice ${value}` }))
    const { action, content } = await elicit(extra, 'Enums', {
      untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
      titledSingle: { type: 'string', oneOf: titled },
      legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
      untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
      titledMulti: { type: 'array', items: { anyOf: titled } }
    })
    return textResult(`Elicitation completed: action=${action}, content=${JSON.stringify(content)}`)
  }],
  test_reconnection: [NO_ARGUMENTS, async (_args, { closeSSEStream }) => {
    closeSSEStream?.()
    await delay(100)
    return textResult('Reconnected')
  }],
  json_schema_2020_12_tool: [{
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    type: 'object',
    $defs: { address: { $anchor: 'address', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } } },
    properties: { name: { type: 'string' }, address: { $ref: '#/$defs/address' } },
    allOf: [{ anyOf: [{ required: ['name'] }, { required: ['address'] }] }],
    if: { required: ['name'] },
    then: {},
    else: {},
    additionalProperties: false
  }, () => textResult('done')]
}

const PROMPTS: Record<string, [arguments: string[], (args: Arguments) => PromptMessage[]]> = {
  test_simple_prompt: [[], () => [{ role: 'user', content: text('This is a simple prompt for testing.') }]],
  test_prompt_with_arguments: [['arg1', 'arg2'], ({ arg1, arg2 }) => [{ role: 'user', content: text(`Prompt with arguments: arg1='${String(arg1)}', arg2='${String(arg2)}'`) }]],
  test_prompt_with_embedded_resource: [['resourceUri'], ({ resourceUri }) => [
    { role: 'user', content: { type: 'resource', resource: { uri: String(resourceUri), mimeType: 'text/plain', text: 'Embedded resource content for testing.' } } },
    { role: 'user', content: text('Please process the embedded resource above.') }
  ]],
  test_prompt_with_image: [[], () => [{ role: 'user', content: image }, { role: 'user', content: text('Please analyze the image above.') }]]
}

/** Creates the server that the conformance suite of MCP tests. */
export function createConformanceServer (): Server {
  const server = new Server({ name: 'conformance', version: '1.0.0' }, { capabilities: { completions: {}, logging: {}, prompts: {}, resources: { subscribe: true }, tools: {} } })
  server.setRequestHandler(ListToolsRequestSchema, () => ({ tools: Object.entries(TOOLS).map(([name, [inputSchema]]) => ({ name, description: name, inputSchema })) }))
  server.setRequestHandler(CallToolRequestSchema, async ({ params: { name, arguments: args = {} } }, extra) => await TOOLS[name]?.[1](args, extra) ?? textResult(`no tool ${name}`))
  server.setRequestHandler(ListPromptsRequestSchema, () => ({ prompts: Object.entries(PROMPTS).map(([name, [names]]) => ({ name, description: name, arguments: names.map(name => ({ name, required: true })) })) }))
  server.setRequestHandler(GetPromptRequestSchema, ({ params: { name, arguments: args = {} } }) => ({ messages: PROMPTS[name]?.[1](args) ?? [] }))
  server.setRequestHandler(ListResourcesRequestSchema, () => ({
    resources: ['test://static-text', 'test://static-binary', 'test://watched-resource'].map(uri => ({ uri, name: uri, description: uri }))
  }))
  server.setRequestHandler(ListResourceTemplatesRequestSchema, () => ({ resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'template', mimeType: 'application/json' }] }))
  server.setRequestHandler(ReadResourceRequestSchema, ({ params: { uri } }) => {
    const id = /^test:\/\/template\/(.+)\/data$/.exec(uri)?.[1]
    if (id !== undefined) return { contents: [{ uri, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] }
    return { contents: [uri === 'test://static-binary' ? { uri, mimeType: 'image/png', blob: PNG } : { uri, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }] }
  })
  server.setRequestHandler(SubscribeRequestSchema, () => ({}))
  server.setRequestHandler(UnsubscribeRequestSchema, () => ({}))
  server.setRequestHandler(SetLevelRequestSchema, () => ({}))
  server.setRequestHandler(CompleteRequestSchema, () => ({ completion: { values: ['paris', 'park', 'party'], total: 150, hasMore: false } }))
  return server
}
