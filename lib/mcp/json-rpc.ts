import { McpMessageInvalid } from '../errors.js'

export type RequestId = string | number

export interface JsonRpcError {
  readonly code: number
  readonly message: string
  readonly data?: unknown
}

/** A request has a `method` and an `id`, a notification only a `method`, a response only an `id`. */
export interface JsonRpcMessage {
  readonly jsonrpc: '2.0'
  readonly id?: RequestId
  readonly method?: string
  readonly params?: Readonly<Record<string, unknown>>
  readonly result?: unknown
  readonly error?: JsonRpcError
}

export interface JsonRpcRequest extends JsonRpcMessage {
  readonly id: RequestId
  readonly method: string
}

/** The error codes of JSON-RPC and of the MCP SDKs. */
export const PARSE_ERROR = -32700
export const INVALID_REQUEST = -32600
export const INTERNAL_ERROR = -32603
export const SERVER_ERROR = -32000
export const SESSION_NOT_FOUND = -32001

export const isRequest = (message: JsonRpcMessage): message is JsonRpcRequest => message.method !== undefined && message.id !== undefined

export const isResponse = (message: JsonRpcMessage): boolean => message.method === undefined

/** Whether a request belongs to a revision without sessions, in which each request contains the revision. */
export function isStateless (body: unknown, version: unknown): boolean {
  const { params } = Object(body) as { params?: { _meta?: object } }
  return (typeof version === 'string' && version >= '2026') || Object.hasOwn(Object(Object(params)._meta) as object, 'io.modelcontextprotocol/protocolVersion')
}

/** Creates the response to a request that has failed outside of the server of the SDK. */
export function createInternalError (id: RequestId, message: string): JsonRpcMessage {
  return { jsonrpc: '2.0', id, error: { code: INTERNAL_ERROR, message } }
}

/** Returns the messages of a body. Throws FST_SSE_MCP_MESSAGE_INVALID, also for what the SDKs would ignore without a response. */
export function parseMessages (body: unknown): JsonRpcMessage[] {
  const messages: unknown[] = Array.isArray(body) ? body : [body]
  if (messages.length === 0) throw new McpMessageInvalid('the batch is empty')
  return messages.map(parseMessage)
}

function parseMessage (value: unknown): JsonRpcMessage {
  const { jsonrpc, id, method, params, result, error } = Object(value) as Record<string, unknown>
  assertThat(jsonrpc === '2.0', '"jsonrpc" must be "2.0"')
  assertThat(id === undefined || isId(id) || (id === null && method === undefined && error !== undefined), '"id" must be a string or a safe integer')
  if (method === undefined) {
    assertThat(isPlainObject(result) ? id !== undefined && error === undefined : isPlainObject(error) && result === undefined, 'it has neither "method" nor, with "id", either "result" or "error"')
  } else {
    assertThat(typeof method === 'string', '"method" must be a string')
    assertThat(params === undefined || isPlainObject(params), '"params" must be an object')
    const { _meta: meta = {} } = Object(params) as { _meta?: unknown }
    const { progressToken = 0 } = Object(meta) as { progressToken?: unknown }
    assertThat(isPlainObject(meta) && isId(progressToken), '"params._meta" must be an object, and its "progressToken" a string or a safe integer')
  }
  // Without other members, because the SDKs ignore messages that have some.
  return Object.fromEntries(Object.entries(method === undefined ? { jsonrpc, id, result, error } : { jsonrpc, id, method, params }).filter(([, member]) => member !== undefined)) as unknown as JsonRpcMessage
}

function isId (value: unknown): boolean {
  return typeof value === 'string' || Number.isSafeInteger(value)
}

function isPlainObject (value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function assertThat (isValid: boolean, problem: string): void {
  if (!isValid) throw new McpMessageInvalid(problem)
}
