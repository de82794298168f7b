import type { Awaitable } from '../awaitable.js'
import type { EntryInput, LogBounds } from '../log/log.js'
import type { MessageQueue } from './message-queue.js'
import type { RunStore } from './run-store.js'
import type { SessionData, SessionState } from './session-state.js'

/** The options of the plugin that concern stores. */
export interface StoreSettings {
  /** Path prefix of the routes. Registrations with different prefixes should not share their sessions. */
  readonly prefix: string
  /** Milliseconds for which a session without a stream stays open, and for which a closed session is kept. */
  readonly resumeTimeout: number
  /** Bounds of the log of each session. */
  readonly log: LogBounds
  /** Bounds of the log of each channel, and of the log of broadcasts. */
  readonly channelLog: LogBounds
  /** Bounds of the log of each run. */
  readonly runLog: LogBounds
  /** Maximum number of runs, running and kept. */
  readonly maxRuns: number
  /** Maximum number of sessions, open and closed. A store MAY count only open ones. */
  readonly maxSessions: number
  /** Maximum number of sessions of one principal, open and closed. A store MAY count only open ones. */
  readonly maxSessionsPerPrincipal: number
  /** Maximum number of channels of one session. */
  readonly maxChannelsPerSession: number
  /** Maximum number of messages of one session that wait, or run concurrently, while another is handled. */
  readonly maxWaitingMessages: number
  /** Maximum size of these messages together, in bytes, for a store that keeps them in the memory of this process. */
  readonly maxWaitingBytes: number
  /** Maximum number of idempotency keys of handled messages that are kept per session. */
  readonly maxIdempotencyKeys: number
  /** Maximum size of the responses that are kept for these keys, in bytes. */
  readonly maxResponseBytes: number
  /** Maximum size of all logs, stored responses and waiting messages, in bytes, for a store that keeps them in the memory of this process. */
  readonly maxBytes: number
  /** Milliseconds that `close` should wait for running handlers. */
  readonly closeTimeout: number
  /** Returns the `compressionScope` of the log of a channel; without a name, of the log of broadcasts. */
  readonly compressionScope: (channel?: string) => string | undefined
}

/** What a store calls in the process that uses it. It may call the first two before the factory has returned. */
export interface StoreCallbacks {
  /** An entry was appended to the log of broadcasts: there is more to read for all streams of the process. */
  onBroadcast (): void
  /** A session has expired, or a call of `Store.end` has rejected although it has closed the session: this process must run the app's `onLeave` and `onClose` hooks. Resolves when they have run; never rejects. */
  onExpire (state: SessionState): Promise<void>
  /** A call of `Store.join` has rejected although it has added the session: this process must run the app's `onJoin` hooks. Resolves when they have run; never rejects. */
  onJoin (state: SessionState, channel: string): Promise<void>
  /** A call of `Store.leave` has rejected although it has removed the session: this process must run the app's `onLeave` hooks. Resolves when they have run; never rejects. */
  onLeave (state: SessionState, channel: string): Promise<void>
}

/** Numbers of the whole store. They may be one second out of date. */
export interface StoreStats {
  /** Open sessions. */
  readonly sessions: number
  /** Channels that have members or are kept. A store may omit those that this process does not use. */
  readonly channels: number
}

/** The result of {@link Store.join}. */
export interface JoinResult {
  /** Whether the session was not a member before. If several calls add it, this is true for exactly one of them. */
  readonly isNew: boolean
  /** The history of the channel, the oldest frame first. */
  readonly frames: readonly string[]
}

/**
 * Keeps sessions, their logs, channel memberships and the messages of clients, for one process or for several.
 *
 * **Calls.** A method returns its result or a promise of it. If the store cannot be reached, a method MUST reject with
 * StoreUnavailable within a bounded time; the operation has then been executed completely or not at all. While it can be
 * reached, `attach` MAY take as long as it needs to read the logs. The store MUST
 * recover by itself when it can be reached again. It MUST NOT keep the process running.
 *
 * **Logs.** There is one log per session, one per channel that has members or is kept, and one for broadcasts. A store MUST take all
 * positions from ONE counter: positions are integers from 1, and a later append to any log gets a higher position. The
 * entry MUST be in the log when the call resolves. Two appends that a caller starts one after the other MUST keep their
 * order. An entry with a key replaces the earlier entry of the log with this key, which does not count as trimmed; `Log.push` does that. A store MUST
 * keep what the bounds of a log and `maxBytes` allow, MUST record in the log what it trims, and MUST reject with
 * EntryTooLarge an entry that the bounds can never allow (`assertFits`). It MUST add an entry to the logs of this
 * process before it calls their listeners, and MUST call the listeners after every append. If it detects that it was
 * restored to an earlier state, it MUST mark the entries that may be lost as trimmed (`Log.markTrimmed`), with the reason
 * `store`.
 *
 * **Sessions.** A process MUST have at most one SessionState per session while one is in use, and that state MUST include
 * the effects of all calls for the session that have settled in this process. At most one process MUST have the right to stream a session.
 * A session without a stream MUST be closed after `resumeTimeout`, with the reason `expired`, unless its expiry was canceled.
 * The store MUST then call `StoreCallbacks.onExpire` in exactly one process, and in another one only if the first fails
 * before the `onClose` hooks have run. A session MUST NOT expire while a running process streams it. A closed session MUST
 * be kept for `resumeTimeout`, so that its client can receive the `close` event, but MAY be removed earlier to make room for a
 * new session. After a stream has written the `close` event, a store MAY drop all but the last 64 KiB of its log. If there is
 * no room for a new session, a store MAY close one that has no stream and for which `messageQueue` was never called, with the reason `evicted`,
 * as if it had expired. The plugin calls it for the first message of the client, and for its first answer to a request. If a session is closed, every process that uses it and did not close it itself
 * MUST be notified through the listener of the state.
 */
export interface Store {
  /** Keeps the runs. Without it, the store does not support runs. */
  readonly runs?: RunStore

  /** Creates a session, with this id or another random one. Resolves with `undefined` if there are too many, in total or of the principal. The session does not expire before the first `detach`. */
  open (id: string, principal: string | undefined): Awaitable<SessionState | undefined>
  /** Finds a session by id, open or closed. The result MUST contain all changes that were made before the call. */
  find (id: string): Awaitable<SessionState | undefined>
  /** As `find`, but the result MAY be out of date. The next call for the session detects that. */
  findCached (id: string): Awaitable<SessionState | undefined>
  /** Finds the open sessions of a principal, in any order. As for `find`, the result MUST contain all changes that were made before the call. */
  findByPrincipal (principal: string): Awaitable<readonly SessionState[]>

  /** A client is resuming the session: the session MUST NOT expire before `detach` is called, or at least not before another `resumeTimeout` has passed. */
  cancelExpiry (state: SessionState): void
  /**
   * Gives this process the right to stream a session and takes it from the process that had it. In that process, the store
   * calls the listener's `onReplaced` and empties `state.ranges`. In this process, `state.ranges` contain everything after
   * the cursor from now on. Resolves with the newest position of the store, or with `undefined` if the session does not
   * exist any more.
   *
   * `requestedAt` is the time at which the request for the stream has arrived, in milliseconds of `performance.now()`. If
   * another process has the stream for a request that arrived later, the store MUST reject with StoreUnavailable. If the store
   * cannot determine which request is the newer one, `onReplaced` gets `false`, and the client of the replaced stream reconnects.
   */
  attach (state: SessionState, cursor: number, requestedAt: number): Awaitable<number | undefined>
  /**
   * This process has no stream of the session any more, and no request for one. The method is never called while `attach`
   * is pending. If no other process has a stream, an open session expires after `resumeTimeout`.
   */
  detach (state: SessionState): void

  /** Sets `authorizedUntil`, unless it is a later time already. Does nothing if the session is closed. */
  authorize (state: SessionState, until: number): Awaitable<void>
  /** Sets properties of `data`; the others stay. Rejects with SessionOver if the session is closed. */
  update (state: SessionState, change: SessionData): Awaitable<void>
  /**
   * Adds the session to a channel: it receives what is appended from now on. Does nothing if the session is a member. Also resolves
   * with the frames of the newest entries in the log of the channel before the position at which the session has joined: at most
   * `history`, without those that exclude the session. Rejects with SessionOver
   * if the session is closed, and with TooManyChannels if it is in `maxChannelsPerSession` channels.
   * If the call has rejected although it has added the session, the store MUST call `StoreCallbacks.onJoin` as soon as it can be reached again.
   */
  join (state: SessionState, channel: string, history: number): Awaitable<JoinResult>
  /**
   * Removes the session from a channel. Resolves with true for the one call that removed it. If that call has rejected, the store MUST
   * call `StoreCallbacks.onLeave` as soon as it can be reached again.
   *
   * The session still receives what was appended before. But if it has left more than 100 channels, or if their entries have more than
   * 1 MiB, the store MAY drop the entries of the channel that it left first, with the reason `count` or `bytes`.
   */
  leave (state: SessionState, channel: string): Awaitable<boolean>
  /**
   * Closes a session: it receives nothing that is appended from now on, and leaves its channels. In the process that closed it,
   * `state.channels` keep the names of those that it was in at that moment. Unless `keep` is true, the session is removed at once.
   * Resolves with true for the one call that closed it. If that call has rejected, the store MUST call `StoreCallbacks.onExpire` as soon
   * as it can be reached again.
   *
   * `ifUnauthorizedAt` is a time in milliseconds since 1970. If `authorizedUntil` is a later time, also if another process has set it,
   * the call does nothing and resolves with false.
   */
  end (state: SessionState, reason: string, keep: boolean, ifUnauthorizedAt?: number): Awaitable<boolean>

  /** Appends to the log of a session. Rejects with SessionOver if the session is closed. */
  send (state: SessionState, entry: EntryInput): Awaitable<void>
  /**
   * Appends to the log of a channel. If `keep` is not 0, the channel is kept from now on: also without members, its entries
   * MUST stay in its log until they are older than `keep` milliseconds and than the bound `age`, or exceed another bound of the
   * log. The newest `keep` of a channel applies to all its entries. Does nothing if the channel has no members and no
   * entries that are kept, and `keep` is 0.
   */
  publish (channel: string, entry: EntryInput, keep: number): Awaitable<void>
  /** Appends to the log of broadcasts, which every session reads from its start position on. */
  broadcast (entry: EntryInput): Awaitable<void>
  /** Resolves when less than half of what the session's log may keep is unsent. It is called only if the log is not in this process. The call MAY wait while the store cannot be reached. */
  waitForDrain (state: SessionState): Awaitable<void>

  /** Returns the queue of the messages that the client of a session sends. */
  messageQueue (state: SessionState): MessageQueue

  /** Returns the number of members of a channel. */
  count (channel: string): Awaitable<number>
  /** Finds the members of a channel, in any order. The result MUST contain every session that is a member during the whole call. */
  members (channel: string): Awaitable<readonly SessionState[]>
  /** Drops the history of a channel: later joins do not get the entries until now, and the channel is not kept any more. Its members, and former ones, still read these entries. */
  clear (channel: string): Awaitable<void>
  stats (): StoreStats
  /**
   * Closes the store in this process. The plugin calls it after the last stream has ended. If no other process can continue
   * the open sessions, the store closes them with the given reason and resolves with them; otherwise with an empty array.
   * Later calls MUST settle as well; they MAY reject with StoreUnavailable.
   */
  close (reason: string): Awaitable<readonly SessionState[]>
}

/** Creates the store of one registration of the plugin. It is called once, at boot. Throws or rejects if the store cannot be used. */
export type StoreFactory = (settings: StoreSettings, callbacks: StoreCallbacks) => Awaitable<Store>
