import { RunState, type RunInput, type RunListener, type RunOutcome } from '../../run-state.js'
import type { LogReader, LogReplica } from './log-replica.js'
import type { WriteGuard } from './session-replica.js'

/** The state of a run in this process, and, while it has readers in this process, what they read. */
export class RunReplica extends RunState implements LogReader {
  /** The readers in this process. `listeners` also has the producer. */
  readonly readers = new Set<RunListener>()
  /** The copy of the log, while there are readers. */
  replica: LogReplica | undefined
  /** At most 1, because a run has one log. */
  incompleteLogCount = 0
  completedLogCount = 0
  /** Whether Redis does not have the run any more. */
  isRemoved = false
  /** Are called when the replica is complete. */
  readonly completeWaiters: Array<() => void> = []
  /** Set while this process is the producer of a run that can be restarted. Appends with an earlier term are refused. */
  ownership: RunOwnership | undefined
  readonly #guard: Pick<WriteGuard, 'isFenced'>

  constructor ({ input, startPosition }: RunRecord, guard: Pick<WriteGuard, 'isFenced'>) {
    super(input, startPosition)
    this.#guard = guard
  }

  override get canWrite (): boolean {
    return this.isComplete && !this.#guard.isFenced
  }

  /** Whether the log in this process contains everything that the readers read. */
  get isComplete (): boolean {
    return this.incompleteLogCount === 0
  }

  /** Marks the run as ended, unless it is. The readers end when the replica is complete. */
  markEnded (outcome: RunOutcome, endPosition: number): void {
    if (this.outcome !== undefined) return
    this.outcome = outcome
    this.endPosition = endPosition
    for (const listener of [...this.listeners]) listener.onEnd()
  }

  /** Marks the run as ended, if it is according to its record, and stops the producer if it was released or restarted. */
  apply ({ outcome, endPosition, owner, term }: RunRecord): void {
    if (outcome !== undefined) this.markEnded(outcome, endPosition)
    else if (this.ownership !== undefined && (owner !== this.ownership.owner || term !== this.ownership.term)) this.stopProducer()
  }

  /** The run continues without the producer of this process. */
  stopProducer (): void {
    this.ownership = undefined
    for (const listener of [...this.listeners]) if (!this.readers.has(listener)) listener.onAbort()
  }
}

/** The node that produces a run, and the number of its last restart, or `0`. */
export interface RunOwnership {
  readonly owner: string
  readonly term: string
}

/** What Redis has of a run. */
export interface RunRecord extends RunOwnership {
  readonly input: RunInput
  readonly startPosition: number
  readonly outcome: RunOutcome | undefined
  readonly endPosition: number
}

/** Parses the fields of a run that commands return; `undefined` if the run does not exist. */
export function parseRunRecord (fields: unknown): RunRecord | undefined {
  const [input, startPosition, outcome, endPosition, owner, term] = fields as ReadonlyArray<string | null>
  if (typeof input !== 'string') return undefined
  return {
    input: JSON.parse(input) as RunInput,
    startPosition: Number(startPosition),
    outcome: typeof outcome === 'string' ? JSON.parse(outcome) as RunOutcome : undefined,
    endPosition: Number(endPosition),
    owner: String(owner),
    term: term ?? '0'
  }
}
