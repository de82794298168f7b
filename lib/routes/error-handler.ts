import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { STATUS_CODES } from 'node:http'
import { noop } from '../awaitable.js'
import { JSON_TYPE } from '../sessions/upward-reply.js'

type ErrorHandler = (error: FastifyError, request: FastifyRequest, reply: FastifyReply) => unknown

/**
 * Creates the error handler of the routes of the plugin. It calls the error handler of the app, even one that the app sets after the
 * routes were added. If the app has none, clients do not receive the message of an unexpected error, which may contain secrets.
 */
export function createErrorHandler (app: FastifyInstance): ErrorHandler {
  // The error handler of the app when the routes are added. Fastify calls it if the error handler of a route throws.
  const initialHandler = app.errorHandler
  return (error, request, reply) => {
    const { errorHandler } = app
    if (errorHandler !== initialHandler) return errorHandler(error, request, reply)
    if (!isDefault(errorHandler) || !isUnexpected(error, reply)) throw error
    // This call sets the headers and the status and logs the error, as the app has configured it, but sends nothing. Checked with Fastify 5.12.8.
    errorHandler(error, request, Object.create(reply, { send: { value: noop } }) as FastifyReply)
    const { statusCode } = reply
    const { code } = error
    reply.type(JSON_TYPE).send(JSON.stringify({ statusCode, code, error: STATUS_CODES[statusCode], message: 'An unexpected error has occurred; the log of the server contains it' }))
    return undefined
  }
}

/** Whether an error handler is that of Fastify. Those of apps are bound functions, which have other names. */
const isDefault = ({ name }: ErrorHandler): boolean => name === 'defaultErrorHandler'

/** Whether neither an error nor the code that has thrown it has chosen the status. */
function isUnexpected (error: FastifyError & { readonly status?: unknown }, reply: FastifyReply): boolean {
  const isStatus = (status: unknown, max: number): boolean => Number(status) >= 400 && Number(status) <= max
  return !(isStatus(error.statusCode, 599) || isStatus(error.status, 599) || isStatus(reply.statusCode, 499))
}
