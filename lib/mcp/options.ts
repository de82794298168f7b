import { OptionInvalid } from '../errors.js'
import { IGNORED_OPTIONS, isObject, resolveOptions, type Settings, type SseSessionsOptions } from '../options.js'
import type { Awaitable } from '../awaitable.js'
import type { McpServerLike } from './transport.js'

/** The options of the plugin for MCP. All are checked at boot. An invalid one fails the boot with FST_SSE_OPTION_INVALID. */
export interface McpOptions extends Pick<SseSessionsOptions, 'principal' | 'store' | 'heartbeatInterval' | 'resumeTimeout' | 'retry' | 'closeTimeout' | 'log' | 'maxSessions' | 'maxSessionsPerPrincipal' | 'maxBytes' | 'logLevel' | 'logSerializers'> {
  /** Path of the endpoint. Default: `/mcp`. */
  path?: string
  /** Creates the server of a session: an `McpServer` or a `Server` of the official SDKs, in version 1 or 2, that is not connected. It is called once for each session. */
  server: (context: McpServerContext) => Awaitable<McpServerLike>
  /** The hosts under which clients reach the server, as in the header `Host`; without a port, any port is allowed. Protects against DNS rebinding. Default: `['localhost', '127.0.0.1', '[::1]']`. */
  allowedHosts?: readonly string[]
  /** Origins whose pages may use the server, in addition to those of {@link allowedHosts}. Default: none. */
  allowedOrigins?: readonly string[]
}

/** What the function that creates a server receives. */
export interface McpServerContext {
  /** The result of option `principal` for the request that started the session. */
  readonly principal: string | undefined
  /** The id of the session. It is a secret. */
  readonly sessionId: string
}

export interface McpSettings extends Pick<McpOptions, 'server'> {
  readonly path: string
  readonly allowedHosts: readonly string[]
  readonly allowedOrigins: readonly string[]
  readonly sessions: Settings
}

const NAMES = ['principal', 'store', 'heartbeatInterval', 'resumeTimeout', 'retry', 'closeTimeout', 'log', 'maxSessions', 'maxSessionsPerPrincipal', 'maxBytes', 'logLevel', 'logSerializers']

/** Checks the options and adds the defaults. `pluginTimeout` is Fastify's, in milliseconds. */
export function resolveMcpOptions (options: McpOptions & { prefix?: string }, pluginTimeout: number | undefined): McpSettings {
  const { path = '/mcp', server, allowedHosts = ['localhost', '127.0.0.1', '[::1]'], allowedOrigins = [], prefix, resumeTimeout = 3_600_000, retry = [500, 1500], log, ...rest } = options
  const unknownName = Object.keys(rest).find(name => !NAMES.includes(name) && !(IGNORED_OPTIONS as readonly string[]).includes(name))
  assertOption(unknownName === undefined, String(unknownName), 'removed: there is no such option')
  assertOption(typeof path === 'string' && path.startsWith('/'), 'path', 'a path that starts with /')
  assertOption(typeof server === 'function', 'server', 'a function that returns a new McpServer')
  return {
    path,
    server,
    allowedHosts: resolveList('allowedHosts', allowedHosts),
    allowedOrigins: resolveList('allowedOrigins', allowedOrigins),
    sessions: resolveOptions({ ...rest, resumeTimeout, retry, log: log === undefined || isObject(log) ? { bytes: 4 * 1024 * 1024, age: resumeTimeout, ...log } : log }, pluginTimeout)
  }
}

function resolveList (name: string, value: readonly string[]): string[] {
  assertOption(Array.isArray(value) && value.every(item => typeof item === 'string'), name, 'an array of strings')
  return value.map(item => item.toLowerCase())
}

function assertOption (isValid: boolean, name: string, expected: string): void {
  if (!isValid) throw new OptionInvalid(`Option "${name}" must be ${expected}`)
}
