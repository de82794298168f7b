import type { FastifyReply } from 'fastify'
import { asError } from '../errors.js'
import { logSafely } from '../safe-log.js'

/** Responds with an error. A temporary one gets `Retry-After`, as in the routes of the plugin. Does not throw. */
export function sendError (reply: FastifyReply, thrown: unknown): void {
  const error = asError(thrown) as Error & { statusCode?: number }
  // [RFC 9110 10.2.3]
  if (error.statusCode === 503) reply.header('retry-after', '1')
  try {
    reply.send(error)
  } catch {
    // While `onError` hooks of the app run for an error that was sent, for example by Fastify's `handlerTimeout`, `send` throws.
    logSafely(reply.log, 'error', { err: error }, 'a request for a run failed after another response was sent')
  }
}
