import type { FastifyReply } from 'fastify'
import { asError } from '../errors.js'
import { logSafely } from '../safe-log.js'
import { ResponseSink, StreamPayload } from '../stream/response-sink.js'
import { STREAM_HEADERS } from '../wire/headers.js'

/** Responds with an error. A temporary one gets `Retry-After`, as in the routes of the plugin; to an EventSource, a stream is aborted instead. Does not throw. */
export function sendError (reply: FastifyReply, thrown: unknown): void {
  const error = asError(thrown) as Error & { statusCode?: number }
  const isTemporary = error.statusCode === 503
  try {
    if (isTemporary && isEventSource(reply)) {
      logSafely(reply.log, 'info', { err: error }, 'a run cannot be followed at the moment')
      abortStream(reply)
      return
    }
    // [RFC 9110 10.2.3]
    if (isTemporary) reply.header('retry-after', '1')
    reply.send(error)
  } catch {
    // While `onError` hooks of the app run for an error that was sent, for example by Fastify's `handlerTimeout`, `send` throws.
    logSafely(reply.log, 'error', { err: error }, 'a request for a run failed after another response was sent')
  }
}

/** Whether an EventSource has sent the request, or a client that works like one. */
function isEventSource ({ request: { method, headers: { accept = '' } } }: FastifyReply): boolean {
  return method === 'GET' && accept.includes('text/event-stream')
}

/** Starts a stream and aborts it. An EventSource then reconnects, which it would not do after an error status, and no client takes the response for all of a run. */
function abortStream (reply: FastifyReply): void {
  const sink = new ResponseSink(reply.raw)
  new StreamPayload(sink, () => {
    sink.write(':\n\n')
    sink.destroy(true)
  }).sendPiped(reply.headers(STREAM_HEADERS))
}
