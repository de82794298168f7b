import { noop } from '../../awaitable.js'
import { StoreUnavailable } from '../../errors.js'
import { now } from '../../clock.js'
import type { SessionListener } from '../session-state.js'
import type { CommandQueue } from './command-queue.js'
import { COMMAND_TIMEOUT, LOGS_NOT_READ, withTimeout } from './connection.js'
import type { Inbox } from './replica/inbox.js'
import type { LogPart } from './replica/log-replica.js'
import type { Reducer } from './replica/reducer.js'
import type { SessionReplica } from './replica/session-replica.js'

// Maximum number of sessions, and of channels, that one command renews.
const MAX_PER_COMMAND = 200
// Milliseconds between the recorded times at which a timer has run, and the number of these times that are kept.
const TIME_INTERVAL = 100
const MAX_TIMES = 600

/** Acquires, renews and releases the right of this process to stream sessions. */
export class StreamOwnership {
  readonly #commandQueue: CommandQueue
  readonly #inbox: Inbox
  readonly #reducer: Reducer
  readonly #renewInterval: number
  /** Sessions that clients are opening or resuming: they have no stream in this process yet, and must not expire. */
  readonly #requested = new Set<SessionReplica>()
  #renewedAt = now()
  /** Times at which timers ran, the oldest first. */
  readonly #times: number[] = []
  #timer: NodeJS.Timeout | undefined

  constructor (commandQueue: CommandQueue, inbox: Inbox, reducer: Reducer, resumeTimeout: number) {
    this.#commandQueue = commandQueue
    this.#inbox = inbox
    this.#reducer = reducer
    this.#renewInterval = resumeTimeout / 4
  }

  start (): void {
    // Twice, because `#earliestArrival` uses the last but one time. No request is read before.
    this.recordTime()
    this.recordTime()
    this.#timer = setInterval(() => { this.recordTime() }, TIME_INTERVAL).unref()
  }

  /** Called by a timer. */
  recordTime (): void {
    if (this.#times.push(now()) > MAX_TIMES) this.#times.shift()
  }

  stop (): void {
    clearInterval(this.#timer)
  }

  /** Prevents a session from expiring before `detach`, while this process has a lease. */
  retain (state: SessionReplica): void {
    this.#requested.add(state)
  }

  attach (state: SessionReplica, cursor: number, requestedAt: number): Promise<number | undefined> {
    return this.#afterAttach(state, () => this.#attach(state, cursor, requestedAt))
  }

  detach (state: SessionReplica): void {
    const { cursor } = state
    const detach = (): void => {
      const { epoch } = state
      this.#requested.delete(state)
      this.#reducer.detach(state)
      this.#commandQueue.executeInBackground('release', state.id, epoch === 0 ? '' : epoch, cursor)
    }
    // The reply to a pending `acquire` must not be applied after the release.
    if (state.pendingAttach === undefined) detach()
    else this.#afterAttach(state, async () => { detach() })
  }

  /** Stores how far the stream of a session has written, for other nodes. */
  commitCursor (state: SessionReplica): void {
    this.#commandQueue.executeInBackground('commit_cursor', state.id, state.epoch, (state.listener as SessionListener).cursor)
  }

  /** Prevents sessions from expiring that have a stream in this process or are requested, if it is time to. */
  renew (): void {
    if (now() - this.#renewedAt < this.#renewInterval) return
    this.#renewedAt = now()
    const sessions = [...this.#reducer.attached.values(), ...this.#requested].map(({ id, epoch }) => [id, epoch] as const)
    this.#renew(sessions, [...this.#reducer.channels.keys()]).catch(noop)
  }

  async #renew (sessions: ReadonlyArray<readonly [id: string, epoch: number]>, channels: readonly string[]): Promise<void> {
    for (let from = 0; from < Math.max(sessions.length, channels.length); from += MAX_PER_COMMAND) {
      const chunk = sessions.slice(from, from + MAX_PER_COMMAND)
      await this.#commandQueue.execute('renew', chunk.length, ...chunk.flat(), ...channels.slice(from, from + MAX_PER_COMMAND))
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
    const earliest = this.#earliestArrival(requestedAt)
    const { value, position, isApplied } = await this.#inbox.execute<LogPart | 'outdated' | null>('acquire', [state.id, cursor, Math.floor(earliest * 1000 + clockOffset - clockError), Math.ceil(requestedAt * 1000 + clockOffset + clockError)], (part, position) => {
      // If Redis has lost data, the cursor of a client can be after the newest position.
      if (part !== null && part !== 'outdated') this.#reducer.applyAcquire(state, Math.min(cursor, position), part)
    }).catch((error: unknown) => {
      // It may have been executed. Then Redis does not accept the epoch of an earlier stream any more, which has to end.
      this.#reducer.invalidateStream(state)
      throw error
    })
    if (value === 'outdated') throw new StoreUnavailable()
    if (value === null) {
      this.#reducer.removeSession(state)
      return undefined
    }
    this.#requested.delete(state)
    if (!isApplied) this.#reducer.applyOutdatedAcquire(state, Math.min(cursor, position), value)
    await this.#waitUntilComplete(state)
    return position
  }

  /**
   * The earliest time at which a request can have arrived. `requestedAt` is the time at which Node has read it: while the event loop is
   * blocked, or the process is paused, requests wait. At most one timer runs between the arrival and the read, so the request has arrived after the last but one recorded time.
   */
  #earliestArrival (requestedAt: number): number {
    const index = this.#times.findLastIndex(time => time <= requestedAt)
    // If it is older than all times, nothing is known.
    return this.#times[index - 1] ?? 0
  }

  /** Waits until the logs that a stream reads are complete. Rejects if none of them becomes complete within COMMAND_TIMEOUT; all together may take longer. */
  async #waitUntilComplete (state: SessionReplica): Promise<void> {
    let complete: Promise<void> | undefined
    while (state.epoch !== 0 && !state.isComplete) {
      const { completedLogCount } = state
      complete ??= new Promise(resolve => {
        state.completeWaiters.push(() => {
          complete = undefined
          resolve()
        })
      })
      try {
        await withTimeout(complete, COMMAND_TIMEOUT, LOGS_NOT_READ)
      } catch (error) {
        if (state.completedLogCount === completedLogCount) throw error
      }
    }
  }
}
