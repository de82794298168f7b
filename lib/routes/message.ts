import { randomUUID } from 'node:crypto'
import { ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { finished, Writable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { FastifyBaseLogger, FastifyReply, FastifyRequest, onSendHookHandler } from 'fastify'
import { andThen, cleanUpAfterError, isPending, noop, type Awaitable } from '../awaitable.js'
import { asError, Closing, HandlerTimeout, SessionUnknown, StoreUnavailable } from '../errors.js'
import { logSafely } from '../safe-log.js'
import type { Message } from '../sessions/hooks.js'
import { kInternals, type Session } from '../sessions/session.js'
import { kSlot, type Sessions } from '../sessions/sessions.js'
import { isItems, JSON_TYPE, UpwardReply } from '../sessions/upward-reply.js'
import type { QueueResult, StoredResponse } from '../store/message-queue.js'
import type { RunOutcome } from '../store/run-state.js'
import { isResponse } from '../stream/response-sink.js'
import { formatResult } from './message-result.js'

/** Milliseconds from the close of a session to the rejection of the messages that still wait. */
const CLOSE_GRACE = 1000

/** Milliseconds from the loss of a connection within which an error handler must respond. After that, a 500 is kept for repeats. */
const LOST_CONNECTION_GRACE = 30_000

type Headers = Readonly<Record<string, unknown>>

/** A response that Fastify, a hook or an error handler sends, captured so that it can be stored. */
export interface Capture {
  /** The headers that were set before the capture started. They are not part of the response. */
  readonly earlierHeaders: Headers
  readonly response: Promise<StoredResponse>
  readonly resolve: (response: StoredResponse) => void
}

const captures = new WeakMap<ServerResponse, Capture>()

/** The `onSend` hook that captures the response for {@link startCapture}. It must be the last one of its route. */
export const captureResponse: onSendHookHandler<unknown> = (_request, reply, payload, done) => {
  const capture = captures.get(reply.raw)
  if (capture === undefined) {
    done(null, payload)
    return
  }
  const finish = (body: StoredResponse['body']): void => {
    capture.resolve({ status: reply.statusCode, headers: getAddedHeaders(reply, capture.earlierHeaders), body })
    done(null, body)
  }
  // An error handler or a hook of the app may have sent a stream or a Response.
  const body = isResponse(payload) ? readResponse(payload, reply) : payload
  if (isBody(body)) finish(body)
  else buffer(body as AsyncIterable<unknown>).then(finish, done)
}

/** Sets the status and the headers of a Response, as Fastify does after all hooks, and returns its body. */
function readResponse (response: Response, reply: FastifyReply): unknown {
  reply.code(response.status)
  response.headers.forEach((value, name) => { reply.header(name, value) })
  return response.body ?? undefined
}

// These headers belong to one request, to its connection or to its body.
const FIRST_RESPONSE_HEADERS = new Set(['set-cookie', 'connection', 'content-length'])

/** Returns the headers that a repeat gets as well: those that were added, except those of the first response only. */
function getAddedHeaders (reply: FastifyReply, earlier: Headers): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== earlier[name] && !FIRST_RESPONSE_HEADERS.has(name)) headers[name] = String(value)
  }
  return headers
}

function isBody (payload: unknown): payload is StoredResponse['body'] {
  return payload === undefined || typeof payload === 'string' || payload instanceof Uint8Array
}

/** Captures a response: its status, its body, and the headers that are not in `earlierHeaders`. */
export function startCapture (response: ServerResponse, earlierHeaders: Headers): Capture {
  const current = captures.get(response)
  if (current !== undefined) return current
  let resolve: Capture['resolve'] = noop
  const promise = new Promise<StoredResponse>(_resolve => { resolve = _resolve })
  const capture: Capture = { earlierHeaders, response: promise, resolve }
  captures.set(response, capture)
  // If an `onSend` hook of the app fails, Fastify sends a response without the hooks after it.
  finished(response, error => {
    // If the connection was lost, the error handler and the hooks of the app still produce a response, which is kept for repeats. If they
    // produce none in time, a 500 is kept: `response.statusCode` is still 200, although the message has failed.
    if (error) setTimeout(resolve, LOST_CONNECTION_GRACE, { status: 500, headers: {}, body: undefined }).unref()
    else resolve({ status: response.statusCode, headers: {}, body: undefined })
  })
  return capture
}

/** Creates a response without a connection. What is written to it is dropped. */
export function createInternalResponse (request: IncomingMessage): ServerResponse {
  const response = new ServerResponse(request)
  response.assignSocket(new Writable({ write: (_chunk, _encoding, done) => { done() } }) as Socket)
  // Node's HTTP server also destroys a response when it has finished. Otherwise, this response would not emit `close`.
  response.on('finish', () => { response.destroy() })
  return response
}

/**
 * Makes FST_SSE_HANDLER_TIMEOUT the captured response if the hooks, the JSON parser or the error handler of the app have not sent
 * one after `timeout` milliseconds; 0 turns the timeout off. Returns a function that cancels it.
 */
export function respondAfterTimeout (capture: Capture, timeout: number, event: string, log: FastifyBaseLogger): () => void {
  if (timeout === 0) return noop
  const timer = setTimeout(() => {
    const error = new HandlerTimeout('A hook or the error handler', JSON.stringify(event), timeout)
    logSafely(log, 'error', { err: error }, error.message)
    const body = JSON.stringify({ statusCode: 504, code: error.code, error: 'Gateway Timeout', message: error.message })
    capture.resolve({ status: 504, headers: { 'content-type': JSON_TYPE }, body })
  }, timeout).unref()
  return () => { clearTimeout(timer) }
}

/** Sends an error with the hooks and the error handler of the app. Resolves with the response. `timeout` is as for {@link respondAfterTimeout}. */
async function sendError (error: Error, reply: FastifyReply, timeout: number, event: string): Promise<StoredResponse> {
  const capture = startCapture(reply.raw, reply.getHeaders())
  const cancelTimeout = respondAfterTimeout(capture, timeout, event, reply.log)
  reply.send(error)
  const response = await capture.response
  cancelTimeout()
  return response
}

interface ReplyConstructor {
  new (response: ServerResponse, request: FastifyRequest, log: FastifyBaseLogger): FastifyReply
  /** The decorators that are not functions. Fastify does not document this property. */
  readonly props?: ReadonlyArray<{ readonly key: string | symbol }>
}

/** Creates a second reply to a request, for what happens to its message after the response to its client. */
function createSecondReply (first: FastifyReply, status = 200): FastifyReply {
  const { request, log } = first
  // Not with Fastify's router, which responds with 503 when the server closes. Checked with Fastify 5.12.8.
  const Reply = first.constructor as ReplyConstructor
  const second = new Reply(createInternalResponse(request.raw), request, log).code(status)
  // The hooks and the error handler of the app use decorators that its hooks before the handler have set. The slot belongs to the first reply.
  for (const { key } of new Set(Reply.props)) if (key !== kSlot) Reflect.set(second, key, Reflect.get(first, key))
  return second
}

/** Returns the timeout for the messages with an event name, in milliseconds: that of their handler, otherwise that of the plugin; 0 if there is none. */
export function getHandlerTimeout (sessions: Sessions, event: string): number {
  return sessions.handlers.getTimeout(event) ?? sessions.settings.handlerTimeout
}

/**
 * Handles a message and sends the response, as Fastify does for a route. Returns the response to keep for repeats. Throws or
 * rejects without a response if the message is refused. `assertMayStart` throws if the handler must not start any more.
 */
export function handleMessage (sessions: Sessions, session: Session, message: Message, reply: FastifyReply, assertMayStart: () => void = noop): Awaitable<StoredResponse> {
  // The session may have been closed while the message waited.
  if (session.closed) throw createClosedError(sessions)
  const { event } = message
  const timeout = getHandlerTimeout(sessions, event)
  let openReply = reply
  // If the server closes while the handler runs, the client gets a 503 from `reply`. Repeats get the result of the handler, from another reply.
  const getOpenReply = (): FastifyReply => {
    if (openReply === reply && !sessions.isTracked(reply) && !captures.has(reply.raw)) openReply = createSecondReply(reply, upwardReply.statusCode)
    return openReply
  }
  const upwardReply = new UpwardReply(getOpenReply)
  const withTimeout = <T>(what: string, result: Awaitable<T>): Awaitable<T> => rejectAfterTimeout(result, timeout, what, event, upwardReply, reply.log)
  return andThen(withTimeout('The validator', sessions.handlers.prepare(session, message, reply.request, assertMayStart)), run => {
    // Until the delivery has started, an error refuses the message.
    let isStartingDelivery = false
    const onError = async (thrown: unknown): Promise<StoredResponse> => {
      const error = asError(thrown)
      // The client repeats the message after these errors, so the response must not be kept.
      if (isStartingDelivery || error instanceof StoreUnavailable || error instanceof Closing) throw error
      const { status, headers, body } = await sendError(error, getOpenReply(), timeout, event)
      return { status, headers: { ...upwardReply.headers, ...headers }, body }
    }
    try {
      assertMayStart()
      const response = andThen(withTimeout(sessions.hooks.has('preHandle') ? 'A preHandle hook or the handler' : 'The handler', run(upwardReply)), returned => {
        if (!isItems(returned)) return sendResponse(getOpenReply(), upwardReply.toResponse(event, returned))
        const id = message.id ?? randomUUID()
        isStartingDelivery = true
        return andThen(deliverValues(sessions, session, id, returned, upwardReply, reply.log, error => sendError(error, createSecondReply(reply), timeout, event)), () => {
          isStartingDelivery = false
          return sendResponse(getOpenReply(), upwardReply.code(202).send({ status: 'streaming', message: id }).toResponse(event, undefined))
        })
      })
      return response instanceof Promise ? response.catch(onError) : response
    } catch (error) {
      return onError(error)
    }
  })
}

/** Sends the values of a handler as parts. Resolves when the delivery has started. */
function deliverValues (sessions: Sessions, session: Session, id: string, values: AsyncIterable<unknown>, reply: UpwardReply, log: FastifyBaseLogger, getErrorResponse: (error: Error) => Promise<StoredResponse>): Awaitable<unknown> {
  const read = (signal: AbortSignal): AsyncIterable<unknown> => {
    signal.addEventListener('abort', () => { reply.abort(signal.reason as Error) })
    return values
  }
  const onError = async (thrown: unknown, isSessionOver: boolean): Promise<RunOutcome> => {
    // If another process closes the session, the store may reject a part before `closed` is true here.
    if (session.closed || isSessionOver) return { status: 'stopped' }
    const error = asError(thrown)
    logSafely(log, 'error', { err: error, session: session.shortId }, 'an async iterable that a handler has returned failed')
    return { status: 'failed', response: JSON.parse(formatResult({ response: await getErrorResponse(error) })) as object }
  }
  return cleanUpAfterError(() => sessions.runs.deliveries.deliverValues(session[kInternals], id, read, onError), error => {
    reply.abort(error as Error)
    discardItems(values, log)
  })
}

/** Calls `return` of items that nobody reads, so that their iterator releases what it has opened. Never rejects. */
async function discardItems (items: AsyncIterable<unknown>, log: FastifyBaseLogger): Promise<void> {
  try {
    await items[Symbol.asyncIterator]().return?.()
  } catch (error) {
    logSafely(log, 'warn', { err: error }, 'an async iterable that a handler has returned could not be closed')
  }
}

/** Waits for a handler or a validator. Rejects with FST_SSE_HANDLER_TIMEOUT if it has not settled after `timeout` milliseconds; 0 turns the timeout off. */
function rejectAfterTimeout<T> (result: Awaitable<T>, timeout: number, what: string, event: string, reply: UpwardReply, log: FastifyBaseLogger): Awaitable<T> {
  if (!isPending(result) || timeout === 0) return result
  return new Promise((resolve, reject) => {
    let isLate = false
    const timer = setTimeout(() => {
      isLate = true
      const error = new HandlerTimeout(what, JSON.stringify(event), timeout)
      reply.abort(error)
      reject(error)
    }, timeout).unref()
    result.then(value => {
      clearTimeout(timer)
      if (isLate && isItems(value)) discardItems(value, log)
      resolve(value)
    }, (error: unknown) => {
      clearTimeout(timer)
      if (isLate) logSafely(log, 'warn', { err: error }, `${what} failed after its time limit`)
      else reject(error)
    })
  })
}

/** Creates the error of a message whose session is closed. */
function createClosedError (sessions: Sessions): Error {
  return sessions.closing ? new Closing() : new SessionUnknown()
}

/**
 * Waits for the result of a message in the queue. If the session is closed while the message waits, and the handler before it
 * does not settle soon after that, rejects with FST_SSE_SESSION_UNKNOWN or FST_SSE_CLOSING.
 */
export function waitForResult (sessions: Sessions, session: Session, result: Promise<QueueResult>, isStarted: () => boolean): Promise<QueueResult> {
  const { closeListeners } = session[kInternals]
  return new Promise((resolve, reject) => {
    const onClose = (): void => {
      setTimeout(() => { if (!isStarted()) reject(createClosedError(sessions)) }, CLOSE_GRACE).unref()
    }
    const slot = closeListeners.add(onClose)
    result.then(resolve, reject)
    const stopListening = (): void => { closeListeners.remove(slot) }
    result.then(stopListening, stopListening)
  })
}

/** Sends a response, the first time or to a repeat, and returns it. */
export function sendResponse (reply: FastifyReply, response: StoredResponse): StoredResponse {
  reply.code(response.status).headers(response.headers).send(response.body)
  return response
}
