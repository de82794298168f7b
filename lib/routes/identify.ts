import type { FastifyRequest } from 'fastify'
import { Closing, SessionIdMissing, SessionUnknown } from '../errors.js'
import { chain } from '../promises.js'
import type { Session } from '../session.js'
import type { Sessions } from '../sessions.js'
import type { Awaitable } from '../store/store.js'
import { SESSION_ID } from '../wire/headers.js'

/** The session that a request was found to speak for; `undefined` for none, `null` before it was looked up. */
export const SESSION = Symbol('session')

export interface Addressed {
  [SESSION]?: Session | null | undefined
}

/** A request's header as one string; `undefined` where it is missing or empty. */
export function header (request: FastifyRequest, name: string): string | undefined {
  const value = request.headers[name]
  return typeof value === 'string' && value !== '' ? value : undefined
}

/**
 * The live session that a request speaks for. Another principal's is as unknown as one that never was.
 * Throws FST_SSE_SESSION_ID_MISSING, FST_SSE_SESSION_UNKNOWN, FST_SSE_STORE_UNAVAILABLE or FST_SSE_CLOSING.
 */
export function identify (sessions: Sessions, request: FastifyRequest & Addressed): Awaitable<Session> {
  const id = header(request, SESSION_ID)
  if (id === undefined) throw new SessionIdMissing()
  if (sessions.closing) throw new Closing()
  return chain(sessions.settings.principal(request), principal => {
    return chain(sessions.recall(id), known => {
      const session = known?.principal === principal ? known : undefined
      request[SESSION] = session
      if (session === undefined) throw new SessionUnknown()
      return session
    })
  })
}
