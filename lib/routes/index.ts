import cors, { type FastifyCorsOptions } from '@fastify/cors'
import type { FastifyInstance, FastifySchemaCompiler, RouteHandler, RouteShorthandOptions } from 'fastify'
import { promisify } from 'node:util'
import type { Sessions } from '../sessions.js'
import { EXPOSED_HEADERS } from '../wire/headers.js'
import { closeRoute } from './close.js'
import { downwardRoute } from './downward.js'
import { SESSION } from './identify.js'
import { addBatchParser, upwardRoutes } from './upward.js'

const EXPOSE = 'access-control-expose-headers'

/** The routes, in a scope of their own under the prefix. */
export async function routes (scope: FastifyInstance, { sessions }: { sessions: Sessions }): Promise<void> {
  const all = [downwardRoute(sessions), ...upwardRoutes(sessions, scope.validatorCompiler === undefined), closeRoute(sessions)]
  // Registered twice, it would end the boot; where the app has it, the app's is in force here as well.
  if (sessions.settings.cors !== undefined && !scope.hasRequestDecorator('corsPreflightEnabled')) {
    await addCors(scope, { methods: ['GET', 'POST', 'DELETE'], ...sessions.settings.cors }, all.map(({ url }) => url))
  }
  // Whosever CORS it is, pages of other origins have to be let read our headers.
  scope.addHook('onSend', (request, reply, payload, done) => {
    if (reply.hasHeader('access-control-allow-origin')) {
      const exposed = reply.getHeader(EXPOSE)
      reply.header(EXPOSE, exposed === undefined ? EXPOSED_HEADERS : `${String(exposed)}, ${EXPOSED_HEADERS}`)
    }
    if ((reply.statusCode === 429 || reply.statusCode === 503) && !reply.hasHeader('retry-after')) reply.header('retry-after', '1')
    // A connection kept alive would keep the server, which waits for it, from closing.
    if (sessions.closing && request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
    done(null, payload)
  })
  // Text is no JSON: it is 415 here, whatever the app takes elsewhere.
  scope.removeContentTypeParser('text/plain')
  // The app's own would end the boot, or take our batches for something else.
  scope.removeContentTypeParser('application/x-ndjson')
  // A schema for the body is for one message; the lines of a batch would pass by it.
  if (sessions.settings.routes.upward.schema?.body === undefined) addBatchParser(scope, sessions.settings.maxWaitingMessages)
  scope.decorateRequest(SESSION, null)
  for (const route of all) scope.route(route)
  scope.addHook('onReady', async () => {
    // Fastify has set it up for the schemas of our routes, if the app had not.
    const validatorCompiler = scope.validatorCompiler as FastifySchemaCompiler<unknown>
    sessions.dispatcher.compileWith((schema, event) => validatorCompiler({ schema, method: 'POST', url: event, httpPart: 'body' }))
  })
}

/**
 * Sets @fastify/cors up for a scope with its preflight route, a wildcard, on the scope's own URLs alone: it would let
 * pages of other origins call other routes of the app's, and clash with the one that the app may register.
 */
async function addCors (scope: FastifyInstance, options: FastifyCorsOptions, urls: readonly string[]): Promise<void> {
  const preflights = (_wildcard: string, preflight: RouteShorthandOptions, handler: RouteHandler): void => {
    for (const url of new Set(urls)) scope.options(url, preflight, handler)
  }
  const narrowed = Object.create(scope, { options: { value: preflights } }) as FastifyInstance
  await promisify(cors)(narrowed, options)
}
