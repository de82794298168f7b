import cors, { type FastifyCorsOptions } from '@fastify/cors'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteHandler, RouteShorthandOptions } from 'fastify'
import { promisify } from 'node:util'
import { ALLOW_ORIGIN } from '../wire/headers.js'
import { getHeader } from './require-session.js'

/**
 * Registers @fastify/cors in a scope, with preflight routes only for the given URLs. The preflight route of @fastify/cors is
 * a wildcard, which would allow other origins to call all routes of the app, and would conflict with a wildcard of the app.
 */
export async function addCors (scope: FastifyInstance, options: FastifyCorsOptions, urls: readonly string[]): Promise<void> {
  const addPreflightRoutes = (_wildcard: string, preflight: RouteShorthandOptions, handler: RouteHandler): void => {
    for (const url of new Set(urls)) scope.options(url, preflight, handler)
  }
  const scopeWithoutWildcard = Object.create(scope, { options: { value: addPreflightRoutes } }) as FastifyInstance
  await promisify(cors)(scopeWithoutWildcard, options)
}

/**
 * Whether a request comes from a page of another site that CORS does not allow. The page could not read the response, but
 * without this check it could open sessions with the cookies of the user, up to the limit for the user.
 */
export function isForbiddenSite (request: FastifyRequest, reply: FastifyReply): boolean {
  if (getHeader(request, 'sec-fetch-site') !== 'cross-site') return false
  // This header was set by the option of the plugin, by a registration of @fastify/cors by the app, or by a hook of the app.
  const allowed = reply.getHeader(ALLOW_ORIGIN)
  return allowed === undefined || (allowed !== '*' && allowed !== getHeader(request, 'origin'))
}
