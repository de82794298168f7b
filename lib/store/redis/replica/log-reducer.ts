import { TrimGuard } from '../../trim-guard.js'
import type { LogReader, LogReplica, PublishedEntry } from './log-replica.js'
import type { RunReplica } from './run-replica.js'
import type { SessionReplica } from './session-replica.js'

export interface LogReducerListener {
  /** A publication was missed. */
  onMissedPublication (): void
  /** A log has to be read. */
  onIncomplete (): void
}

/** What the logs of sessions, of channels and of runs have in common: the positions, and which of them have to be read. */
export class LogReducer {
  /** The replicas that have to be read. */
  readonly incomplete = new Set<LogReplica>()
  /** Sessions and runs that this process uses without reading them, and that may have changed unnoticed. */
  readonly unverified = new Set<SessionReplica | RunReplica>()
  /** The position up to which everything was applied. */
  position = 0
  /** The newest position of the store that this process has received. */
  highestPosition = 0
  /** Entries up to this position may have been lost by the store. */
  rollbackPosition = 0
  /** The clock of Redis minus the clock of this process, in microseconds. */
  clockOffset = 0
  protected readonly trimGuard = new TrimGuard()
  readonly #listener: LogReducerListener

  constructor (listener: LogReducerListener) {
    this.#listener = listener
  }

  append (replica: LogReplica, entry: PublishedEntry): void {
    // A publication that cannot be parsed may have been an entry. The read that follows shows it.
    if (Number.isNaN(entry.previous + entry.position)) {
      this.#listener.onMissedPublication()
      return
    }
    if (replica.isLive) this.trimGuard.beforeAppend(replica.log, entry, this.position)
    if (!replica.append(entry)) this.#listener.onMissedPublication()
    this.advanceTo(entry.position)
  }

  advanceTo (position: number): void {
    this.position = Math.max(this.position, position)
    this.highestPosition = Math.max(this.highestPosition, position)
  }

  addReader (replica: LogReplica, reader: LogReader, position: number): void {
    replica.addReader(reader, position)
    if (!replica.isIncomplete) return
    this.incomplete.add(replica)
    this.#listener.onIncomplete()
  }

  /** Lets the readers continue for which a replica is complete. */
  releaseReaders (replica: LogReplica): void {
    if (!replica.isIncomplete) this.incomplete.delete(replica)
    if (!replica.isLive) return
    replica.log.markTrimmed(this.rollbackPosition, 'store')
    for (const [reader, position] of replica.waitingReaders) {
      if (!replica.covers(position)) continue
      replica.release(reader)
      this.continueIfComplete(reader as SessionReplica | RunReplica)
    }
  }

  protected continueIfComplete (reader: SessionReplica | RunReplica): void {
    if (!reader.isComplete) return
    reader.onAppend()
    runAll(reader.completeWaiters)
  }
}

/** Splits a text at its first space. */
export function splitFirst (text: string): [first: string, rest: string] {
  const space = text.indexOf(' ')
  return space === -1 ? [text, ''] : [text.slice(0, space), text.slice(space + 1)]
}

/** Removes all callbacks, and calls them. */
export function runAll (callbacks: Array<() => void>): void {
  for (const callback of callbacks.splice(0)) callback()
}
