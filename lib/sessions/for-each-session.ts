import type { Awaitable } from '../awaitable.js'
import { SessionOver } from '../errors.js'
import type { Session } from './session.js'

/**
 * Calls a function for each session, for at most `limit` of them at the same time; the first `limit` calls are synchronous.
 * Rejects with the first error after all calls have settled. It is no error if a session is closed.
 */
export async function forEachSession (sessions: readonly Session[], call: (session: Session) => Awaitable<void>, limit = Infinity): Promise<void> {
  const errors: unknown[] = []
  for (let index = 0; index < sessions.length; index += limit) {
    const results = await Promise.allSettled(sessions.slice(index, index + limit).map(async session => { await call(session) }))
    for (const result of results) if (result.status === 'rejected' && !(result.reason instanceof SessionOver)) errors.push(result.reason)
  }
  if (errors.length > 0) throw errors[0]
}
