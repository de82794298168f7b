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
