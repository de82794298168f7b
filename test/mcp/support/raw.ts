import type { Test } from 'tap'
import { openStream, type ClientStream } from '../../support/http-client.js'

export const ACCEPT = 'application/json, text/event-stream'

/** Sends a body as a client that has the given headers. */
export function post (url: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', accept: ACCEPT, ...headers }, body: typeof body === 'string' ? body : JSON.stringify(body) })
}

export const initializeMessage = (protocolVersion = '2025-11-25', id: string | number = 0): object => ({ jsonrpc: '2.0', id, method: 'initialize', params: { protocolVersion, capabilities: {}, clientInfo: { name: 'test', version: '1.0.0' } } })

export const callMessage = (id: number, name: string, args: object = {}): object => ({ jsonrpc: '2.0', id, method: 'tools/call', params: { name, arguments: args } })

/** Starts a session. Resolves with the header that its requests need. */
export async function startSession (url: string, version?: string, headers: Record<string, string> = {}): Promise<Record<string, string>> {
  const response = await post(url, initializeMessage(version), headers)
  const id = response.headers.get('mcp-session-id') ?? ''
  await post(url, { jsonrpc: '2.0', method: 'notifications/initialized' }, { 'mcp-session-id': id, ...headers })
  return { 'mcp-session-id': id, ...headers }
}

/** Opens a stream with a GET. */
export const openGet = (t: Test, url: string, headers: Record<string, string>): Promise<ClientStream> => openStream(t, url, { path: '', skipWelcome: true, headers: { accept: 'text/event-stream', ...headers } })
