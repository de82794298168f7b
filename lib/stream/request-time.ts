import type { FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import { now } from '../clock.js'

const kArrivedAt = Symbol('fastify-sse-sessions arrival')

interface TimedRequest {
  [kArrivedAt]?: number
}

/** Records when a request arrived. Must be called before Fastify handles it. */
export function recordArrival (raw: IncomingMessage & TimedRequest): void {
  raw[kArrivedAt] = now()
}

/** Returns when a request arrived, before all hooks of the app, in milliseconds of `now()`. A request of `inject` arrives now. */
export function getArrivalTime ({ raw }: { readonly raw: FastifyRequest['raw'] & TimedRequest }): number {
  return raw[kArrivedAt] ?? now()
}

/** Whether Fastify's `handlerTimeout` has passed while hooks of the app ran. Until its error is sent, Fastify calls the handler nevertheless. */
export function hasTimedOut (request: FastifyRequest): boolean {
  const { handlerTimeout = 0 } = request.routeOptions
  // Node also aborts this signal when it has read a request.
  return handlerTimeout > 0 && (request.signal.reason as { code?: unknown } | undefined)?.code === 'FST_ERR_HANDLER_TIMEOUT'
}
