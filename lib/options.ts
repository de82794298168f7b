import { getHeapStatistics } from 'node:v8'
import type { FastifyCorsOptions } from '@fastify/cors'
import type { FastifyRequest, LogLevel, RegisterOptions, RouteShorthandOptions } from 'fastify'
import { andThen, type Awaitable } from './awaitable.js'
import { OptionInvalid, Unauthorized } from './errors.js'
import type { LogBounds } from './log/log.js'
import { memoryStore } from './store/memory/memory-store.js'
import type { StoreFactory, StoreSettings } from './store/store.js'
import { isUserEvent } from './wire/frame.js'

/** The options of the plugin. All are checked at boot. An invalid one fails the boot with FST_SSE_OPTION_INVALID. */
export interface SseSessionsOptions {
  /** Path prefix of the routes. Default: none. */
  prefix?: string
  /** Log level of the routes. Default: that of the app. */
  logLevel?: LogLevel
  /** Log serializers of the routes, by property, in addition to those of the app. Default: none. */
  logSerializers?: NonNullable<RegisterOptions['logSerializers']>
  /** Name of the registry on the instance. A second registration needs another name. Default: `sseSessions`. */
  decorator?: string
  /** Paths of the routes under the prefix. Defaults: `/downward` and `/upward`. */
  paths?: { downward?: string, upward?: string }
  /** Fastify route options (`config`, `schema`, `bodyLimit`, `constraints`, hooks, …): `downward` for the GET, `upward` for the POST, `close` for the DELETE. Default: none. */
  routes?: { downward?: RouteShorthandOptions, upward?: RouteShorthandOptions, close?: RouteShorthandOptions }
  /** Where sessions are kept: `memoryStore`, or `redisStore(…)` for several processes. Default: `memoryStore`. */
  store?: StoreFactory
  /**
   * Returns the principal of a request: a string that identifies its user, or `undefined` or `null` for none.
   * The function is called for every GET, POST and DELETE, after the app's hooks. Only the principal that opened a session can use it.
   * Default: no request has a principal, and whoever has the session id can use the session.
   */
  principal?: (request: FastifyRequest) => Awaitable<string | null | undefined>
  /**
   * Returns the time at which the credentials of a request expire, for example those of a token. The latest time of all requests of a
   * session applies to the session. At most about a second after it, the session is closed with the reason `unauthorized` if it has a
   * stream. The function is called after `principal`, for the same requests. `undefined` or `null` changes nothing; a time that has passed fails the request with FST_SSE_UNAUTHORIZED.
   * Default: credentials do not expire.
   */
  expires?: (request: FastifyRequest) => Awaitable<Date | null | undefined>
  /** Options of `@fastify/cors` for these routes only; `true` for its defaults. Ignored if the app has registered @fastify/cors. Default: `false`. */
  cors?: boolean | FastifyCorsOptions
  /** Milliseconds without a write after which a stream gets a heartbeat, at least 5. `false` turns heartbeats off. Default: 15 000. */
  heartbeatInterval?: number | false
  /** Name of an event to send as the heartbeat, for pages that need to detect it. Default: none; the heartbeat is a comment, which EventSource does not report. */
  heartbeatEvent?: string
  /** Whether each stream gets a comment of 4 KiB after the `welcome` event, for proxies and virus scanners that forward a response only from 4 KiB on. Default: `false`. */
  padding?: boolean
  /**
   * Whether the streams of clients that accept gzip are compressed: `true` for broadcasts and the events of all channels, or an
   * object that selects them; `channels` may be a regular expression for names. Each event is compressed for all clients together. The size
   * of a stream can reveal secrets that are sent together with data of an attacker (BREACH). Other events are never compressed. Default: `false`.
   */
  compress?: boolean | { broadcasts?: boolean, channels?: boolean | RegExp }
  /** Milliseconds for which a session without a stream stays open. Default: 120 000. */
  resumeTimeout?: number
  /** Milliseconds that a client waits before it reconnects: a number, or a range from which each client gets a random value. Default: `[1000, 5000]`. */
  retry?: number | [min: number, max: number]
  /** Maximum number of milliseconds that `app.close()` waits for streams to write the rest of their events, for handlers, and for requests to other routes. Then it closes all connections of the server. Must be at least 500 less than Fastify's `pluginTimeout`. Default: 3000. */
  closeTimeout?: number
  /**
   * Bounds of the log of each session: `entries`, `bytes`, and `age` in milliseconds. A log keeps the newest events for
   * clients that are slow or reconnect; a `gap` event reports older ones that a client has missed. Defaults: 1000, 1 MiB, 300 000.
   */
  log?: Partial<LogBounds>
  /** Bounds of the log of each channel, and of the log of broadcasts, as for `log`. Defaults: 1000, 1 MiB, 300 000. */
  channelLog?: Partial<LogBounds>
  /** Bounds of the log of each run, as for `log`. A reader can start at the beginning of a run only while the log contains all of it. Defaults: 10 000, 1 MiB, 3 600 000. */
  runLog?: Partial<LogBounds>
  /** Maximum number of runs, running and kept. At the limit, the run that ended first is removed; if none has ended, no run can start. Default: 10 000; `Infinity` turns the limit off. */
  maxRuns?: number
  /**
   * Maximum number of sessions. At the limit, the memory store makes room for a new one: it removes the session that was closed
   * first; otherwise, of the sessions without a stream whose clients have never sent a message, the one that is idle for the longest time.
   * Default: 100 000; `Infinity` turns the limit off.
   */
  maxSessions?: number
  /** Maximum number of sessions of one principal, as for `maxSessions`. Default: 100; `Infinity` turns the limit off. */
  maxSessionsPerPrincipal?: number
  /** Maximum number of channels of one session. Default: 1000; `Infinity` turns the limit off. */
  maxChannelsPerSession?: number
  /** Maximum number of messages of one session that wait, or run concurrently, while another is handled; also the maximum length of a batch. Default: 256; `Infinity` turns the limit off. */
  maxWaitingMessages?: number
  /** Maximum size of the messages of one session that wait, in bytes of memory. If none waits, one message or batch of any size may wait. With the Redis store, each process applies it to the messages that wait in this process. Default: 1 MiB; `Infinity` turns the limit off. */
  maxWaitingBytes?: number
  /** Maximum number of idempotency keys that are kept per session. A repeated message receives the response that is kept for its key. Default: 256; `Infinity` turns the limit off. */
  maxIdempotencyKeys?: number
  /** Maximum size of the responses of one session that are kept for idempotency keys, in bytes. The oldest are dropped first; a repeat then fails with FST_SSE_RESPONSE_DROPPED. Default: 1 MiB; `Infinity` turns the limit off. */
  maxResponseBytes?: number
  /**
   * Maximum size of all logs, stored responses and waiting messages in the memory of this process, in bytes. Above it, the largest
   * logs and stored responses are reduced first. If that is not enough, messages fail with FST_SSE_MEMORY_FULL. Applies to the memory
   * store. Default: a quarter of V8's heap limit; `Infinity` turns the limit off.
   */
  maxBytes?: number
  /** Milliseconds after which a message gets a response although its handler has not settled: 504 with FST_SSE_HANDLER_TIMEOUT. The signal of the handler aborts, and the next message of the session is handled. The timeout also applies to validators and error handlers of the app, and, for each message of a batch, to its hooks. `handle` can set another timeout for one handler. Default: 60 000; 0 or `false` turns the timeout off. */
  handlerTimeout?: number | false
}

/** The options after the checks, with defaults. */
export interface Settings extends StoreSettings {
  readonly logLevel: LogLevel | undefined
  readonly logSerializers: RegisterOptions['logSerializers']
  readonly decorator: string
  readonly downwardPath: string
  readonly upwardPath: string
  readonly routes: { readonly downward: RouteShorthandOptions, readonly upward: RouteShorthandOptions, readonly close: RouteShorthandOptions }
  readonly store: StoreFactory
  readonly principal: ((request: FastifyRequest) => Awaitable<string | undefined>) | undefined
  /** Returns milliseconds since 1970. Throws or rejects with FST_SSE_UNAUTHORIZED if the time has passed. */
  readonly expires: ((request: FastifyRequest) => Awaitable<number | undefined>) | undefined
  readonly cors: FastifyCorsOptions | undefined
  readonly heartbeatInterval: number | false
  readonly heartbeatEvent: string | undefined
  readonly padding: boolean
  /** Whether streams are compressed for clients that accept it. */
  readonly compress: boolean
  readonly retry: readonly [min: number, max: number]
  /** 0 if there is no limit. */
  readonly handlerTimeout: number
}

/** The longest delay of a Node timer, in milliseconds. */
export const MAX_DELAY = 2 ** 31 - 1
/** Milliseconds that `app.close()` may take after `closeTimeout`: for the ends of runs or MCP calls, for the store and for `onClose` hooks. Fastify's `pluginTimeout` makes `app.close()` fail. */
const CLOSE_MARGIN = 500
// The heartbeat interval is divided into five ticks of at least one millisecond.
const MIN_HEARTBEAT_INTERVAL = 5
const MAX_COUNT = Infinity
const DEFAULT_BOUNDS: LogBounds = { entries: 1000, bytes: 1024 * 1024, age: 300_000 }
const DEFAULT_RUN_BOUNDS: LogBounds = { entries: 10_000, bytes: 1024 * 1024, age: 3_600_000 }

/**
 * Options that have no effect here, but that @fastify/autoload and fastify-cli pass to every plugin: the options of the
 * server (`fastify start --options`), and the metadata of a plugin.
 */
export const IGNORED_OPTIONS = [
  'ajv', 'allowErrorHandlerOverride', 'allowUnsafeRegex', 'bodyLimit', 'caseSensitive', 'childLoggerFactory', 'clientErrorHandler',
  'connectionTimeout', 'constraints', 'disableRequestLogging', 'exposeHeadRoutes', 'forceCloseConnections', 'frameworkErrors', 'genReqId',
  'http', 'http2', 'http2SessionTimeout', 'https', 'ignoreDuplicateSlashes', 'ignoreTrailingSlash', 'keepAliveTimeout',
  'logController', 'logger', 'loggerInstance', 'maxParamLength', 'maxRequestsPerSocket', 'onConstructorPoisoning', 'onProtoPoisoning',
  'pluginTimeout', 'querystringParser', 'requestIdHeader', 'requestIdLogLabel', 'requestTimeout', 'return503OnClosing', 'rewriteUrl',
  'routerOptions', 'schemaController', 'schemaErrorFormatter', 'serializerOpts', 'serverFactory', 'trustProxy', 'useSemicolonDelimiter',
  'decorators', 'dependencies', 'encapsulate', 'fastify', 'name', 'skipOverride'
] as const

/** Checks the options and adds the defaults. `pluginTimeout` is Fastify's, in milliseconds; 0 if there is none. */
export function resolveOptions (options: SseSessionsOptions, pluginTimeout: number | undefined): Settings {
  const {
    prefix = '',
    logLevel,
    logSerializers,
    decorator = 'sseSessions',
    paths = {},
    routes = {},
    store = memoryStore,
    principal,
    expires,
    cors = false,
    heartbeatInterval = 15_000,
    heartbeatEvent,
    padding = false,
    compress = false,
    resumeTimeout = 120_000,
    retry = [1000, 5000],
    closeTimeout = 3000,
    log,
    channelLog,
    runLog,
    maxRuns = 10_000,
    maxSessions = 100_000,
    maxSessionsPerPrincipal = 100,
    maxChannelsPerSession = 1000,
    maxWaitingMessages = 256,
    maxWaitingBytes = 1024 * 1024,
    maxIdempotencyKeys = 256,
    maxResponseBytes = 1024 * 1024,
    maxBytes = Math.floor(getHeapStatistics().heap_size_limit / 4),
    handlerTimeout = 60_000,
    ...unknown
  } = options
  const unknownName = Object.keys(unknown).find(name => !(IGNORED_OPTIONS as readonly string[]).includes(name))
  assertOption(unknownName === undefined, String(unknownName), 'removed: there is no such option')
  assertOption(typeof prefix === 'string', 'prefix', 'a string')
  assertOption(logLevel === undefined || typeof logLevel === 'string', 'logLevel', 'the name of a log level')
  assertOption(logSerializers === undefined || isObject(logSerializers), 'logSerializers', 'an object of functions')
  assertKeys('paths', paths, ['downward', 'upward'])
  const { downward: downwardPath = '/downward', upward: upwardPath = '/upward' } = paths
  assertKeys('routes', routes, ['downward', 'upward', 'close'])
  for (const [name, route] of Object.entries(routes)) assertOption(isObject(route), `routes.${name}`, 'an object of route options')
  assertOption(typeof decorator === 'string' && decorator !== '', 'decorator', 'a non-empty string')
  assertOption(isPath(downwardPath), 'paths.downward', 'a path that starts with /')
  assertOption(isPath(upwardPath) && !upwardPath.endsWith('/'), 'paths.upward', 'a path that starts with / and does not end with it')
  assertOption(typeof store === 'function', 'store', 'a store factory, such as memoryStore or redisStore(…)')
  assertOption(principal === undefined || typeof principal === 'function', 'principal', 'a function')
  assertOption(expires === undefined || typeof expires === 'function', 'expires', 'a function')
  assertOption(typeof cors === 'boolean' || isObject(cors), 'cors', 'true, false or the options of @fastify/cors')
  assertOption(heartbeatEvent === undefined || isUserEvent(heartbeatEvent), 'heartbeatEvent', 'an event name that is not reserved')
  assertOption(typeof padding === 'boolean', 'padding', 'true or false')
  const [min, max] = typeof retry === 'number' ? [retry, retry] : parseRange('retry', retry)
  assertInteger('closeTimeout', closeTimeout, 0, MAX_DELAY)
  assertOption(!pluginTimeout || closeTimeout + CLOSE_MARGIN <= pluginTimeout, 'closeTimeout', `at least ${CLOSE_MARGIN} ms less than the pluginTimeout of Fastify, ${pluginTimeout} ms`, closeTimeout)
  return {
    prefix,
    logLevel,
    logSerializers,
    decorator,
    downwardPath,
    upwardPath,
    routes: { downward: {}, upward: {}, close: {}, ...routes },
    store,
    principal: principal && (request => andThen(principal(request), assertPrincipal)),
    expires: expires && (request => andThen(expires(request), parseExpiry)),
    cors: cors === false ? undefined : cors === true ? {} : cors,
    heartbeatInterval: heartbeatInterval === false ? false : assertInteger('heartbeatInterval', heartbeatInterval, MIN_HEARTBEAT_INTERVAL, MAX_DELAY),
    heartbeatEvent,
    padding,
    ...resolveCompress(compress),
    resumeTimeout: assertInteger('resumeTimeout', resumeTimeout, 0, MAX_DELAY),
    retry: [assertInteger('retry', min, 0, MAX_DELAY), assertInteger('retry', max, min, MAX_DELAY)],
    closeTimeout,
    log: resolveLogBounds('log', log),
    channelLog: resolveLogBounds('channelLog', channelLog),
    runLog: resolveLogBounds('runLog', runLog, DEFAULT_RUN_BOUNDS),
    maxRuns: assertInteger('maxRuns', maxRuns, 1, MAX_COUNT),
    maxSessions: assertInteger('maxSessions', maxSessions, 1, MAX_COUNT),
    maxSessionsPerPrincipal: assertInteger('maxSessionsPerPrincipal', maxSessionsPerPrincipal, 1, MAX_COUNT),
    maxChannelsPerSession: assertInteger('maxChannelsPerSession', maxChannelsPerSession, 1, MAX_COUNT),
    maxWaitingMessages: assertInteger('maxWaitingMessages', maxWaitingMessages, 0, MAX_COUNT),
    maxWaitingBytes: assertInteger('maxWaitingBytes', maxWaitingBytes, 0, MAX_COUNT),
    maxIdempotencyKeys: assertInteger('maxIdempotencyKeys', maxIdempotencyKeys, 0, MAX_COUNT),
    maxResponseBytes: assertInteger('maxResponseBytes', maxResponseBytes, 0, MAX_COUNT),
    maxBytes: assertInteger('maxBytes', maxBytes, 1, MAX_COUNT),
    handlerTimeout: handlerTimeout === false ? 0 : assertInteger('handlerTimeout', handlerTimeout, 0, MAX_DELAY)
  }
}

function resolveLogBounds (name: string, bounds: Partial<LogBounds> = {}, defaults: LogBounds = DEFAULT_BOUNDS): LogBounds {
  assertKeys(name, bounds, ['entries', 'bytes', 'age'])
  const { entries = defaults.entries, bytes = defaults.bytes, age = defaults.age } = bounds
  return {
    entries: assertInteger(`${name}.entries`, entries, 1, MAX_COUNT),
    bytes: assertInteger(`${name}.bytes`, bytes, 1, MAX_COUNT),
    age: assertInteger(`${name}.age`, age, 1, MAX_DELAY)
  }
}

function resolveCompress (compress: NonNullable<SseSessionsOptions['compress']>): Pick<Settings, 'compress' | 'compressionScope'> {
  if (typeof compress === 'boolean') return resolveCompress({ broadcasts: compress, channels: compress })
  assertKeys('compress', compress, ['broadcasts', 'channels'])
  const { broadcasts = false, channels = false } = compress
  assertOption(typeof broadcasts === 'boolean', 'compress.broadcasts', 'true or false')
  assertOption(typeof channels === 'boolean' || channels instanceof RegExp, 'compress.channels', 'true, false or a regular expression')
  // `search` ignores the flags that make `test` depend on earlier calls.
  const includes = (channel: string): boolean => typeof channels === 'boolean' ? channels : channel.search(channels) !== -1
  return {
    compress: broadcasts || channels !== false,
    compressionScope: channel => channel === undefined ? (broadcasts ? '' : undefined) : includes(channel) ? channel : undefined
  }
}

function parseRange (name: string, value: readonly number[]): [number, number] {
  const [min, max, ...rest] = Array.isArray(value) ? value : []
  assertOption(min !== undefined && max !== undefined && rest.length === 0, name, 'a number of milliseconds or a range of two')
  return [min as number, max as number]
}

export function assertInteger (name: string, value: number, min: number, max: number): number {
  const isWhole = Number.isInteger(value) || value === Infinity
  assertOption(isWhole && value >= min && value <= max, name, `a whole number from ${min} to ${max}`, value)
  return value
}

function assertKeys (name: string, value: unknown, keys: readonly string[]): void {
  assertOption(isObject(value) && Object.keys(value).every(key => keys.includes(key)), name, `an object with the properties ${keys.join(', ')}`)
}

export function isObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** Checks the result of option `principal`. Only strings are allowed, because a store may change other values when it serializes them. */
function assertPrincipal (value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined
  assertOption(typeof value === 'string', 'principal', 'a function that returns a string, undefined or null', `one that returned a value of the type ${typeof value}`)
  return value as string
}

/** Checks the result of option `expires`. */
function parseExpiry (value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined
  assertOption(value instanceof Date && !Number.isNaN(value.getTime()), 'expires', 'a function that returns a valid Date, undefined or null', `one that returned ${value instanceof Date ? 'an invalid Date' : `a value of the type ${typeof value}`}`)
  const time = (value as Date).getTime()
  if (time <= Date.now()) throw new Unauthorized()
  return time
}

function isPath (value: unknown): boolean {
  return typeof value === 'string' && value.startsWith('/')
}

export function assertOption (isValid: boolean, name: string, expected: string, actual?: unknown): void {
  if (!isValid) throw new OptionInvalid(`Option "${name}" must be ${expected}${actual === undefined ? '' : `; it is ${String(actual)}`}`)
}
