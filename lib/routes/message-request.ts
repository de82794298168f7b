import { IncomingMessage, ServerResponse, type IncomingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import { Writable } from 'node:stream'
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { andThen, noop, type Awaitable } from '../awaitable.js'
import { asError } from '../errors.js'
import type { Session } from '../sessions/session.js'
import type { StoredResponse } from '../store/message-queue.js'
import { IDEMPOTENCY_KEY } from '../wire/headers.js'
import { limitCapture, sendResponse, startCapture } from './message.js'

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
export type HandleRequest = (request: FastifyRequest, reply: FastifyReply) => Awaitable<StoredResponse>

/** What the messages of one request have in common. */
export interface MessageOrigin {
  readonly raw: IncomingMessage
  readonly id: string
  readonly log: FastifyBaseLogger
  /** The headers of the request, without those of its body. */
  readonly headers: IncomingHttpHeaders
  /** The URL of the internal route. */
  readonly url: string
}

export interface DispatchResult {
  readonly response: StoredResponse
  /** The error for which the message was refused. `undefined` if a handler has handled the message, or if a hook has responded. */
  readonly error: unknown
  readonly isHandled: boolean
}

// These headers describe the body or the connection of the batch, or the encoding of its response.
const OMITTED_HEADERS = new Set(['content-length', 'content-encoding', 'content-type', 'transfer-encoding', 'accept-encoding', 'expect'])

/**
 * The POST of one message of a batch. It does not come from the network: {@link dispatch} passes it to Fastify's router, so
 * that Fastify handles the message like any other POST.
 */
export class MessageRequest extends IncomingMessage {
  readonly session: Session
  readonly event: string
  /** The id and the logger of the batch's request. */
  readonly id: string
  readonly log: FastifyBaseLogger
  readonly #handle: HandleRequest
  /** Whether a handler has handled the message. */
  #isHandled: Awaitable<boolean> = false
  #error: unknown
  #response: StoredResponse | undefined
  /** Limits the time of the app's hooks, before the handler and after it. */
  #startLimit: () => void = noop
  #removeLimit: () => void = noop

  constructor (origin: MessageOrigin, session: Session, { event, json, id }: BatchMessage, handle: HandleRequest) {
    const { raw, url } = origin
    super(raw.socket)
    this.session = session
    this.event = event
    this.id = origin.id
    this.log = origin.log
    this.#handle = handle
    this.httpVersion = raw.httpVersion
    this.httpVersionMajor = raw.httpVersionMajor
    this.httpVersionMinor = raw.httpVersionMinor
    this.complete = true
    this.method = 'POST'
    this.url = url
    const headers = { ...origin.headers }
    if (id !== undefined) headers[IDEMPOTENCY_KEY] = id
    if (json !== undefined) {
      headers['content-type'] = 'application/json'
      headers['content-length'] = String(json.length)
      this.push(json)
    }
    this.push(null)
    this.headers = headers
  }

  /** Is called by the handler of the internal route. */
  handle (request: FastifyRequest, reply: FastifyReply): void {
    // A hook has continued after the time limit. Other messages of the session may have been handled since.
    if (this.#response !== undefined) {
      sendResponse(reply, this.#response)
      return
    }
    this.#removeLimit()
    const onError = (error: unknown): false => {
      this.#error = error
      this.#startLimit()
      reply.send(asError(error))
      return false
    }
    try {
      const isHandled = andThen(this.#handle(request, reply), () => {
        this.#startLimit()
        return true
      })
      this.#isHandled = isHandled instanceof Promise ? isHandled.catch(onError) : isHandled
    } catch (error) {
      onError(error)
    }
  }

  /** Passes the message to the router. Resolves with FST_SSE_HANDLER_TIMEOUT if the hooks of the app need more than `timeLimit` milliseconds. */
  async dispatch (scope: FastifyInstance, timeLimit: number): Promise<DispatchResult> {
    const response = new ServerResponse(this)
    const socket = new NullSocket() as Writable as Socket
    response.assignSocket(socket)
    // As a server does. `destroy` would also create an error, which nothing receives.
    response.on('finish', () => {
      response.detachSocket(socket)
      response.destroyed = true
      response.emit('close')
    })
    const capture = startCapture(this, response, {})
    this.#startLimit = () => { this.#removeLimit = limitCapture(capture, timeLimit, this.event, this.log) }
    this.#startLimit()
    scope.routing(this, response)
    this.#response = await capture.response
    const isHandled = await this.#isHandled
    this.#removeLimit()
    return { response: this.#response, isHandled, error: this.#error }
  }

  // The method of the superclass would close the connection.
  override _destroy (error: Error | null, done: (error?: Error | null) => void): void { done(error) }
}

/** Discards what a response writes. */
class NullSocket extends Writable {
  override _write (_chunk: unknown, _encoding: unknown, done: () => void): void { done() }
}

/** Returns what the messages of a request have in common. */
export function getMessageOrigin ({ raw, headers, id, log, routeOptions }: FastifyRequest): MessageOrigin {
  const kept = Object.entries(headers).filter(([name]) => !OMITTED_HEADERS.has(name))
  return { raw, id, log, headers: Object.fromEntries(kept), url: getMessageUrl(raw.url, routeOptions.url) }
}

/** Returns the URL of the internal route. It keeps the query and the parameters of the URL of the request. */
function getMessageUrl (url = '', route = ''): string {
  const [path = '', ...query] = url.split(/(?=[?;#])/)
  const base = path.replace(/\/+$/, '')
  // The route of the request may end with an event name.
  const upwardPath = route.endsWith('/:event') ? base.slice(0, base.lastIndexOf('/')) : base
  return upwardPath + BATCH_MESSAGE_PATH + query.join('')
}
