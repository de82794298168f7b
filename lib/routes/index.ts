import type { FastifyInstance, FastifySchemaCompiler } from 'fastify'
import type { ErrorFormatter } from '../sessions/handlers.js'
import type { Sessions } from '../sessions/sessions.js'
import { EXPOSED_HEADERS, SESSION_ID } from '../wire/headers.js'
import { addBatchParser } from './batch.js'
import { closeRoute } from './close.js'
import { addCors } from './cors.js'
import { downwardRoute } from './downward.js'
import { createErrorHandler } from './error-handler.js'
import { kSession } from './require-session.js'
import { addResponseHooks } from './response-hooks.js'
import { upwardRoutes } from './upward.js'

/** Adds the routes of one registration of the plugin. `scope` must contain no other routes. */
export async function routes (scope: FastifyInstance, { sessions, app }: { sessions: Sessions, app: FastifyInstance }): Promise<void> {
  const routeOptions = [downwardRoute(sessions), ...upwardRoutes(sessions, scope.validatorCompiler === undefined), closeRoute(sessions)]
  addResponseHooks(scope, sessions, SESSION_ID, EXPOSED_HEADERS)
  // If the app has registered @fastify/cors, it applies here as well, and a second registration would fail the boot.
  if (sessions.settings.cors !== undefined && !scope.hasRequestDecorator('corsPreflightEnabled')) {
    await addCors(scope, { methods: ['GET', 'POST', 'DELETE'], ...sessions.settings.cors }, routeOptions.map(({ url }) => url))
  }
  // A parser of the app for this type would conflict with the parser for batches.
  scope.removeContentTypeParser('application/x-ndjson')
  // Batches are not accepted if the app has a schema for the body: it describes one message, so it would not validate the lines of a batch.
  if (sessions.settings.routes.upward.schema?.body === undefined) addBatchParser(scope)
  scope.decorateRequest(kSession, null)
  const errorHandler = createErrorHandler(app)
  for (const route of routeOptions) scope.route({ errorHandler, ...route })
  scope.addHook('onReady', async () => {
    // The app may set its compiler after it registers the plugin, so this hook reads it late. If the app has set none, Fastify has
    // created one for this scope, because the routes of the plugin have schemas.
    const validatorCompiler = (app.validatorCompiler ?? scope.validatorCompiler) as FastifySchemaCompiler<unknown>
    sessions.handlers.setCompiler((schema, event) => validatorCompiler({ schema, method: 'POST', url: event, httpPart: 'body' }), findErrorFormatter(app))
  })
}

/** Returns the function that the app has set with `setSchemaErrorFormatter`. Fastify has no public method for that. */
function findErrorFormatter (app: FastifyInstance): ErrorFormatter | undefined {
  for (let object: object | null = app; object !== null; object = Object.getPrototypeOf(object) as object | null) {
    const key = Object.getOwnPropertySymbols(object).find(({ description }) => description === 'fastify.schemaErrorFormatter')
    if (key !== undefined) return (Reflect.get(object, key) as ErrorFormatter | null) ?? undefined
  }
  return undefined
}
