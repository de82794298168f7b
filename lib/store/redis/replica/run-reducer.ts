import type { LogBounds } from '../../../log/log.js'
import type { RunOutcome } from '../../run-state.js'
import { splitFirst, type LogReducer, type LogReducerListener } from './log-reducer.js'
import { LogReplica, parseEntry, type LogPart } from './log-replica.js'
import { parseRunRecord, type RunReplica } from './run-replica.js'

/** The runs that are in use in this process. */
export interface KnownRuns {
  get (id: string): RunReplica | undefined
}

/** Applies what happens to runs. */
export class RunReducer {
  /** The runs that have readers in this process. */
  readonly followed = new Map<string, RunReplica>()
  readonly #logs: LogReducer
  readonly #known: KnownRuns
  readonly #bounds: LogBounds
  readonly #listener: LogReducerListener

  constructor (logs: LogReducer, known: KnownRuns, bounds: LogBounds, listener: LogReducerListener) {
    this.#logs = logs
    this.#known = known
    this.#bounds = bounds
    this.#listener = listener
  }

  /** Lets the readers of a run read its log after a position. */
  follow (run: RunReplica, position: number): void {
    if (run.replica === undefined) {
      run.replica = new LogReplica('run', run.id, this.#bounds)
      run.replica.log.markTrimmed(this.#logs.rollbackPosition, 'store')
      this.followed.set(run.id, run)
    }
    this.#logs.addReader(run.replica, run, position)
  }

  /** What is known of a run may be out of date: it has to be read again before its readers continue. */
  invalidate (run: RunReplica): void {
    if (run.replica === undefined) this.#logs.unverified.add(run)
    else {
      run.replica.invalidate()
      this.#logs.incomplete.add(run.replica)
    }
    this.#listener.onIncomplete()
  }

  /** Drops the replicas of runs that have no readers. Returns their ids. */
  prune (): string[] {
    const pruned = [...this.followed.values()].filter(({ readers }) => readers.size === 0)
    for (const run of pruned) {
      const replica = run.replica as LogReplica
      replica.removeReader(run)
      run.replica = undefined
      this.followed.delete(run.id)
      this.#logs.incomplete.delete(replica)
      // While the log is not live, an end is ignored, because the next read of the log shows it. This log is not read any more, so the
      // run itself is checked: its producer may be in this process.
      if (!replica.isLive && run.outcome === undefined) this.invalidate(run)
    }
    return pruned.map(({ id }) => id)
  }

  /** Applies a notification of the inbox. */
  applyNotification (id: string, kind: string, text: string): void {
    const run = this.#known.get(id)
    if (run === undefined) return
    const { replica } = run
    if (kind === 'run_entry') {
      if (replica !== undefined) this.#logs.append(replica, parseEntry(text, 0))
      return
    }
    if (kind !== 'run_ended') return
    const [last, rest] = splitFirst(text)
    const [endPosition, outcome] = splitFirst(rest)
    this.#logs.advanceTo(Number(endPosition))
    // While the log is not complete, it has to be read, which shows the end.
    if (replica?.isLive === false) return
    if (replica !== undefined && Number(last) > replica.log.lastPosition) this.#listener.onMissedPublication()
    else run.markEnded(JSON.parse(outcome) as RunOutcome, Number(endPosition))
  }

  /** Applies what was read of the log of a run after a position. */
  applyRead (replica: LogReplica, after: number, part: LogPart): void {
    const run = this.followed.get(replica.name)
    if (run?.replica !== replica) return
    const record = parseRunRecord(part[5])
    if (record === undefined) this.#remove(run)
    else {
      replica.add(part, after, this.#logs.clockOffset)
      if (replica.isLive) run.apply(record)
    }
    this.#logs.releaseReaders(replica)
  }

  /** Applies the record of a run without readers. */
  applyRecord (run: RunReplica, fields: unknown): void {
    if (run.replica !== undefined) return
    const record = parseRunRecord(fields)
    if (record === undefined) this.#remove(run)
    else run.apply(record)
  }

  /** Ends a run that the store does not have any more. What its readers have not received is lost. */
  #remove (run: RunReplica): void {
    const { replica, outcome } = run
    run.isRemoved = true
    // At most the position before the end, if that is known.
    const position = Math.min(Math.max(this.#logs.highestPosition, replica?.log.lastPosition ?? 0), run.endPosition - 1)
    replica?.add([String(position), String(position), outcome === undefined ? 'store' : 'age', [], 0], replica.missingRange[0], this.#logs.clockOffset)
    run.markEnded({ status: 'lost' }, position + 1)
  }
}
