import type { IncomingMessage, ServerResponse } from 'node:http'
import { finished } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { FastifyBaseLogger, FastifyReply, onSendHookHandler } from 'fastify'
import { andThen, isPromise, noop, type Awaitable } from '../awaitable.js'
import { asError, Closing, HandlerTimeout, SessionUnknown, StoreUnavailable } from '../errors.js'
import type { Message } from '../sessions/hooks.js'
import type { Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { UpwardReply } from '../sessions/upward-reply.js'
import type { QueueResult, StoredResponse } from '../store/message-queue.js'

/** Milliseconds for which messages that wait still get the response of the queue after their session was closed. */
const CLOSE_GRACE = 1000

type Headers = Readonly<Record<string, unknown>>

interface Capture {
  readonly before: Headers
  readonly response: Promise<StoredResponse>
  readonly resolve: (response: StoredResponse) => void
}

const captures = new WeakMap<IncomingMessage, Capture>()

/** The `onSend` hook that captures the response to a request for {@link waitForResponse}. It must be the last one of its route. */
export const captureResponse: onSendHookHandler<unknown> = (request, reply, payload, done) => {
  const capture = captures.get(request.raw)
  if (capture === undefined) {
    done(null, payload)
    return
  }
  const finish = (body: StoredResponse['body']): void => {
    capture.resolve({ status: reply.statusCode, headers: addedHeaders(reply, capture.before), body })
    done(null, body)
  }
  if (isBody(payload)) finish(payload)
  // An error handler or a hook of the app has made a stream.
  else buffer(payload as AsyncIterable<unknown>).then(finish, done)
}

/** Returns the headers that a repeat gets as well. Cookies are of one request only. */
function addedHeaders (reply: FastifyReply, before: Headers): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== before[name] && name !== 'set-cookie' && name !== 'content-length') headers[name] = String(value)
  }
  return headers
}

function isBody (payload: unknown): payload is StoredResponse['body'] {
  return payload === undefined || typeof payload === 'string' || payload instanceof Uint8Array
}

/** Resolves with the response to a request, which other code sends: its status, its body, and the headers that are not in `before`. */
export function waitForResponse (request: IncomingMessage, response: ServerResponse, before: Headers): Promise<StoredResponse> {
  const earlier = captures.get(request)
  if (earlier !== undefined) return earlier.response
  let resolve: Capture['resolve'] = noop
  const promise = new Promise<StoredResponse>(_resolve => { resolve = _resolve })
  captures.set(request, { before, response: promise, resolve })
  // If an `onSend` hook of the app fails, Fastify sends a response without the hooks after it.
  finished(response, () => { resolve({ status: response.statusCode, headers: {}, body: undefined }) })
  return promise
}

/**
 * Handles a message and sends the response, as Fastify does for a route. Returns the response to keep for repeats. Throws or
 * rejects without a response if the message is refused.
 */
export function handleMessage (sessions: Sessions, session: Session, message: Message, reply: FastifyReply): Awaitable<StoredResponse> {
  // The session may have been closed while the message waited.
  if (session.closed) throw closedError(sessions)
  return andThen(sessions.handlers.prepare(session, message, reply.request), run => {
    const upwardReply = new UpwardReply(reply)
    const onError = async (thrown: unknown): Promise<StoredResponse> => {
      const error = asError(thrown)
      // The client repeats the message after this error, so the response must not be kept.
      if (error instanceof StoreUnavailable) throw error
      const captured = waitForResponse(reply.request.raw, reply.raw, reply.getHeaders())
      reply.send(error)
      const { status, headers, body } = await captured
      return { status, headers: { ...upwardReply.headers, ...headers }, body }
    }
    try {
      const timeout = sessions.handlers.timeoutOf(message.event) ?? sessions.settings.handlerTimeout
      const result = limitTime(run(upwardReply), timeout, message.event, upwardReply, reply.log)
      const response = andThen(result, returned => sendResponse(reply, upwardReply.toResponse(message.event, returned)))
      return response instanceof Promise ? response.catch(onError) : response
    } catch (error) {
      return onError(error)
    }
  })
}

/** Limits the time of a handler: rejects with FST_SSE_HANDLER_TIMEOUT if the handler has not settled after `ms` milliseconds. */
function limitTime (result: unknown, ms: number, event: string, reply: UpwardReply, log: FastifyBaseLogger): unknown {
  if (!isPromise(result) || ms === 0) return result
  return new Promise((resolve, reject) => {
    let isLate = false
    const timer = setTimeout(() => {
      isLate = true
      const error = new HandlerTimeout(JSON.stringify(event), ms)
      reply.abort(error)
      reject(error)
    }, ms).unref()
    result.then(value => {
      clearTimeout(timer)
      resolve(value)
    }, (error: unknown) => {
      clearTimeout(timer)
      if (isLate) log.warn({ err: error }, 'a handler failed after its time limit')
      else reject(error)
    })
  })
}

function closedError (sessions: Sessions): Error {
  return sessions.closing ? new Closing() : new SessionUnknown()
}

/**
 * Waits for the result of a message in the queue. If the session is closed while the message waits, and the handler before it
 * does not settle soon after that, rejects with FST_SSE_SESSION_UNKNOWN or FST_SSE_CLOSING.
 */
export function waitForResult (sessions: Sessions, session: Session, result: Promise<QueueResult>, isStarted: () => boolean): Promise<QueueResult> {
  const { signal } = session
  return new Promise((resolve, reject) => {
    const onClose = (): void => {
      setTimeout(() => { if (!isStarted()) reject(closedError(sessions)) }, CLOSE_GRACE).unref()
    }
    signal.addEventListener('abort', onClose)
    result.then(resolve, reject).finally(() => { signal.removeEventListener('abort', onClose) })
  })
}

/** Sends a response, the first time or to a repeat, and returns it. */
export function sendResponse (reply: FastifyReply, response: StoredResponse): StoredResponse {
  reply.code(response.status).headers(response.headers).send(response.body)
  return response
}
