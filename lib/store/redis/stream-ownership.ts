import { noop } from '../../awaitable.js'
import { StoreUnavailable } from '../../errors.js'
import { now } from '../../log/log.js'
import type { SessionListener } from '../session-state.js'
import type { CommandQueue } from './command-queue.js'
import { COMMAND_TIMEOUT, LOGS_NOT_READ, withTimeout } from './connection.js'
import type { Inbox } from './replica/inbox.js'
import type { LogPart } from './replica/log-replica.js'
import type { Reducer } from './replica/reducer.js'
import type { SessionReplica } from './replica/session-replica.js'

// Maximum number of sessions, and of channels, that one command renews.
const MAX_PER_COMMAND = 200

/** Acquires, renews and releases the right of this process to stream sessions. */
export class StreamOwnership {
  readonly #commandQueue: CommandQueue
  readonly #inbox: Inbox
  readonly #reducer: Reducer
  readonly #renewInterval: number
  readonly #pauseCheckInterval: number
  #renewedAt = now()
  #checkedAt = Infinity
  /** The last time in which nothing was read: the event loop was blocked, or the process was suspended. */
  #lastPause = { from: 0, to: 0 }

  constructor (queue: CommandQueue, inbox: Inbox, reducer: Reducer, resumeTimeout: number, pauseCheckInterval: number) {
    this.#commandQueue = queue
    this.#inbox = inbox
    this.#reducer = reducer
    this.#renewInterval = resumeTimeout / 4
    this.#pauseCheckInterval = pauseCheckInterval
  }

  /** Records a pause of this process, if there was one since the last call. Called at regular intervals. */
  detectPause (): void {
    const time = now()
    if (time - this.#checkedAt > this.#pauseCheckInterval * 1.2) this.#lastPause = { from: this.#checkedAt, to: time }
    this.#checkedAt = time
  }

  attach (state: SessionReplica, cursor: number, requestedAt: number): Promise<number | undefined> {
    return this.#afterAttach(state, () => this.#attach(state, cursor, requestedAt))
  }

  detach (state: SessionReplica): void {
    const { cursor } = state
    const detach = (): void => {
      const { epoch } = state
      this.#reducer.detach(state)
      this.#commandQueue.executeReliably('release', state.id, epoch === 0 ? '' : epoch, cursor)
    }
    // The reply to a pending `acquire` must not be applied after the release.
    if (state.pendingAttach === undefined) detach()
    else this.#afterAttach(state, async () => { detach() })
  }

  /** Stores how far the stream of a session has written, for other nodes. */
  commitCursor (state: SessionReplica): void {
    this.#commandQueue.executeReliably('commit_cursor', state.id, state.epoch, (state.listener as SessionListener).cursor)
  }

  /** Prevents sessions with a stream in this process from expiring, if it is time to. */
  renew (): void {
    if (now() - this.#renewedAt < this.#renewInterval) return
    this.#renewedAt = now()
    this.#renew([...this.#reducer.attached.values()], [...this.#reducer.channels.keys()]).catch(noop)
  }

  async #renew (states: readonly SessionReplica[], channels: readonly string[]): Promise<void> {
    for (let from = 0; from < Math.max(states.length, channels.length); from += MAX_PER_COMMAND) {
      const chunk = states.slice(from, from + MAX_PER_COMMAND)
      await this.#commandQueue.execute('renew', chunk.length, ...chunk.flatMap(({ id, epoch }) => [id, epoch]), ...channels.slice(from, from + MAX_PER_COMMAND))
    }
  }

  async #afterAttach<T> (state: SessionReplica, work: () => Promise<T>): Promise<T> {
    const done = state.pendingAttach === undefined ? work() : state.pendingAttach.then(work)
    const settled = done.then(noop, noop)
    state.pendingAttach = settled
    try {
      return await done
    } finally {
      if (state.pendingAttach === settled) state.pendingAttach = undefined
    }
  }

  async #attach (state: SessionReplica, cursor: number, requestedAt: number): Promise<number | undefined> {
    const { clockOffset, clockError } = this.#commandQueue
    // After a pause, the process may read requests before its timers run.
    this.detectPause()
    const { from, to } = this.#lastPause
    // During a pause, nothing was read: a request that was read in the pause, or soon after it, may have arrived at any time since
    // its start.
    const earliest = requestedAt > from && requestedAt <= to + this.#pauseCheckInterval ? from : requestedAt
    const { value, position, isApplied } = await this.#inbox.execute<LogPart | 'outdated' | null>('acquire', [state.id, cursor, Math.floor(earliest * 1000 + clockOffset - clockError), Math.ceil(requestedAt * 1000 + clockOffset + clockError)], (part, position) => {
      // If Redis has lost data, the cursor of a client can be after the newest position.
      if (part !== null && part !== 'outdated') this.#reducer.applyAcquire(state, Math.min(cursor, position), part)
    })
    if (value === 'outdated') throw new StoreUnavailable()
    if (value === null) {
      this.#reducer.removeSession(state)
      return undefined
    }
    if (!isApplied) this.#reducer.applyOutdatedAcquire(state, Math.min(cursor, position), value)
    await this.#waitUntilComplete(state)
    return position
  }

  /** Waits until the logs that a stream reads are complete. Rejects if none of them becomes complete within COMMAND_TIMEOUT; all together may take longer. */
  async #waitUntilComplete (state: SessionReplica): Promise<void> {
    while (state.epoch !== 0 && !state.isComplete) {
      const { incompleteLogCount } = state
      try {
        await withTimeout(new Promise<void>(resolve => { state.completeWaiters.push(resolve) }), COMMAND_TIMEOUT, LOGS_NOT_READ)
      } catch (error) {
        if (state.incompleteLogCount >= incompleteLogCount) throw error
      }
    }
  }
}
