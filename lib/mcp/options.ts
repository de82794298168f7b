import { assertInteger, assertOption, IGNORED_OPTIONS, isObject, MAX_DELAY, resolveOptions, type Settings, type SseSessionsOptions } from '../options.js'
import type { Awaitable } from '../awaitable.js'
import type { McpHandlerLike, McpServerLike } from './transport.js'

/** The options of the plugin for MCP. All are checked at boot. An invalid one fails the boot with FST_SSE_OPTION_INVALID. */
export interface McpOptions extends Pick<SseSessionsOptions, 'principal' | 'store' | 'heartbeatInterval' | 'resumeTimeout' | 'retry' | 'closeTimeout' | 'log' | 'maxSessions' | 'maxSessionsPerPrincipal' | 'maxWaitingMessages' | 'maxBytes' | 'logLevel' | 'logSerializers'> {
  /** Path of the endpoint. Default: `/mcp`. */
  path?: string
  /** Creates the server of a session: an `McpServer` or a `Server` of the official SDKs, in version 1 or 2, that is not connected. It is called once for each session, and again when another process continues the session. */
  server: (context: McpServerContext) => Awaitable<McpServerLike>
  /** Serves the requests of the revision 2026-07-28, which has no sessions: the result of `createMcpHandler(createServer, { legacy: 'reject' })` of version 2 of the SDK. Default: none, and clients that support an older revision use that. */
  handler?: McpHandlerLike
  /** The hosts under which clients reach the server, as in the header `Host`; without a port, any port is allowed. Protects against DNS rebinding. Default: `['localhost', '127.0.0.1', '[::1]']`. */
  allowedHosts?: readonly string[]
  /** Milliseconds after which a session is closed if its server has not responded to `initialize`, or if the client has then sent no other message. Default: 60 000. */
  initializeTimeout?: number
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
  readonly handler: McpHandlerLike | undefined
  readonly path: string
  readonly allowedHosts: readonly string[]
  readonly allowedOrigins: readonly string[]
  readonly initializeTimeout: number
  readonly sessions: Settings
}

const NAMES = ['principal', 'store', 'heartbeatInterval', 'resumeTimeout', 'retry', 'closeTimeout', 'log', 'maxSessions', 'maxSessionsPerPrincipal', 'maxWaitingMessages', 'maxBytes', 'logLevel', 'logSerializers']

/** Checks the options and adds the defaults. `pluginTimeout` is Fastify's, in milliseconds. */
export function resolveMcpOptions (options: McpOptions & { prefix?: string }, pluginTimeout: number | undefined): McpSettings {
  const { path = '/mcp', server, handler, allowedHosts = ['localhost', '127.0.0.1', '[::1]'], allowedOrigins = [], prefix, initializeTimeout = 60_000, maxSessions = 10_000, resumeTimeout = 3_600_000, retry = [500, 1500], log, ...rest } = options
  const unknownName = Object.keys(rest).find(name => !NAMES.includes(name) && !(IGNORED_OPTIONS as readonly string[]).includes(name))
  assertOption(unknownName === undefined, String(unknownName), 'removed: there is no such option')
  // 0 would close each session before its second request.
  assertOption(resumeTimeout !== 0, 'resumeTimeout', 'at least 1')
  assertOption(typeof path === 'string' && path.startsWith('/'), 'path', 'a path that starts with /')
  assertOption(typeof server === 'function', 'server', 'a function that returns a new McpServer')
  assertOption(handler === undefined || typeof (handler as Partial<McpHandlerLike> | null)?.fetch === 'function', 'handler', 'the result of createMcpHandler')
  return {
    path,
    server,
    handler,
    allowedHosts: resolveList('allowedHosts', allowedHosts, /^[^/?#@\s]+$/, 'hosts, such as "example.com" or "example.com:8080"'),
    allowedOrigins: resolveList('allowedOrigins', allowedOrigins, /^[^/?#@\s]+:\/\/[^/?#@\s]+$/, 'origins, such as "https://example.com"'),
    initializeTimeout: assertInteger('initializeTimeout', initializeTimeout, 1, MAX_DELAY),
    sessions: resolveOptions({ ...rest, maxSessions, resumeTimeout, retry, log: log === undefined || isObject(log) ? { bytes: 4 * 1024 * 1024, age: resumeTimeout, ...log } : log }, pluginTimeout)
  }
}

function resolveList (name: string, value: readonly string[], pattern: RegExp, expected: string): string[] {
  assertOption(Array.isArray(value) && value.every(item => typeof item === 'string' && pattern.test(item)), name, `an array of ${expected}`)
  return value.map(item => item.toLowerCase())
}
