import type { RouteOptions } from 'fastify'
import type { Sessions } from '../sessions/sessions.js'
import { requireNoBodyOrJson } from '../wire/content-type.js'
import { requireSession } from './require-session.js'

/** DELETE of the downward path: closes the session. */
export function closeRoute (sessions: Sessions): RouteOptions {
  const { routes: { close }, downwardPath } = sessions.settings
  return {
    ...close,
    method: 'DELETE',
    url: downwardPath,
    preParsing: [requireNoBodyOrJson, close.preParsing ?? []].flat(),
    handler: async (request, reply) => {
      sessions.trackReply(reply)
      const session = await requireSession(sessions, request)
      await session.close('deleted')
      return reply.code(204).send()
    }
  }
}
