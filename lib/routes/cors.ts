import cors, { type FastifyCorsOptions } from '@fastify/cors'
import type { FastifyInstance, RouteHandler, RouteShorthandOptions } from 'fastify'
import { promisify } from 'node:util'

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
