import { andThen, toPromise } from '../awaitable.js'
import { OptionInvalid, quote, SessionOver } from '../errors.js'
import { frameEvent } from '../wire/frame.js'
import type { Session } from './session.js'

/** What {@link UserSessions} needs from the registry. */
export interface UserContext {
  /** Finds the open sessions of a principal. */
  find (principal: string): Promise<Session[]>
  onUnhandled (error: unknown, call: string, details: { readonly event?: string }): void
}

/** The open sessions of one principal, such as all tabs and devices of a user, in all processes. */
export class UserSessions {
  /** The principal: a result of option `principal`. */
  readonly principal: string
  readonly #context: UserContext

  /** @internal */
  constructor (principal: string, context: UserContext) {
    if (typeof principal !== 'string') throw new OptionInvalid(`The argument of "of" must be a principal, which is a string; it is ${quote(principal)}`)
    this.principal = principal
    this.#context = context
  }

  /** Resolves with the sessions. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  sessions (): Promise<Session[]> {
    return toPromise(() => this.#context.find(this.principal))
  }

  /** Resolves with the number of sessions. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  async count (): Promise<number> {
    return (await this.sessions()).length
  }

  /** Sends the default event, `message`, to each session. Resolves and rejects as {@link emit}. */
  send (data: unknown): Promise<void> {
    return this.emit('message', data)
  }

  /**
   * Sends a named event to each session. Resolves when the event is in the logs of all sessions, also if there is none. A session
   * that is opened meanwhile may not receive it. Rejects with FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID,
   * FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE; some of the sessions may then have received the event.
   */
  emit (event: string, data: unknown): Promise<void> {
    return toPromise(() => {
      // Also without a session, an invalid event is an error.
      frameEvent(event, data)
      return this.#forEach(session => session.emit(event, data))
    }, error => { this.#context.onUnhandled(error, 'of(principal).emit', { event }) })
  }

  /** Closes each session, as its method `close` does. Resolves when the `onClose` hooks have run. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  close (reason?: string): Promise<void> {
    return toPromise(() => this.#forEach(session => session.close(reason)), error => { this.#context.onUnhandled(error, 'of(principal).close', {}) })
  }

  /** Calls a function for each session. Rejects with the first error after all calls have settled. */
  #forEach (call: (session: Session) => Promise<void>): Promise<void> {
    return andThen(this.sessions(), async sessions => {
      const results = await Promise.allSettled(sessions.map(call))
      for (const result of results) if (result.status === 'rejected' && !(result.reason instanceof SessionOver)) throw result.reason
    }) as Promise<void>
  }
}
