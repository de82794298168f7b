import { andThen, toPromise, type Awaitable } from '../awaitable.js'
import { OptionInvalid, quote } from '../errors.js'
import { createEntry, type LatestOptions } from './event-options.js'
import { forEachSession } from './for-each-session.js'
import { kInternals, type Session } from './session.js'

/** What {@link PrincipalSessions} needs from the registry. */
export interface PrincipalContext {
  /** Finds the open sessions of a principal. */
  find (principal: string): Awaitable<Session[]>
  onUnhandled (error: unknown, call: string, details: { readonly event?: string }): void
}

/** The open sessions of one principal, such as all tabs and devices of a user, in all processes. */
export class PrincipalSessions {
  /** The principal: a result of option `principal`. */
  readonly principal: string
  readonly #context: PrincipalContext

  /** @internal */
  constructor (principal: string, context: PrincipalContext) {
    if (typeof principal !== 'string') throw new OptionInvalid(`The argument of "of" must be a principal, which is a string; it is ${quote(principal)}`)
    this.principal = principal
    this.#context = context
  }

  /** Resolves with the sessions. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  sessions (): Promise<Session[]> {
    return toPromise(() => this.#context.find(this.principal))
  }

  /** Resolves with the number of sessions. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  count (): Promise<number> {
    return toPromise(() => andThen(this.#context.find(this.principal), ({ length }) => length))
  }

  /** Sends the default event, `message`, to each session. Resolves and rejects as {@link emit}. */
  send (data: unknown, options?: LatestOptions): Promise<void> {
    return this.#emit('message', data, options, 'of(principal).send')
  }

  /**
   * Sends a named event to each session. Resolves when the event is in the logs of all sessions; at once if there are none. A session
   * that is opened meanwhile may not receive it. With a shared store, an event that is sent to one of the sessions after this call
   * may arrive before it. Rejects with FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_OPTION_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE;
   * some of the sessions may then have received the event.
   */
  emit (event: string, data: unknown, options?: LatestOptions): Promise<void> {
    return this.#emit(event, data, options, 'of(principal).emit')
  }

  /** Closes each session, as its method `close` does. Resolves when the `onClose` hooks have run. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  close (reason?: string): Promise<void> {
    return toPromise(() => this.#forEach(session => session.close(reason)), error => { this.#context.onUnhandled(error, 'of(principal).close', {}) })
  }

  #emit (event: string, data: unknown, options: LatestOptions | undefined, call: string): Promise<void> {
    return toPromise(() => {
      const entry = createEntry(event, data, options, call)
      return this.#forEach(session => session[kInternals].send(entry))
    }, error => { this.#context.onUnhandled(error, call, { event }) })
  }

  #forEach (call: (session: Session) => Awaitable<void>): Awaitable<void> {
    return andThen(this.#context.find(this.principal), sessions => forEachSession(sessions, call))
  }
}
