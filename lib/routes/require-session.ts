import type { FastifyRequest } from 'fastify'
import { andThen, type Awaitable } from '../awaitable.js'
import { Closing, SessionIdMissing, SessionUnknown } from '../errors.js'
import type { Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { SESSION_ID } from '../wire/headers.js'

/** Key of the session on a request: `null` until the session is looked up, `undefined` if there is none. */
export const kSession = Symbol('session')

export interface RequestWithSession {
  [kSession]?: Session | null | undefined
}

/** Returns a request header as one string; `undefined` if it is missing or empty. */
export function getHeader (request: FastifyRequest, name: string): string | undefined {
  const value = request.headers[name]
  return typeof value === 'string' && value !== '' ? value : undefined
}

/**
 * Finds the open session of a request. A session of another principal is treated as unknown. Throws or rejects with
 * FST_SSE_SESSION_ID_MISSING, FST_SSE_UNAUTHORIZED, FST_SSE_SESSION_UNKNOWN, FST_SSE_STORE_UNAVAILABLE or FST_SSE_CLOSING.
 */
export function requireSession (sessions: Sessions, request: FastifyRequest & RequestWithSession): Awaitable<Session> {
  const id = getHeader(request, SESSION_ID)
  if (id === undefined) throw new SessionIdMissing()
  if (sessions.closing) throw new Closing()
  return andThen(sessions.settings.principal?.(request), principal => {
    return andThen(sessions.settings.expires?.(request), until => {
      return andThen(sessions.findCached(id), found => {
        const session = found?.principal === principal ? found : undefined
        request[kSession] = session
        if (session === undefined) throw new SessionUnknown()
        return andThen(sessions.authorize(session, until), () => session)
      })
    })
  })
}
