import type { Draft, LogBounds } from './log.js'
import type { Mailbox } from './mailbox.js'
import type { SessionData, SessionState } from './state.js'

/** A value, or a promise of it: a store in memory answers at once and costs no promise. */
export type Awaitable<T> = T | Promise<T>

/** The options of the plugin that a store has to keep to. */
export interface StoreSettings {
  /** Milliseconds for which a session without a stream lives, and for which one that has ended is kept. */
  readonly resumeTimeout: number
  readonly log: LogBounds
  /** Bounds of each channel's log, and of that of broadcasts. */
  readonly channelLog: LogBounds
  readonly maxSessions: number
  readonly maxSessionsPerPrincipal: number
  readonly maxWaitingMessages: number
  readonly maxIdempotencyKeys: number
}

/** The process that uses a store; may be told while the store is being opened. */
export interface StoreUser {
  /** Something was broadcast: wakes every stream of the process. */
  broadcast (): void
  /** A session has expired, and it falls to this process to tell the app. Resolves, and does not reject, when that has heard of it. */
  expired (state: SessionState): Promise<void>
}

/** Numbers of the whole store, as of at most a second ago. */
export interface StoreStats {
  /** Sessions that live. */
  readonly sessions: number
  /** Channels that have members; those of other processes need not be counted. */
  readonly channels: number
}

/**
 * Where sessions, their logs, memberships and upward messages live, for one process or for many.
 *
 * **Calls.** What a store answers it MAY answer at once, or promise. A store that cannot be reached MUST reject with
 * StoreUnavailable in bounded time; what was asked for is then done or not, never by half. It MUST go on by itself when it can be reached
 * again. It MUST NOT keep the process alive when nothing else does.
 *
 * **Logs.** There is one log for each session, one for each channel that has members, and one for broadcasts. A store
 * MUST take every position from ONE counter: positions are whole numbers from 1, and a later append, to whatever log,
 * gets a higher one. An entry MUST be in the log when the call is answered. Two appends that a caller begins one after
 * the other MUST keep their order. A store MUST keep what a log's bounds allow, MUST record in the log what it trims,
 * and MUST refuse with EntryTooLarge what the bounds can never allow. It MUST add an entry to the logs at hand before
 * it wakes their listeners, and MUST wake them after every append. Where it finds that it has gone back to an earlier
 * state, it MUST have the logs forget (`Log.forget`), with reason `store`, what may be lost.
 *
 * **Sessions.** In a process there MUST be at most one SessionState of a session for as long as one is in use there,
 * and it MUST be as new as the last call for the session that this process has been answered. At most one process has
 * leave to stream a session. A session that nobody streams, and that is not held, MUST be ended after `resumeTimeout`, reason
 * `expired`, and one process be told, another only where that dies meanwhile; one that a living process streams MUST NOT be.
 * One that has ended MUST be kept for as long, so that its client can hear of it, but MAY be forgotten earlier where
 * `maxSessions` of them are kept.
 * Processes that have it in use and did not end it themselves MUST be told by its listener.
 */
export interface Store {
  /** Makes a session; `undefined` where there are too many, in all or of the principal. It is held. */
  open (id: string, principal: string | undefined): Awaitable<SessionState | undefined>
  /** The session of an id, living or ended. What is known of it here MUST be as new as the call. */
  find (id: string): Awaitable<SessionState | undefined>
  /** As `find`, but what is known of it here MAY be old: the caller's next call to the store will tell. */
  recall (id: string): Awaitable<SessionState | undefined>

  /** The client is on its way back: the session does not expire within another `resumeTimeout`, or until `detach`. */
  hold (state: SessionState): void
  /**
   * Gives this process leave to stream a session, and takes it from the process that had it, whose listener is told
   * `replaced`, and whose `state.sources` are empty then. Here they have, from then on, all that there is after the
   * cursor. Answers with the newest position of the store, or with `undefined` where the session is gone.
   */
  attach (state: SessionState, cursor: number): Awaitable<number | undefined>
  /**
   * This process has no stream of a session any more, and none on its way; never called while it is still to be answered
   * by `attach`. Unless another has one, the session, where it lives, waits for its client.
   */
  detach (state: SessionState): void

  /** Changes `data`: the given properties are set, the others stay. */
  update (state: SessionState, change: SessionData): Awaitable<void>
  /** Enters a channel: what is appended to it from now on is for the session. Again is harmless. */
  join (state: SessionState, channel: string): Awaitable<void>
  /** Leaves a channel. What was appended before is still for the session; of more than 100 that it has left, the oldest MAY be forgotten, reason `count`. */
  leave (state: SessionState, channel: string): Awaitable<void>
  /** Ends a session: nothing is for it from now on. True for the one caller that did. Without `keep` it is forgotten at once. */
  end (state: SessionState, reason: string, keep: boolean): Awaitable<boolean>

  /** Appends to a session's log. Rejects with SessionOver where it has ended. */
  send (state: SessionState, draft: Draft): Awaitable<void>
  /** Appends to a channel's log; without members that is nothing. */
  publish (channel: string, draft: Draft): Awaitable<void>
  /** Appends to the log of broadcasts, which all sessions read from their opening on. */
  broadcast (draft: Draft): Awaitable<void>
  /** Resolves when less than half of what a session's log may keep is unsent; asked only where the log is not at hand. */
  drained (state: SessionState): Awaitable<void>

  /** Where a session's upward messages go. */
  mailbox (state: SessionState): Mailbox

  /** How many sessions are in a channel. */
  count (channel: string): Awaitable<number>
  stats (): StoreStats
  /**
   * Ends the process's use of the store, after its last stream has ended. Answers with the living sessions that end with
   * it, for the given reason: none, where others may go on. Later calls MUST be answered, too, if only with StoreUnavailable.
   */
  close (reason: string): Awaitable<readonly SessionState[]>
}

/** Opens a store for one registration of the plugin; called once, at boot. Throws or rejects where the store cannot be used. */
export type OpenStore = (settings: StoreSettings, user: StoreUser) => Awaitable<Store>
