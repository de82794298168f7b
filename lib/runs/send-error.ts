import type { FastifyReply } from 'fastify'
import { asError } from '../errors.js'

/** Responds with an error. A temporary one gets `Retry-After`, as in the routes of the plugin. */
export function sendError (reply: FastifyReply, thrown: unknown): void {
  const error = asError(thrown) as Error & { statusCode?: number }
  // [RFC 9110 10.2.3]
  if (error.statusCode === 503) reply.header('retry-after', '1')
  reply.send(error)
}
