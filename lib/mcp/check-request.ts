import type { FastifyRequest } from 'fastify'
import { McpHostForbidden, McpNotAcceptable, McpOriginForbidden, McpVersionUnsupported, quote } from '../errors.js'
import { acceptsType } from '../wire/accept.js'
import type { McpSettings } from './options.js'

/** The revisions with sessions. 2024-11-05 had another transport, but the official clients negotiate it for old servers over this one, too. */
export const VERSIONS: readonly string[] = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05']

/** Throws FST_SSE_MCP_HOST_FORBIDDEN or FST_SSE_MCP_ORIGIN_FORBIDDEN. With DNS rebinding, a page sends the host of the attacker in both headers. */
export function checkHostAndOrigin ({ headers }: FastifyRequest, { allowedHosts, allowedOrigins }: McpSettings): void {
  // Not `request.host`: with `trustProxy`, that is a header that a page can set. HTTP/2 has `:authority`.
  const { origin, host = String(headers[':authority']) } = headers
  if (!isAllowedHost(host, allowedHosts)) throw new McpHostForbidden(quote(host))
  if (origin === undefined || allowedOrigins.includes(origin.toLowerCase())) return
  if (!URL.canParse(origin) || !isAllowedHost(new URL(origin).host, allowedHosts)) throw new McpOriginForbidden(quote(origin))
}

function isAllowedHost (host: string, allowedHosts: readonly string[]): boolean {
  const name = host.toLowerCase()
  return allowedHosts.includes(name) || allowedHosts.includes(name.replace(/:\d+$/, ''))
}

/** Throws FST_SSE_MCP_VERSION_UNSUPPORTED. Without the header, the client uses a revision that did not have it. */
export function checkVersion ({ headers: { 'mcp-protocol-version': version } }: FastifyRequest): void {
  if (version !== undefined && !VERSIONS.includes(String(version))) throw new McpVersionUnsupported(quote(version), VERSIONS.join(', '))
}

/** Throws FST_SSE_MCP_NOT_ACCEPTABLE. */
export function checkAccept ({ headers: { accept } }: FastifyRequest, ...types: readonly string[]): void {
  if (!types.every(type => acceptsType(type, accept))) throw new McpNotAcceptable(types.join(' and '))
}
