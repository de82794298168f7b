import { IncomingMessage, type IncomingHttpHeaders } from 'node:http'
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { andThen, noop, type Awaitable } from '../awaitable.js'
import { asError } from '../errors.js'
import type { Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import type { StoredResponse } from '../store/message-queue.js'
import { IDEMPOTENCY_KEY } from '../wire/headers.js'
import { isCaptured, resolveAfterTimeout, startCapture } from './captured-response.js'
import { sendResponse } from './message.js'
import { createInternalResponse } from './second-reply.js'

/** Path of the internal route for one message of a batch, below the path for messages. */
export const BATCH_MESSAGE_PATH = '/batch/message'

/** A message of a batch. */
export interface BatchMessage {
  readonly event: string
  /** The data as JSON; `undefined` if there is none. */
  readonly json: Buffer | undefined
  /** The idempotency key. */
  readonly id: string | undefined
}

/** Handles a message in the handler of the internal route. Throws or rejects if the message is refused. */
export type RequestHandler = (request: FastifyRequest, reply: FastifyReply) => Awaitable<StoredResponse>

/** The option of Fastify, which can be in two places. The types of Fastify lack the second one. */
interface SemicolonConfig {
  readonly useSemicolonDelimiter?: boolean
  readonly routerOptions?: { readonly useSemicolonDelimiter?: boolean }
}

export interface DispatchResult {
  readonly response: StoredResponse
  /** Whether a handler has handled the message. Otherwise it was refused. */
  readonly isHandled: boolean
}

// These headers describe the body or the connection of the original request, or the encoding of its response.
const OMITTED_HEADERS = ['content-length', 'content-encoding', 'content-type', 'transfer-encoding', 'accept-encoding', 'expect']

/**
 * An internal POST, for a message of a batch. {@link dispatch} passes it to Fastify's router, so that Fastify handles it like a
 * POST from the network.
 */
export class MessageRequest extends IncomingMessage {
  readonly session: Session
  readonly event: string
  /** The id and the logger of the original request. */
  readonly id: string
  readonly log: FastifyBaseLogger
  readonly #handle: RequestHandler
  /** Whether a handler has handled the message. */
  #isHandled: Awaitable<boolean> = false
  #response: StoredResponse | undefined
  /** Resolves the capture of the response. */
  #resolve: (response: StoredResponse) => void = noop
  /** Starts the timeout of the app's hooks: of those before the handler, and then of those after it. */
  #startTimeout: () => void = noop
  #cancelTimeout: () => void = noop

  constructor (original: FastifyRequest, session: Session, { event, json, id }: BatchMessage, handle: RequestHandler) {
    super(original.raw.socket)
    this.session = session
    this.event = event
    this.id = original.id
    this.log = original.log
    this.#handle = handle
    this.httpVersion = original.raw.httpVersion
    this.httpVersionMajor = original.raw.httpVersionMajor
    this.httpVersionMinor = original.raw.httpVersionMinor
    this.complete = true
    this.method = 'POST'
    const url = this.url = createMessageUrl(original)
    // Fastify calls `rewriteUrl` of the app for this request, too, and sets `url` to the result, which could have a prefix twice. So
    // assignments to `url` have no effect for now. `originalUrl` shows that the app may have `rewriteUrl`; plugins for middleware set it, too.
    if ('originalUrl' in original.raw) Object.defineProperty(this, 'url', { configurable: true, get: () => url, set: noop })
    const headers: IncomingHttpHeaders = { ...original.headers }
    for (const name of OMITTED_HEADERS) Reflect.deleteProperty(headers, name)
    if (id !== undefined) headers[IDEMPOTENCY_KEY] = id
    if (json !== undefined) {
      headers['content-type'] = 'application/json'
      headers['content-length'] = String(json.length)
      this.push(json)
    }
    this.push(null)
    this.headers = headers
  }

  /** Makes the URL writable for the hooks of the app, some of which change it. Called when Fastify has found the internal route. */
  unlockUrl (): void {
    Object.defineProperty(this, 'url', { value: this.url, writable: true })
  }

  /** Handles the message. The handler of the internal route calls it. */
  handle (sessions: Sessions, request: FastifyRequest, reply: FastifyReply): void {
    // A hook has continued after the timeout. Other messages of the session may have been handled since.
    if (this.#response !== undefined) {
      sendResponse(reply, this.#response)
      return
    }
    this.#cancelTimeout()
    const onError = (error: unknown): false => {
      this.#startTimeout()
      if (sessions.canSend(reply)) reply.send(asError(error))
      return false
    }
    try {
      const isHandled = andThen(this.#handle(request, reply), response => {
        this.#startTimeout()
        // Something else has responded while the handler ran, for example Fastify's `handlerTimeout`.
        if (!isCaptured(reply)) {
          this.#response = response
          this.#resolve(response)
        }
        return true
      })
      this.#isHandled = isHandled instanceof Promise ? isHandled.catch(onError) : isHandled
    } catch (error) {
      onError(error)
    }
  }

  /** Passes the message to the router. Resolves with FST_SSE_HANDLER_TIMEOUT if the hooks of the app need more than `timeout` milliseconds. */
  async dispatch (scope: FastifyInstance, timeout: number): Promise<DispatchResult> {
    const response = createInternalResponse(this)
    const capture = startCapture(response, {})
    this.#resolve = capture.resolve
    this.#startTimeout = () => { this.#cancelTimeout = resolveAfterTimeout(capture, timeout, this.event, this.log) }
    this.#startTimeout()
    scope.routing(this, response)
    const captured = await capture.response
    this.#response ??= captured
    const isHandled = await this.#isHandled
    this.#cancelTimeout()
    return { response: this.#response, isHandled }
  }

  // The method of the superclass would close the connection.
  override _destroy (error: Error | null, done: (error?: Error | null) => void): void { done(error) }
}

/** Returns the URL of the internal route. It keeps the query and the parameters of the original URL. */
function createMessageUrl ({ raw: { url = '' }, routeOptions, server: { initialConfig } }: FastifyRequest): string {
  const { useSemicolonDelimiter, routerOptions } = initialConfig as SemicolonConfig
  const [path = '', ...query] = url.split([useSemicolonDelimiter, routerOptions?.useSemicolonDelimiter].includes(true) ? /(?=[?;#])/ : /(?=[?#])/)
  // Without the lookbehind, each of many slashes before another character would be tried as a start, which takes quadratic time.
  const base = path.replace(/(?<!\/)\/+$/, '')
  // The original URL may end with an event name.
  const upwardPath = routeOptions.url?.endsWith('/:event') === true ? base.slice(0, base.lastIndexOf('/')) : base
  return upwardPath + BATCH_MESSAGE_PATH + query.join('')
}
