import type { FastifyCorsOptions } from '@fastify/cors'
import type { FastifyRequest, LogLevel, RouteShorthandOptions } from 'fastify'
import { OptionInvalid } from './errors.js'
import { chain } from './promises.js'
import type { LogBounds } from './store/log.js'
import { memoryStore } from './store/memory.js'
import type { Awaitable, OpenStore, StoreSettings } from './store/store.js'
import { isSendable } from './wire/frame.js'

/** The options of the plugin. All are checked at boot; FST_SSE_OPTION_INVALID says what is wrong. */
export interface SseSessionsOptions {
  /** Path prefix of the routes. Default: none. */
  prefix?: string
  /** Level of what the routes log. Default: the app's. */
  logLevel?: LogLevel
  /** Name under which the registry is decorated on the instance; a second registration needs another. Default `sseSessions`. */
  decorator?: string
  /** Paths of the routes under the prefix. Defaults `/downward` and `/upward`. */
  paths?: { downward?: string, upward?: string }
  /** Route options (`config`, `schema`, `bodyLimit`, `constraints`, hooks, …) for GET and DELETE of the downward path, and for POST. Default: none. */
  routes?: { downward?: RouteShorthandOptions, upward?: RouteShorthandOptions, close?: RouteShorthandOptions }
  /** Where sessions live: `memoryStore`, or `redisStore(…)` for many processes. Default `memoryStore`. */
  store?: OpenStore
  /**
   * Whose session it is. Asked on every GET, POST and DELETE, after the app's hooks; a session is found only by the
   * principal that opened it. `undefined` and `null` are nobody, anything else but a string is the app's mistake.
   * Default: whoever knows the session's id.
   */
  principal?: (request: FastifyRequest) => Awaitable<string | null | undefined>
  /** Options for `@fastify/cors` on these routes alone; `true` for its defaults. Left alone where the app has registered it. Default `false`. */
  cors?: boolean | FastifyCorsOptions
  /** Milliseconds after which an idle stream gets a heartbeat. `false` turns heartbeats off. Default 15 000. */
  heartbeatInterval?: number | false
  /** Name of an event to send as the heartbeat, for pages that want to see it. Default: a comment, which they do not. */
  heartbeatEvent?: string
  /** Milliseconds for which a session waits for a client that has lost its stream. Default 120 000. */
  resumeTimeout?: number
  /** Milliseconds that a client waits before it connects again: a number, or a range to choose from at random. Default `[1000, 5000]`. */
  retry?: number | [min: number, max: number]
  /** Milliseconds that `app.close()` gives streams to take what they still have to get. Must be below Fastify's `pluginTimeout`. Default 3000. */
  closeTimeout?: number
  /** How much the log of a session keeps: `entries`, `bytes`, `age` in milliseconds. Defaults 1000, 1 MiB, 300 000. */
  log?: Partial<LogBounds>
  /** How much the log of a channel, and that of broadcasts, keeps. Defaults as `log`. */
  channelLog?: Partial<LogBounds>
  /** Sessions at most; as many that have ended are kept for clients that have not heard of it. Default 100 000; `Infinity` for no limit. */
  maxSessions?: number
  /** Sessions of one principal at most. Default 100; `Infinity` for no limit. */
  maxSessionsPerPrincipal?: number
  /** Messages of one session that may wait for the one being handled; also the length of a batch. Default 256. */
  maxWaitingMessages?: number
  /** Answers kept a session for repeated idempotency keys. Default 256. */
  maxIdempotencyKeys?: number
}

/** The options, checked and complete. */
export interface Settings extends StoreSettings {
  readonly prefix: string
  readonly logLevel: LogLevel | undefined
  readonly decorator: string
  readonly downwardPath: string
  readonly upwardPath: string
  readonly routes: { readonly downward: RouteShorthandOptions, readonly upward: RouteShorthandOptions, readonly close: RouteShorthandOptions }
  readonly store: OpenStore
  readonly principal: (request: FastifyRequest) => Awaitable<string | undefined>
  readonly anyone: boolean
  readonly cors: FastifyCorsOptions | undefined
  readonly heartbeatInterval: number | false
  readonly heartbeatEvent: string | undefined
  readonly retry: readonly [min: number, max: number]
  readonly closeTimeout: number
}

// What a timer of Node takes.
const MAX_DELAY = 2 ** 31 - 1
const MAX_COUNT = Infinity

/** Checks what the app gave, and fills in the defaults. `pluginTimeout` is Fastify's, 0 for none. */
export function settle (options: SseSessionsOptions, pluginTimeout: number | undefined): Settings {
  const {
    prefix = '',
    logLevel,
    decorator = 'sseSessions',
    paths = {},
    routes = {},
    store = memoryStore,
    principal,
    cors = false,
    heartbeatInterval = 15_000,
    heartbeatEvent,
    resumeTimeout = 120_000,
    retry = [1000, 5000],
    closeTimeout = 3000,
    log,
    channelLog,
    maxSessions = 100_000,
    maxSessionsPerPrincipal = 100,
    maxWaitingMessages = 256,
    maxIdempotencyKeys = 256,
    ...unknown
  } = options
  const [stranger] = Object.keys(unknown)
  check(stranger === undefined, String(stranger), 'left out: there is no such option')
  check(typeof prefix === 'string', 'prefix', 'a string')
  check(logLevel === undefined || typeof logLevel === 'string', 'logLevel', 'the name of a log level')
  only('paths', paths, ['downward', 'upward'])
  const { downward: downwardPath = '/downward', upward: upwardPath = '/upward' } = paths
  only('routes', routes, ['downward', 'upward', 'close'])
  for (const [name, route] of Object.entries(routes)) check(isObject(route), `routes.${name}`, 'an object of route options')
  check(typeof decorator === 'string' && decorator !== '', 'decorator', 'a non-empty string')
  check(isPath(downwardPath), 'paths.downward', 'a path that starts with /')
  check(isPath(upwardPath) && !upwardPath.endsWith('/'), 'paths.upward', 'a path that starts with / and does not end with it')
  check(typeof store === 'function', 'store', 'a function that opens a store, as memoryStore or redisStore(…)')
  check(principal === undefined || typeof principal === 'function', 'principal', 'a function')
  check(typeof cors === 'boolean' || isObject(cors), 'cors', 'true, false or the options of @fastify/cors')
  check(heartbeatEvent === undefined || isSendable(heartbeatEvent), 'heartbeatEvent', 'an event name that is not one of ours')
  const [min, max] = typeof retry === 'number' ? [retry, retry] : range('retry', retry)
  number('closeTimeout', closeTimeout, 0, MAX_DELAY)
  check(!pluginTimeout || closeTimeout < pluginTimeout, 'closeTimeout', `below the pluginTimeout of Fastify, ${pluginTimeout} ms`, closeTimeout)
  return {
    prefix,
    logLevel,
    decorator,
    downwardPath,
    upwardPath,
    routes: { downward: {}, upward: {}, close: {}, ...routes },
    store,
    principal: principal === undefined ? () => undefined : request => chain(principal(request), principalOf),
    anyone: principal === undefined,
    cors: cors === false ? undefined : cors === true ? {} : cors,
    heartbeatInterval: heartbeatInterval === false ? false : number('heartbeatInterval', heartbeatInterval, 5, MAX_DELAY),
    heartbeatEvent,
    resumeTimeout: number('resumeTimeout', resumeTimeout, 0, MAX_DELAY),
    retry: [number('retry', min, 0, MAX_DELAY), number('retry', max, min, MAX_DELAY)],
    closeTimeout,
    log: bounds('log', log),
    channelLog: bounds('channelLog', channelLog),
    maxSessions: number('maxSessions', maxSessions, 1, MAX_COUNT),
    maxSessionsPerPrincipal: number('maxSessionsPerPrincipal', maxSessionsPerPrincipal, 1, MAX_COUNT),
    maxWaitingMessages: number('maxWaitingMessages', maxWaitingMessages, 0, MAX_COUNT),
    maxIdempotencyKeys: number('maxIdempotencyKeys', maxIdempotencyKeys, 0, MAX_COUNT)
  }
}

function bounds (name: string, given: Partial<LogBounds> = {}): LogBounds {
  only(name, given, ['entries', 'bytes', 'age'])
  const { entries = 1000, bytes = 1024 * 1024, age = 300_000 } = given
  return {
    entries: number(`${name}.entries`, entries, 1, MAX_COUNT),
    bytes: number(`${name}.bytes`, bytes, 1, MAX_COUNT),
    age: number(`${name}.age`, age, 1, MAX_DELAY)
  }
}

function range (name: string, value: readonly number[]): [number, number] {
  const [min, max, more] = Array.isArray(value) ? value : []
  check(min !== undefined && max !== undefined && more === undefined, name, 'a number of milliseconds or a range of two')
  return [min as number, max as number]
}

function number (name: string, value: number, min: number, max: number): number {
  const isWhole = Number.isInteger(value) || value === Infinity
  check(isWhole && value >= min && value <= max, name, `a whole number from ${min} to ${max}`, value)
  return value
}

function only (name: string, given: unknown, names: readonly string[]): void {
  check(isObject(given) && Object.keys(given).every(key => names.includes(key)), name, `an object of ${names.join(', ')}`)
}

function isObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** The principal of a request: over Redis, what is no string would not be found again. */
function principalOf (given: unknown): string | undefined {
  if (given === undefined || given === null) return undefined
  check(typeof given === 'string', 'principal', 'a function that gives a string', typeof given)
  return given as string
}

function isPath (value: unknown): boolean {
  return typeof value === 'string' && value.startsWith('/')
}

function check (holds: boolean, name: string, wanted: string, got?: unknown): void {
  if (!holds) throw new OptionInvalid(`Option "${name}" must be ${wanted}${got === undefined ? '' : `; it is ${String(got)}`}`)
}
