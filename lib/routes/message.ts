import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger, FastifyReply } from 'fastify'
import { andThen, cleanUpAfterError, isPending, noop, type Awaitable } from '../awaitable.js'
import { asError, Closing, HandlerTimeout, SessionUnknown, StoreUnavailable } from '../errors.js'
import { logSafely } from '../safe-log.js'
import type { Message } from '../sessions/hooks.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { isAsyncValues, UpwardReply } from '../sessions/upward-reply.js'
import type { QueueResult, StoredResponse } from '../store/message-queue.js'
import type { RunOutcome } from '../store/run-state.js'
import { discardItems } from '../stream/pump.js'
import { sendError, stopCapture } from './captured-response.js'
import { formatResult } from './message-result.js'
import { createSecondReply } from './second-reply.js'

/** Milliseconds from the close of a session to the rejection of the messages that still wait. */
const CLOSE_GRACE = 1000

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
  let usableReply = reply
  // If the server closes, or Fastify's `handlerTimeout` passes, while the handler runs, an error is sent through `reply`. The result of the
  // handler then needs a second reply, without a connection, and is stored for repeats.
  const getUsableReply = (): FastifyReply => {
    if (usableReply === reply && !sessions.canSend(reply)) usableReply = createSecondReply(reply, upwardReply.statusCode)
    return usableReply
  }
  /** Returns the reply with which the result is sent. If that is the second one, the response of the first one is not captured as the result. */
  const getReplyForResult = (): FastifyReply => {
    if (getUsableReply() !== reply) stopCapture(reply)
    return usableReply
  }
  const upwardReply = new UpwardReply(getUsableReply)
  const withTimeout = <T>(what: string, result: Awaitable<T>): Awaitable<T> => rejectAfterTimeout(result, timeout, what, event, upwardReply, reply.log)
  return andThen(withTimeout('The validator', sessions.handlers.prepare(session, message, reply.request, assertMayStart)), callHandler => {
    // While a delivery is starting, an error refuses the message. An error of the handler is stored.
    let isStartingDelivery = false
    const onError = async (thrown: unknown): Promise<StoredResponse> => {
      const error = asError(thrown)
      // These errors refuse the message: no response is stored, and a repeat is a new attempt.
      if (isStartingDelivery || error instanceof StoreUnavailable || error instanceof Closing) throw error
      const { status, headers, body } = await sendError(error, getReplyForResult(), timeout, event)
      return { status, headers: { ...upwardReply.headers, ...headers }, body }
    }
    try {
      assertMayStart()
      const response = andThen(withTimeout(sessions.hooks.has('preHandle') ? 'A preHandle hook or the handler' : 'The handler', callHandler(upwardReply)), returned => {
        if (!isAsyncValues(returned)) return sendResponse(getReplyForResult(), upwardReply.toResponse(event, returned))
        const id = message.id ?? randomUUID()
        isStartingDelivery = true
        return andThen(deliverValues(sessions, session, id, returned, upwardReply, reply.log, error => sendError(error, createSecondReply(reply), timeout, event)), () => {
          isStartingDelivery = false
          return sendResponse(getReplyForResult(), upwardReply.code(202).send({ status: 'streaming', message: id }).toResponse(event, undefined))
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
      if (isLate && isAsyncValues(value)) discardItems(value, log)
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
