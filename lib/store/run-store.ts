import type { Awaitable } from '../awaitable.js'
import type { EntryInput, Log } from '../log/log.js'
import type { RunInput, RunListener, RunOutcome, RunState } from './run-state.js'

/** Which existing run with the same name and principal `start` returns: `running`, one that has not ended; `kept`, also one that has ended; `never`, none. */
export type Reuse = 'running' | 'kept' | 'never'

/** What a reader of a run reads. */
export interface RunSource {
  /** From `follow` to `unfollow`, it has all entries after the cursor that were not trimmed. */
  readonly log: Log
  /** The given cursor, but at most the newest position of the log, or `startPosition` if the log has never had an entry. */
  readonly cursor: number
}

/**
 * Keeps runs. A run is a log with one producer and any number of readers. Its log has the bounds `runLog`, and the rules for
 * logs and calls of {@link Store} apply. A run MUST be kept until `keep` milliseconds after its end. At `maxRuns` runs, a
 * store MUST remove the run that ended first to make room for a new one. If the process of a producer fails, a shared store
 * MUST end its runs as `lost`, or let another process restart them, and MUST reject later calls of `append` and `end` by this process.
 *
 * All methods but `unfollow` and `handleRestarts` return their result or a promise of it. While a run is in use, a process
 * MUST have only one RunState for it.
 */
export interface RunStore {
  /**
   * Creates a run, or returns the existing one with this name and principal, depending on `reuse`. A new run has the id of `input`.
   * Rejects with RunExists if there is one that is running and `reuse` is `never`, and with IdempotencyKeyReused if its
   * fingerprint differs. Resolves with `undefined` if there are `maxRuns` runs, none of which has ended. For a request, rejects with
   * SessionOver if the session is closed, and with EntryTooLarge.
   */
  start (input: RunInput, reuse: Reuse): Awaitable<RunState | undefined>
  /** Finds the newest run with this name and principal. The result MUST contain all changes that were made before the call. `sessionId` is the session of a delivery. */
  find (name: string, principal: string | undefined, sessionId?: string): Awaitable<RunState | undefined>
  /** Finds a run by id, also one whose name is used by a newer run. */
  findById (id: string): Awaitable<RunState | undefined>
  /**
   * Appends to the log of a run, or, for the run of a delivery, to that of its session. Rejects with RunOver if the run has ended, and with
   * SessionOver if the session is closed. While the store cannot be reached, the call MAY wait until the run ends.
   */
  append (run: RunState, entry: EntryInput): Awaitable<void>
  /** Ends a run, in any process. Resolves with true for the one call that ended it. The listeners of all processes are notified. If the call rejects for an outcome other than `stopped`, a shared store MUST end the run as soon as that is possible. */
  end (run: RunState, outcome: RunOutcome): Awaitable<boolean>
  /** Adds a reader, which reads the entries after a cursor; `Infinity` for those that are appended from now on. Resolves with `undefined` if the run is not kept any more. */
  follow (run: RunState, cursor: number, listener: RunListener): Awaitable<RunSource | undefined>
  /** Removes a reader, or the producer. */
  unfollow (run: RunState, listener: RunListener): void
  /**
   * Lets this process restart runs of others whose producers have these names. The set may grow. When the process of the producer of
   * a run with the property `restart` has failed, or has released the run, the store makes ONE process its producer, and calls
   * `onRestart` there. From then on, nothing else can append to the run. If no process can restart it within a
   * bounded time, or its processes fail repeatedly, the run MUST end as `lost`. Without this method, runs are not restarted.
   */
  handleRestarts? (producers: ReadonlySet<string>, onRestart: (run: RunState) => void): void
  /** Lets another process restart a run whose producer is in this process, and that has the property `restart`. A store with `handleRestarts` MUST have it. If the call rejects, the store MUST do that as soon as that is possible. */
  release? (run: RunState): Awaitable<void>
}
