import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import type { Sessions } from '../sessions.js'
import { EXPOSED_HEADERS } from '../wire/headers.js'
import { closeRoute } from './close.js'
import { downwardRoute } from './downward.js'
import { addBatchParser, upwardRoutes } from './upward.js'

const EXPOSE = 'access-control-expose-headers'

/** The routes, in a scope of their own under the prefix. */
export async function routes (scope: FastifyInstance, { sessions }: { sessions: Sessions }): Promise<void> {
  // Registered twice, it would end the boot; where the app has it, the app's is in force here as well.
  if (sessions.settings.cors !== undefined && !scope.hasRequestDecorator('corsPreflightEnabled')) {
    await scope.register(cors, { methods: ['GET', 'POST', 'DELETE'], ...sessions.settings.cors })
  }
  // Whosever CORS it is, pages of other origins have to be let read our headers.
  scope.addHook('onSend', (request, reply, payload, done) => {
    if (reply.hasHeader('access-control-allow-origin')) {
      const exposed = reply.getHeader(EXPOSE)
      reply.header(EXPOSE, exposed === undefined ? EXPOSED_HEADERS : `${String(exposed)}, ${EXPOSED_HEADERS}`)
    }
    // A connection kept alive would keep the server, which waits for it, from closing.
    if (sessions.closing && request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
    done(null, payload)
  })
  // Text is no JSON: it is 415 here, whatever the app takes elsewhere.
  scope.removeContentTypeParser('text/plain')
  addBatchParser(scope)
  for (const route of [downwardRoute(sessions), ...upwardRoutes(sessions, scope.validatorCompiler === undefined), closeRoute(sessions)]) scope.route(route)
  scope.addHook('onReady', async () => {
    const { validatorCompiler } = scope
    if (validatorCompiler === undefined) return
    sessions.dispatcher.compileWith((schema, event) => validatorCompiler({ schema, method: 'POST', url: event, httpPart: 'body' }))
  })
}
