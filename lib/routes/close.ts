import type { RouteOptions } from 'fastify'
import { asError } from '../errors.js'
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
    // This is not an async function, because Fastify would send its result even if the close of the server has sent a response.
    handler: (request, reply) => {
      if (!sessions.trackReply(reply)) return
      const closeSession = async (): Promise<void> => { await (await requireSession(sessions, request)).close('deleted') }
      closeSession().then(() => { if (sessions.canSend(reply)) reply.code(204).send() }, (error: unknown) => { if (sessions.canSend(reply)) reply.send(asError(error)) })
    }
  }
}
