import type { RouteOptions } from 'fastify'
import type { Sessions } from '../sessions.js'
import { identify } from './identify.js'

/** DELETE of the downward path: the client ends its session. */
export function closeRoute (sessions: Sessions): RouteOptions {
  const { routes: { close }, downwardPath } = sessions.settings
  return {
    ...close,
    method: 'DELETE',
    url: downwardPath,
    handler: async (request, reply) => {
      const session = await identify(sessions, request)
      await session.close('deleted')
      return reply.code(204).send()
    }
  }
}
