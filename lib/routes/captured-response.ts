import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { finished } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { FastifyBaseLogger, FastifyReply, onSendHookHandler } from 'fastify'
import { noop } from '../awaitable.js'
import { HandlerTimeout } from '../errors.js'
import { logSafely } from '../safe-log.js'
import { JSON_TYPE } from '../sessions/upward-reply.js'
import type { StoredResponse } from '../store/message-queue.js'
import { isResponse } from '../stream/response-sink.js'

/** Milliseconds from the loss of a connection within which an error handler must respond. After that, a 500 is kept for repeats. */
const LOST_CONNECTION_GRACE = 30_000

type Headers = Readonly<Record<string, unknown>>

/** A response that Fastify, a hook or an error handler sends, captured so that it can be stored. */
export interface Capture {
  /** Headers that are not stored, unless their values change. */
  readonly earlierHeaders: Headers
  readonly response: Promise<StoredResponse>
  readonly resolve: (response: StoredResponse) => void
}

const captures = new WeakMap<ServerResponse, Capture>()

/** The `onSend` hook that captures the response for {@link startCapture}. It must run after those of the app. */
export const captureResponse: onSendHookHandler<unknown> = (_request, reply, payload, done) => {
  const capture = captures.get(reply.raw)
  if (capture === undefined) {
    done(null, payload)
    return
  }
  const finish = (body: StoredResponse['body']): void => {
    // While a hook or the error handler of the app was running, `sendError` has sent the 504. Fastify would throw.
    if (reply.raw.headersSent) return
    capture.resolve({ status: reply.statusCode, headers: getAddedHeaders(reply, capture.earlierHeaders), body })
    done(null, body)
  }
  // An error handler or a hook of the app may have sent a stream or a Response, or `null` for no body.
  const body = (isResponse(payload) ? readResponse(payload, reply) : payload) ?? undefined
  if (isBody(body)) finish(body)
  else buffer(body as AsyncIterable<unknown>).then(finish, done)
}

/** Sets the status and the headers of a Response, as Fastify does after all hooks, and returns its body. */
function readResponse (response: Response, reply: FastifyReply): unknown {
  reply.code(response.status)
  response.headers.forEach((value, name) => { reply.header(name, value) })
  return response.body
}

// These headers belong to one request, to its connection or to its body.
const NOT_REPEATED_HEADERS = new Set(['set-cookie', 'connection', 'content-length'])

/** Returns the headers that were added or changed, except those in NOT_REPEATED_HEADERS. */
function getAddedHeaders (reply: FastifyReply, earlier: Headers): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== earlier[name] && !NOT_REPEATED_HEADERS.has(name)) headers[name] = String(value)
  }
  return headers
}

function isBody (payload: unknown): payload is StoredResponse['body'] {
  return payload === undefined || typeof payload === 'string' || payload instanceof Uint8Array
}

/** Starts to capture a response: its status, its body, and the headers that were added or changed since `earlierHeaders`. Returns the capture if there is one already. */
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
    // produce none in time, a 500 is kept: `response.statusCode` is still 200, although the message has failed. Over HTTP/2, a lost connection is no error, so `writableEnded` is checked, too.
    if (error || !response.writableEnded) setTimeout(resolve, LOST_CONNECTION_GRACE, { status: 500, headers: {}, body: undefined }).unref()
    else resolve({ status: response.statusCode, headers: {}, body: undefined })
  })
  return capture
}

/** Stops capturing the response of a reply. */
export function stopCapture (reply: FastifyReply): void {
  captures.delete(reply.raw)
}

/** Whether the response of a reply is captured. */
export function isCaptured (reply: FastifyReply): boolean {
  return captures.has(reply.raw)
}

/**
 * Resolves a capture with a 504 FST_SSE_HANDLER_TIMEOUT, but sends nothing, if the hooks, the JSON parser or the error handler of the app
 * have not sent a response after `timeout` milliseconds; 0 turns the timeout off. Returns a function that cancels it.
 */
export function resolveAfterTimeout (capture: Capture, timeout: number, event: string, log: FastifyBaseLogger): () => void {
  if (timeout === 0) return noop
  const timer = setTimeout(() => {
    const error = new HandlerTimeout('A hook or the error handler', JSON.stringify(event), timeout)
    logSafely(log, 'error', { err: error }, error.message)
    const body = JSON.stringify({ statusCode: 504, code: error.code, error: 'Gateway Timeout', message: error.message })
    capture.resolve({ status: 504, headers: { 'content-type': JSON_TYPE }, body })
  }, timeout).unref()
  return () => { clearTimeout(timer) }
}

/** Sends an error with the hooks and the error handler of the app, or the 504 if they have not sent a response in time. Resolves with the response. `timeout` is as for {@link resolveAfterTimeout}. */
export async function sendError (error: Error, reply: FastifyReply, timeout: number, event: string): Promise<StoredResponse> {
  const capture = startCapture(reply.raw, reply.getHeaders())
  const cancelTimeout = resolveAfterTimeout(capture, timeout, event, reply.log)
  reply.send(error)
  const response = await capture.response
  cancelTimeout()
  // `reply.send` would run the same hooks again, and throw while an `onError` hook runs.
  if (!reply.sent && !reply.raw.headersSent) reply.raw.writeHead(response.status, { ...reply.getHeaders(), ...response.headers } as OutgoingHttpHeaders).end(response.body)
  return response
}
