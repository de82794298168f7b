import type { Awaitable } from '../awaitable.js'
import type { SessionState } from '../store/session-state.js'
import type { StreamWriter } from '../stream/stream-writer.js'
import { forEachSession } from './for-each-session.js'
import type { Session } from './session.js'
import { SessionInternals } from './session-internals.js'

/** Milliseconds between checks. */
const INTERVAL = 1000

// A store may execute calls one after the other, and reject those that wait for too long.
const MAX_CALLS = 1000

/** Whether a session is open although the credentials of its client have expired. */
function isUnauthorized ({ authorizedUntil = Infinity, closeReason }: SessionState): boolean {
  return authorizedUntil <= Date.now() && closeReason === undefined
}

/**
 * Closes the sessions with a stream in this process whose clients are not authorized any more. An interval checks all of them,
 * because a timeout for each session would be late or early after a change of the clock, and is limited to 24 days.
 */
export class AuthorizationCheck {
  readonly #streams: Iterable<StreamWriter>
  readonly #close: (session: Session) => Awaitable<void>
  readonly #onError: (error: unknown) => void
  readonly #timer: NodeJS.Timeout
  #isRunning = false

  constructor (streams: Iterable<StreamWriter>, close: (session: Session) => Awaitable<void>, onError: (error: unknown) => void) {
    this.#streams = streams
    this.#close = close
    this.#onError = onError
    this.#timer = setInterval(() => { this.#check() }, INTERVAL).unref()
  }

  stop (): void {
    clearInterval(this.#timer)
  }

  async #check (): Promise<void> {
    if (this.#isRunning) return
    this.#isRunning = true
    const sessions: Session[] = []
    for (const { owner } of this.#streams) if (owner instanceof SessionInternals && isUnauthorized(owner.state)) sessions.push(owner.session as Session)
    try {
      await forEachSession(sessions, this.#close, MAX_CALLS)
    } catch (error) {
      // The next check tries again.
      this.#onError(error)
    } finally {
      this.#isRunning = false
    }
  }
}
