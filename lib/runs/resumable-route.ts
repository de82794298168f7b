import { randomUUID } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest, onRouteHookHandler, RouteHandlerMethod, RouteOptions } from 'fastify'
import { assertKeep } from '../assert-options.js'
import { noop, type Awaitable } from '../awaitable.js'
import { copyArrays } from '../copy-arrays.js'
import { Closing, DataTooDeep, IdempotencyKeyInvalid, RunIdMissing, RunInvalid, RunUnknown } from '../errors.js'
import { requireNoBodyOrJson } from '../wire/content-type.js'
import { discardItems } from '../stream/pump.js'
import { hasTimedOut } from '../stream/request-time.js'
import { parseEventId } from '../wire/event-id.js'
import { IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, LAST_EVENT_ID, STREAM_HEADERS } from '../wire/headers.js'
import { fingerprint, isIdempotencyKey, serializeData } from '../wire/idempotency-key.js'
import { KeyLocks } from './key-locks.js'
import { sendError } from './send-error.js'
import { assertFunctions, assertRunOptions } from './run-options.js'
import type { RunReplyOptions } from './run-response.js'
import type { Run } from './run.js'
import type { Producer, Runs, StartRunOptions } from './runs.js'

/** The options of a route with `resumable`. */
export interface ResumableOptions extends Pick<StartRunOptions, 'keep' | 'encode'>, Pick<RunReplyOptions, 'finalFrame' | 'gapFrame'> {}

declare module 'fastify' {
  interface RouteShorthandOptions {
    /**
     * Whether the response is a run, which the handler starts with `reply.events`. A GET of the URL with `Last-Event-ID`, or of the
     * `Location` of the response, follows it, and a DELETE stops it. Default: no. An invalid value fails the boot with FST_SSE_RUN_INVALID,
     * and a store that does not support runs with FST_SSE_RUNS_UNSUPPORTED.
     */
    resumable?: boolean | ResumableOptions
  }
  interface FastifyReply {
    /**
     * In a route with the option `resumable`: starts a run and responds with its events. Takes an iterable, usually the result of an async
     * generator function, or a {@link Producer}, which gets a signal that aborts when the run is stopped. Returns the reply. Throws FST_SSE_RUN_INVALID.
     */
    events (items: AsyncIterable<unknown> | Iterable<unknown> | Producer): this
  }
}

const OPTIONS = ['keep', 'encode', 'finalFrame', 'gapFrame']

/** Key of the {@link ResumableRoute} in the config of a route. Also marks an instance whose routes can be resumable. */
const kResumable = Symbol('fastify-sse-sessions resumable')

type GetPrincipal = ((request: FastifyRequest) => Awaitable<string | undefined>) | undefined

/** Adds the route option `resumable` and `reply.events` to an instance. A later registration of the plugin in the same scope changes nothing. */
export function addResumableRoutes (app: FastifyInstance, runs: Runs, getPrincipal: GetPrincipal): void {
  if (app.hasDecorator(kResumable)) return
  app.decorate(kResumable, true)
  const locks = new KeyLocks(runs.maxRuns, runs.handlerTimeout)
  app.decorateReply('events', function (this: FastifyReply, items: unknown) {
    const { [kResumable]: route } = this.request.routeOptions.config as { [kResumable]?: ResumableRoute }
    if (route === undefined) throw new RunInvalid('"reply.events" needs a route with the option "resumable" that was added after the plugin; await app.register(…) before you add the route')
    assertItems(items)
    route.start(this.request, this, items)
    return this
  })
  const onRoute: onRouteHookHandler = function (route) {
    const { resumable = false } = route
    if (resumable === false) return
    runs.assertSupported()
    // Fastify adds a HEAD route with the handler of each GET route. A HEAD request must not start a run.
    if (route.method === 'HEAD') route.handler = (_request, reply) => reply.headers(STREAM_HEADERS).send()
    else new ResumableRoute(runs, locks, getPrincipal, resumable === true ? {} : resumable).addTo(this, route)
  }
  app.addHook('onRoute', onRoute)
}

type Items = Parameters<FastifyReply['events']>[0]

function assertItems (items: unknown): asserts items is Items {
  const iterable = Object(items) as object
  if (typeof items !== 'function' && !(Symbol.asyncIterator in iterable || Symbol.iterator in iterable)) throw new RunInvalid('"reply.events" needs an iterable, an async iterable or a function that returns one; call a generator function, and await a promise of an iterable')
}

/** A route whose responses are runs. */
class ResumableRoute {
  readonly #runs: Runs
  readonly #locks: KeyLocks
  /** The functions that release the lock of the key of a request. */
  readonly #releases = new WeakMap<FastifyRequest, () => void>()
  /** The fingerprints of the requests with a key, because a handler can change the body. */
  readonly #fingerprints = new WeakMap<FastifyRequest, string>()
  readonly #getPrincipal: GetPrincipal
  readonly #startOptions: Pick<StartRunOptions, 'keep' | 'encode'>
  readonly #replyOptions: RunReplyOptions

  constructor (runs: Runs, locks: KeyLocks, getPrincipal: GetPrincipal, options: ResumableOptions) {
    assertRunOptions(options, OPTIONS)
    const { keep, encode, finalFrame, gapFrame } = options
    if (keep !== undefined) assertKeep(keep, 'a run', RunInvalid)
    assertFunctions({ encode, finalFrame, gapFrame })
    this.#runs = runs
    this.#locks = locks
    this.#getPrincipal = getPrincipal
    this.#startOptions = { ...keep !== undefined && { keep }, ...encode !== undefined && { encode } }
    this.#replyOptions = { ...finalFrame !== undefined && { finalFrame }, ...gapFrame !== undefined && { gapFrame } }
  }

  /** Changes the options of a route that is being added to an instance, and adds the routes that follow and stop its runs. */
  addTo (instance: FastifyInstance, route: RouteOptions & { readonly routePath: string }): void {
    const follow = respond(async (request, reply) => this.#respond(await this.#requireRun(request), request, reply))
    this.#addRoute(instance, route, 'GET', follow)
    this.#addRoute(instance, route, 'DELETE', respond(async (request, reply) => {
      const run = await this.#requireRun(request)
      await run.stop('deleted')
      reply.code(204).send()
    }))
    const { handler } = route
    // The handler is wrapped, because a hook would run before hooks for authentication that plugins add later.
    route.handler = (request, reply) => {
      if (getRunId(request) !== undefined) return follow.call(instance, request, reply)
      const key = getIdempotencyKey(request)
      const callHandler = (): unknown => handler.call(instance, request, reply)
      return key === undefined ? callHandler() : this.#handleOnce(key, request, reply, callHandler)
    }
    route.config = { ...route.config, [kResumable]: this } as NonNullable<RouteOptions['config']>
  }

  /** Starts a run for a request and responds with it. */
  async start (request: FastifyRequest, reply: FastifyReply, items: Items): Promise<void> {
    const release = this.#takeRelease(request)
    let unread = typeof items === 'function' ? undefined : items
    let producer: Producer = items as Producer
    if (unread !== undefined) {
      producer = () => {
        unread = undefined
        return items as Iterable<unknown>
      }
    }
    try {
      const principal = await this.#getPrincipal?.(request)
      const key = getIdempotencyKey(request)
      const run = await this.#runs.startWithFingerprint(createRunName(request, key ?? randomUUID()), { ...this.#startOptions, principal, reuse: 'kept' }, this.#fingerprints.get(request), producer)
      this.#respond(run, request, reply)
    } catch (error) {
      sendError(reply, error)
    } finally {
      release()
      // No run was started, or one with the same key is running already.
      if (unread !== undefined) discardItems(unread, reply.log)
    }
  }

  /** Adds a route with the URL and the hooks of another one, unless the app has such a route. */
  #addRoute (instance: FastifyInstance, route: RouteOptions & { readonly routePath: string }, method: 'GET' | 'DELETE', handler: RouteHandlerMethod): void {
    const { url, constraints, routePath, schema: { params, headers, tags, security, hide } = {} } = route as typeof route & { schema?: Record<string, unknown> }
    if ([route.method].flat().includes(method) || instance.hasRoute({ method, url, constraints: constraints ?? {} })) return
    // Plugins add hooks to the arrays and properties to the config, so each route needs its own.
    instance.route({
      ...copyArrays(route),
      method,
      // Fastify does not read the body of a GET.
      preParsing: [method === 'DELETE' ? requireNoBodyOrJson : [], route.preParsing ?? []].flat(),
      // `routePath` has no prefix. If it is empty, `/` adds the route with and without the slash.
      url: routePath === '' ? '/' : routePath,
      config: { ...route.config },
      // Not the schema of the query, which would not allow `run`.
      schema: Object.fromEntries(Object.entries({ params, headers, tags, security, hide }).filter(([, value]) => value !== undefined)),
      resumable: false,
      exposeHeadRoute: false,
      handler
    })
  }

  /**
   * Responds with the run that an earlier request with the same key has started. Otherwise calls the handler. While the handler of an
   * earlier request with the key runs, waits until it has started a run, has responded or has failed.
   */
  async #handleOnce (key: string, request: FastifyRequest, reply: FastifyReply, callHandler: () => unknown): Promise<unknown> {
    const name = createRunName(request, key)
    const requestFingerprint = createFingerprint(request)
    this.#fingerprints.set(request, requestFingerprint)
    const principal = await this.#getPrincipal?.(request)
    const release = await this.#locks.acquire(JSON.stringify([principal, name]), reply.raw)
    // Nobody waits for the response any more.
    if (release === undefined) return reply
    try {
      if (this.#runs.closing) throw new Closing()
      const run = await this.#runs.findRepeated(name, principal, requestFingerprint)
      if (run !== undefined) {
        release()
        return this.#respond(run, request, reply.header(IDEMPOTENT_REPLAYED, 'true'))
      }
    } catch (error) {
      release()
      sendError(reply, error)
      return reply
    }
    this.#releases.set(request, release)
    const onSettled = (): void => { this.#takeRelease(request)() }
    // Fastify's `handlerTimeout` responds although the handler runs. Over HTTP/2, `finish` is also emitted when the client disconnects.
    reply.raw.on('finish', () => { if (reply.raw.writableEnded) onSettled() })
    const callAsync = async (): Promise<unknown> => {
      const result = callHandler()
      // If the handler returns nothing, it responds later. `reply` is a thenable that resolves when the response has ended.
      return result === undefined ? reply : result
    }
    const result = callAsync()
    result.then(onSettled, onSettled)
    return await result
  }

  /** Returns the function that releases the lock of the key of a request, the first time. From then on, only the caller can release it. */
  #takeRelease (request: FastifyRequest): () => void {
    const release = this.#releases.get(request) ?? noop
    this.#releases.delete(request)
    return release
  }

  /** Finds the run of a request that follows or stops one. Rejects with FST_SSE_RUN_ID_MISSING or FST_SSE_RUN_UNKNOWN. */
  async #requireRun (request: FastifyRequest): Promise<Run> {
    const id = getRunId(request)
    if (id === undefined) throw new RunIdMissing()
    const principal = await this.#getPrincipal?.(request)
    const run = await this.#runs.findById(id, principal)
    // A run of another route, or of another path of this route, may have other access rules.
    if (run?.name.startsWith(createRunName(request, '')) !== true) throw new RunUnknown()
    return run
  }

  #respond (run: Run, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    reply.header('location', getRunUrl(request.originalUrl, run.id))
    return run.reply(request, reply, this.#replyOptions)
  }
}

/** Returns the handler of a route of the plugin. It returns no promise: if that rejected while another response is being sent, for example after Fastify's `handlerTimeout`, Fastify would send the error, too. */
function respond (handle: (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>): RouteHandlerMethod {
  return (request, reply) => {
    if (!hasTimedOut(request)) handle(request, reply).catch((error: unknown) => { sendError(reply, error) })
  }
}

/** Returns the id of the run that a request names in the URL of a GET or DELETE, or with `Last-Event-ID`; an empty string if that is not an id. */
function getRunId ({ method, originalUrl, headers: { [LAST_EVENT_ID]: lastEventId } }: FastifyRequest): string | undefined {
  // Not `request.query`: the schema of a route may remove `run`.
  const run = method === 'GET' || method === 'DELETE' ? getQuery(originalUrl).get('run') : null
  if (run !== null) return run
  return typeof lastEventId === 'string' && lastEventId !== '' ? parseEventId(lastEventId)?.id ?? '' : undefined
}

/** Returns the idempotency key of a request. Throws FST_SSE_IDEMPOTENCY_KEY_INVALID. */
function getIdempotencyKey ({ headers: { [IDEMPOTENCY_KEY]: key } }: FastifyRequest): string | undefined {
  if (key === undefined || key === '') return undefined
  if (!isIdempotencyKey(key)) throw new IdempotencyKeyInvalid()
  return key
}

const getPath = (url: string): string => url.split('?', 1)[0] as string

const getQuery = (url: string): URLSearchParams => new URLSearchParams(url.slice(getPath(url).length))

/** Returns the URL of a run. It keeps the query of the request, which the schema of the route may require. */
function getRunUrl (url: string, id: string): string {
  const query = getQuery(url)
  query.set('run', id)
  return `${getPath(url)}?${query.toString()}`
}

/** Returns the name of a run: the path of the request, a space and a key. */
const createRunName = ({ url }: FastifyRequest, key: string): string => `${getPath(url)} ${key}`

/** Returns a hash of the URL and the body, which detects that a key is reused. A body that a parser of the app has made of streams or functions is not compared. */
function createFingerprint ({ method, url, body }: FastifyRequest): string {
  let data: string | undefined
  try {
    data = serializeData(body)
  } catch (error) {
    if (error instanceof DataTooDeep) throw error
  }
  return fingerprint(`${method} ${url}`, data)
}
