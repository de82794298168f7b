import type { Awaitable } from '../awaitable.js'
import type { EntryInput, LogBounds } from '../log/log.js'
import type { MessageQueue } from './message-queue.js'
import type { SessionData, SessionState } from './session-state.js'

/** The options of the plugin that a store has to apply. */
export interface StoreSettings {
  /** Milliseconds for which a session without a stream stays open, and for which an ended session is kept. */
  readonly resumeTimeout: number
  /** Bounds of the log of each session. */
  readonly log: LogBounds
  /** Bounds of the log of each channel, and of the broadcast log. */
  readonly channelLog: LogBounds
  readonly maxSessions: number
  readonly maxSessionsPerPrincipal: number
  readonly maxWaitingMessages: number
  readonly maxIdempotencyKeys: number
}

/** What a store reports to the process that uses it. A store may call it before the factory has returned. */
export interface StoreCallbacks {
  /** A broadcast was appended: every stream of the process has something to read. */
  onBroadcast (): void
  /** A session has expired, and this process has to run the app's `onClose` hooks. Resolves when they have run; never rejects. */
  onExpire (state: SessionState): Promise<void>
}

/** Numbers of the whole store, at most one second old. */
export interface StoreStats {
  /** Open sessions. */
  readonly sessions: number
  /** Channels that have members. A store may leave out those that only other processes use. */
  readonly channels: number
}

/**
 * Keeps sessions, their logs, channel memberships and upward messages, for one process or for several.
 *
 * **Calls.** A method returns its result at once or as a promise. If the store cannot be reached, a method MUST reject with
 * StoreUnavailable within a bounded time; the operation has then either happened completely or not at all. The store MUST
 * recover without help when it can be reached again. It MUST NOT keep the process alive.
 *
 * **Logs.** There is one log per session, one per channel that has members, and one for broadcasts. A store MUST take all
 * positions from ONE counter: positions are integers from 1, and a later append to any log gets a higher position. The
 * entry MUST be in the log when the call resolves. Two appends that a caller starts one after the other MUST keep their
 * order. A store MUST keep what the bounds of a log allow, MUST record in the log what it trims, and MUST reject with
 * EntryTooLarge an entry that the bounds can never allow. It MUST add an entry to the logs of this process before it calls
 * their listeners, and MUST call them after every append. When it detects that it was restored to an earlier state, it
 * MUST mark what may be lost as trimmed (`Log.markTrimmed`), with reason `store`.
 *
 * **Sessions.** A process MUST have at most one SessionState per session while one is in use, and that state MUST reflect
 * the last call for the session that was answered in this process. At most one process may stream a session at a time. A
 * session without a stream whose expiry is not cancelled MUST end after `resumeTimeout`, with reason `expired`, and exactly
 * one process MUST be notified, or a second one if the first dies meanwhile. A session that a live process streams MUST NOT
 * expire. An ended session MUST be kept for `resumeTimeout`, so that its client can receive the `close` event, but MAY be
 * removed earlier when more than `maxSessions` ended sessions are kept. Every process that uses a session and did not end
 * it itself MUST be notified through the session's listener.
 */
export interface Store {
  /** Creates a session; `undefined` if there are too many, in total or for the principal. It does not expire before the first `detach`. */
  open (id: string, principal: string | undefined): Awaitable<SessionState | undefined>
  /** Finds a session by id, open or ended. The result MUST be as new as the call. */
  find (id: string): Awaitable<SessionState | undefined>
  /** As `find`, but the result MAY be out of date; the next call for the session detects that. */
  findCached (id: string): Awaitable<SessionState | undefined>

  /** A client is resuming the session: it must not expire before `detach`, or before another `resumeTimeout`. */
  cancelExpiry (state: SessionState): void
  /**
   * Gives this process the right to stream a session and takes it from the process that had it: there the listener's
   * `onReplaced` is called and `state.ranges` become empty. Here `state.ranges` contain, from now on, everything after the
   * cursor. Resolves with the newest position of the store, or with `undefined` if the session does not exist any more.
   */
  attach (state: SessionState, cursor: number): Awaitable<number | undefined>
  /**
   * This process has no stream of the session any more, and no request for one. It is never called while `attach` is
   * pending. If no other process has a stream, an open session waits for its client until it expires.
   */
  detach (state: SessionState): void

  /** Sets properties of `data`; the others stay. */
  update (state: SessionState, change: SessionData): Awaitable<void>
  /** Adds the session to a channel: it receives what is appended from now on. Joining again has no effect. */
  join (state: SessionState, channel: string): Awaitable<void>
  /** Removes the session from a channel. It still receives what was appended before. If it has left more than 100 channels, the oldest MAY be dropped, with reason `count`. */
  leave (state: SessionState, channel: string): Awaitable<void>
  /** Ends a session: it receives nothing that is appended from now on. Resolves with true for the one caller that ended it. Unless `keep` is true, the session is removed at once. */
  end (state: SessionState, reason: string, keep: boolean): Awaitable<boolean>

  /** Appends to the log of a session. Rejects with SessionOver if the session has ended. */
  send (state: SessionState, entry: EntryInput): Awaitable<void>
  /** Appends to the log of a channel. Does nothing if the channel has no members. */
  publish (channel: string, entry: EntryInput): Awaitable<void>
  /** Appends to the broadcast log, which every session reads from its start position. */
  broadcast (entry: EntryInput): Awaitable<void>
  /** Resolves when less than half of what the session's log may keep is unsent. It is called only if the log is not in this process. */
  waitForDrain (state: SessionState): Awaitable<void>

  /** The queue of a session's upward messages. */
  messageQueue (state: SessionState): MessageQueue

  /** Number of sessions in a channel. */
  count (channel: string): Awaitable<number>
  stats (): StoreStats
  /**
   * Ends the use of the store by this process, after its last stream has ended. Resolves with the open sessions that end
   * with it, for the given reason: none if other processes can continue them. Later calls MUST still settle, at least with
   * StoreUnavailable.
   */
  close (reason: string): Awaitable<readonly SessionState[]>
}

/** Creates the store for one registration of the plugin. It is called once, at boot, and throws or rejects if the store cannot be used. */
export type StoreFactory = (settings: StoreSettings, callbacks: StoreCallbacks) => Awaitable<Store>
