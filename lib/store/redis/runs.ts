import { noop } from '../../awaitable.js'
import { IdempotencyKeyReused, RunExists, RunOver, SessionOver, StoreUnavailable } from '../../errors.js'
import { assertFits, type EntryInput } from '../../log/log.js'
import { isSessionId } from '../../wire/event-id.js'
import type { RunInput, RunListener, RunOutcome, RunState } from '../run-state.js'
import type { Reuse, RunSource, RunStore } from '../run-store.js'
import type { StoreSettings } from '../store.js'
import { isNotExecuted, type Argument, type CommandQueue } from './command-queue.js'
import { COMMAND_TIMEOUT, LOGS_NOT_READ, withTimeout } from './connection.js'
import type { Inbox } from './replica/inbox.js'
import type { LogReplica } from './replica/log-replica.js'
import type { Reducer } from './replica/reducer.js'
import { parseRunRecord, type RunRecord, type RunReplica } from './replica/run-replica.js'
import type { CommandName } from './script.js'
import type { StateCache } from './state-cache.js'

interface Result {
  readonly run: RunReplica | undefined
  readonly record: RunRecord | undefined
  readonly value: unknown
}

/**
 * The runs in Redis. A run belongs to the node of its producer: only this node can append, and if its lease ends, another
 * node ends the run. The nodes that use the run are notified of its end, and those with readers of its entries, in their inboxes.
 */
export class RedisRuns implements RunStore {
  readonly cache: StateCache<RunReplica, RunRecord>
  readonly #settings: StoreSettings
  readonly #commandQueue: CommandQueue
  readonly #inbox: Inbox
  readonly #reducer: Reducer
  readonly #hasFencedHandler: (sessionId: string) => boolean
  /** The runs whose producers are in this process, by their ids; `undefined` for those that are being started. */
  readonly #producing = new Map<string, RunReplica | undefined>()
  /** The names of the producers of which this process can restart runs. */
  producers: ReadonlySet<string> = new Set()
  #onRestart: (run: RunState) => void = noop
  /** The ids of the runs that this node is about to restart. */
  readonly #restarting = new Set<string>()

  /** `hasFencedHandler`: whether a handler is running for a session that another node may run, too. */
  constructor (settings: StoreSettings, commandQueue: CommandQueue, inbox: Inbox, reducer: Reducer, cache: StateCache<RunReplica, RunRecord>, hasFencedHandler: (sessionId: string) => boolean) {
    this.#settings = settings
    this.#commandQueue = commandQueue
    this.#inbox = inbox
    this.#reducer = reducer
    this.cache = cache
    this.#hasFencedHandler = hasFencedHandler
  }

  async start (input: RunInput, reuse: Reuse): Promise<RunState | undefined> {
    const { id, fingerprint = '', keep, delivery, restart } = input
    const { sessionId = '', partPrefix = '', request = '' } = delivery ?? {}
    if (request !== '') {
      if (this.#hasFencedHandler(sessionId)) throw new StoreUnavailable()
      assertFits({ frame: request }, this.#settings.log)
    }
    // The request is in the log of the session, so the record of the run need not contain it.
    const json = JSON.stringify({ ...input, ...delivery !== undefined && { delivery: { ...delivery, request: undefined } } })
    this.#producing.set(id, undefined)
    const start = async (): Promise<Result> => {
      const result = await this.#execute('run_start', id, formatNameKey(input), json, fingerprint, keep, reuse, restart?.producer ?? '', ...delivery === undefined ? [] : [sessionId, partPrefix, request])
      return result.value === 'resend' ? await start() : result
    }
    const { run, value, record } = await start().catch((error: unknown) => {
      this.#producing.delete(id)
      if (!isNotExecuted(error)) this.#commandQueue.executeInBackground('run_cancel', id)
      throw error
    })
    if (run?.id !== id) this.#producing.delete(id)
    else {
      this.#producing.set(id, run)
      if (restart !== undefined) run.ownership = record
    }
    if (value === 'exists') throw new RunExists()
    if (value === 'reused') throw new IdempotencyKeyReused()
    if (value === 'session_over') throw new SessionOver()
    return run
  }

  async find (name: string, principal: string | undefined): Promise<RunState | undefined> {
    return (await this.#execute('run_find', 'name', formatNameKey({ name, principal }))).run
  }

  async findById (id: string): Promise<RunState | undefined> {
    // The id is part of a key.
    if (!isSessionId(id)) return undefined
    const { run } = await this.#execute('run_find', 'id', id)
    if (run === undefined) this.#verifyKnown(id)
    return run
  }

  async append (given: RunState, entry: EntryInput): Promise<void> {
    const { id, outcome, delivery, restart, ownership } = given as RunReplica
    if (outcome !== undefined || (restart !== undefined && ownership === undefined)) throw new RunOver()
    assertFits(entry, delivery === undefined ? this.#settings.runLog : this.#settings.log)
    // Without a deadline: the producer waits while Redis cannot be reached. If that lasts too long, another node ends the run.
    const reply = await this.#commandQueue.executeWithoutDeadline('append', 'run', id, entry.frame, '', ownership?.term ?? 0)
    if (reply === 'session_over') throw new SessionOver()
    if (reply === 'run_over') {
      // To find out how the run has ended.
      this.findById(id).catch(noop)
      throw new RunOver()
    }
    this.#reducer.highestPosition = Math.max(this.#reducer.highestPosition, Number(reply))
  }

  async end (given: RunState, outcome: RunOutcome): Promise<boolean> {
    const { id, restart, ownership } = given as RunReplica
    // Of a run that can be restarted, only the newest producer can report the end.
    const requiresTerm = restart !== undefined && outcome.status !== 'stopped'
    if (requiresTerm && ownership === undefined) return false
    const term = requiresTerm ? [String(ownership?.term)] : []
    try {
      const { run, value } = await this.#execute('run_end', id, JSON.stringify(outcome), ...term)
      if (run === undefined) this.#verifyKnown(id)
      return isExecuted(value)
    } catch (error) {
      // Another node may stop the run later, but nobody else ends a run whose producer has ended.
      if (outcome.status !== 'stopped' || this.#producing.has(id)) this.#endReliably(id, outcome, ...term)
      throw error
    }
  }

  async follow (given: RunState, cursor: number, listener: RunListener): Promise<RunSource | undefined> {
    const run = given as RunReplica
    // After this reply, `highestPosition` is at least the position of everything that was appended before the call.
    if (await this.findById(run.id) === undefined) return undefined
    run.readers.add(listener)
    run.listeners.add(listener)
    this.#reducer.runs.follow(run, Math.min(cursor, this.#reducer.highestPosition))
    try {
      if (!run.isComplete) await withTimeout(new Promise<void>(resolve => { run.completeWaiters.push(resolve) }), COMMAND_TIMEOUT, LOGS_NOT_READ)
    } catch (error) {
      this.unfollow(run, listener)
      throw error
    }
    if (run.isRemoved) {
      this.unfollow(run, listener)
      return undefined
    }
    const { log } = run.replica as LogReplica
    return { log, cursor: Math.min(cursor, Math.max(log.lastPosition, run.startPosition)) }
  }

  unfollow (given: RunState, listener: RunListener): void {
    const run = given as RunReplica
    run.readers.delete(listener)
    run.listeners.delete(listener)
  }

  handleRestarts (producers: ReadonlySet<string>, onRestart: (run: RunState) => void): void {
    this.producers = producers
    this.#onRestart = onRestart
  }

  async release (given: RunState): Promise<void> {
    const run = given as RunReplica
    this.#producing.delete(run.id)
    run.stopProducer()
    await this.#commandQueue.executeInBackground('run_release', run.id)
  }

  /** Makes this node the producer of runs that no node produces, unless another one is faster. */
  restart (ids: readonly string[]): void {
    for (const id of ids) {
      if (this.#restarting.has(id)) continue
      this.#restarting.add(id)
      this.#restart(id).catch(() => {
        // It may have been restarted.
        this.#commandQueue.executeInBackground('run_release', id)
      }).finally(() => { this.#restarting.delete(id) })
    }
  }

  async #restart (id: string): Promise<void> {
    const { run: state, record, value } = await this.#execute('run_restart', id)
    if (!isExecuted(value)) {
      // Redis may have lost that this node has released the run.
      if (record?.owner === this.#commandQueue.nodeId && !this.#producing.has(id)) this.#commandQueue.executeInBackground('run_release', id)
      return
    }
    const run = state as RunReplica
    // This node may have been its producer before it lost its lease.
    run.stopProducer()
    run.ownership = record
    this.#producing.set(id, run)
    this.#onRestart(run)
  }

  /** Drops the logs of runs without readers in this process. Removes the runs that it does not produce any more, and releases those whose producer was stopped. */
  prune (): void {
    const ids = this.#reducer.runs.prune()
    if (ids.length > 0) this.#commandQueue.executeInBackground('run_unfollow', ...ids)
    for (const [id, run] of this.#producing) {
      const isStopped = run?.restart !== undefined && run.ownership === undefined
      if (run?.outcome === undefined && !isStopped) continue
      this.#producing.delete(id)
      // Usually, the run belongs to another node already.
      if (isStopped) this.#commandQueue.executeInBackground('run_release', id)
    }
  }

  /** Redis has lost data: ends the runs that it still has for this node, but that have no producer any more, and get none. */
  reconcile (): void {
    this.prune()
    this.#commandQueue.executeInBackground('run_reconcile', ...new Set([...this.#producing.keys(), ...this.#restarting]))
  }

  /** Ends a run that has no producer any more, however late. */
  #endReliably (id: string, outcome: RunOutcome, ...term: readonly string[]): void {
    // The token 0 belongs to no command that waits for the reply.
    this.#commandQueue.executeInBackground('run_end', 0, id, JSON.stringify(outcome), ...term)
  }

  /** Executes a command that returns the record of a run. */
  async #execute (command: CommandName, ...args: Argument[]): Promise<Result> {
    let run: RunReplica | undefined
    let record: RunRecord | undefined
    const apply = (value: unknown): void => {
      record = typeof value === 'string' ? undefined : parseRunRecord(value)
      if (record === undefined) return
      run = this.cache.getOrCreate(record.input.id, record)
      run.apply(record)
    }
    const { value, isApplied } = await this.#inbox.execute<unknown>(command, args, apply)
    if (!isApplied) {
      apply(value)
      // Its end, or entries before it, may have been missed.
      if (run !== undefined) this.#reducer.runs.invalidate(run)
    }
    return { run, record, value }
  }

  /** Redis does not have a run. Reads it again, so that its readers and its producer end if it is in use in this process. */
  #verifyKnown (id: string): void {
    const run = this.cache.get(id)
    if (run !== undefined) this.#reducer.runs.invalidate(run)
  }
}

/** Whether a command that can end or restart a run has done that. */
function isExecuted (value: unknown): boolean {
  return Number((value as readonly unknown[])[6]) === 1
}

/** Formats a principal and a name as one text. */
function formatNameKey ({ name, principal }: Pick<RunInput, 'name' | 'principal'>): string {
  return JSON.stringify([principal, name])
}
