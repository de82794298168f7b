import type { FastifyInstance, FastifySchemaCompiler } from 'fastify'
import type { Sessions } from '../sessions/sessions.js'
import { EXPOSED_HEADERS } from '../wire/headers.js'
import { addBatchParser } from './batch.js'
import { closeRoute } from './close.js'
import { addCors } from './cors.js'
import { downwardRoute } from './downward.js'
import { kSession } from './require-session.js'
import { upwardRoutes } from './upward.js'

const EXPOSE_HEADERS = 'access-control-expose-headers'

/** Adds the routes of one registration to a scope of their own. */
export async function routes (scope: FastifyInstance, { sessions }: { sessions: Sessions }): Promise<void> {
  const routeOptions = [downwardRoute(sessions), ...upwardRoutes(sessions, scope.validatorCompiler === undefined), closeRoute(sessions)]
  // If the app has registered @fastify/cors, that applies here too, and a second registration would fail the boot.
  if (sessions.settings.cors !== undefined && !scope.hasRequestDecorator('corsPreflightEnabled')) {
    await addCors(scope, { methods: ['GET', 'POST', 'DELETE'], ...sessions.settings.cors }, routeOptions.map(({ url }) => url))
  }
  scope.addHook('onSend', (request, reply, payload, done) => {
    // Also with the CORS set-up of the app, pages of other origins must be able to read our headers.
    if (reply.hasHeader('access-control-allow-origin')) {
      const exposed = reply.getHeader(EXPOSE_HEADERS)
      reply.header(EXPOSE_HEADERS, exposed === undefined ? EXPOSED_HEADERS : `${String(exposed)}, ${EXPOSED_HEADERS}`)
    }
    if ((reply.statusCode === 429 || reply.statusCode === 503) && !reply.hasHeader('retry-after')) reply.header('retry-after', '1')
    // The server waits for connections that are kept alive.
    if (sessions.closing && request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
    done(null, payload)
  })
  // Messages are JSON: plain text is answered 415, even if other routes of the app accept it.
  scope.removeContentTypeParser('text/plain')
  // A parser of the app for batches would conflict with ours.
  scope.removeContentTypeParser('application/x-ndjson')
  // A schema for the body describes one message, and the lines of a batch would not be checked against it.
  if (sessions.settings.routes.upward.schema?.body === undefined) addBatchParser(scope, sessions.settings.maxWaitingMessages)
  scope.decorateRequest(kSession, null)
  for (const route of routeOptions) scope.route(route)
  scope.addHook('onReady', async () => {
    // Unless the app has a compiler of its own, Fastify has created one for the schemas of our routes.
    const validatorCompiler = scope.validatorCompiler as FastifySchemaCompiler<unknown>
    sessions.handlers.setCompiler((schema, event) => validatorCompiler({ schema, method: 'POST', url: event, httpPart: 'body' }))
  })
}
