import { IdempotencyKeyReused, RunExists, RunOver, SessionOver } from '../../errors.js'
import { Log, type EntryInput } from '../../log/log.js'
import { RunState, type RunInput, type RunListener, type RunOutcome } from '../run-state.js'
import type { Reuse, RunSource, RunStore } from '../run-store.js'
import type { StoreSettings } from '../store.js'
import { framePartEnd } from '../../wire/frame.js'
import type { MemoryLimit } from './memory-limit.js'
import type { MemoryLogs } from './memory-logs.js'

/** A run in the memory store. */
class MemoryRun extends RunState {
  readonly log: Log
  /** Removes the run `keep` milliseconds after its end. */
  timer: NodeJS.Timeout | undefined

  constructor (input: RunInput, startPosition: number, createLog: (run: MemoryRun) => Log) {
    super(input, startPosition)
    this.log = createLog(this)
  }
}

/** The runs of a memory store. */
export class MemoryRuns implements RunStore {
  readonly #settings: StoreSettings
  readonly #logs: MemoryLogs
  readonly #limit: MemoryLimit
  /** Appends to the log of a session if it is open. Returns whether it is. */
  readonly #sendTo: (sessionId: string, entry: EntryInput) => boolean
  readonly #byId = new Map<string, MemoryRun>()
  /** The newest run with each name and principal. */
  readonly #byName = new Map<string, MemoryRun>()
  /** The runs that have ended, in the order of their ends. */
  readonly #ended = new Set<MemoryRun>()
  /** Number of runs in `#byId` that belong to deliveries. */
  #deliveryCount = 0

  constructor (settings: StoreSettings, logs: MemoryLogs, limit: MemoryLimit, sendTo: (sessionId: string, entry: EntryInput) => boolean) {
    this.#settings = settings
    this.#logs = logs
    this.#limit = limit
    this.#sendTo = sendTo
  }

  start (input: RunInput, reuse: Reuse): RunState | undefined {
    const key = formatNameKey(input)
    const existing = this.#byName.get(key)
    if (existing !== undefined && (existing.outcome === undefined || reuse === 'kept')) {
      if (reuse === 'never') throw new RunExists()
      if (existing.fingerprint !== input.fingerprint) throw new IdempotencyKeyReused()
      return existing
    }
    const { delivery } = input
    if (delivery?.request !== undefined && !this.#sendTo(delivery.sessionId, { frame: delivery.request })) throw new SessionOver()
    if (delivery !== undefined) this.#deliveryCount++
    else if (!this.#makeRoom()) return undefined
    const run = new MemoryRun(input, this.#logs.newestPosition, run => new Log(this.#settings.runLog, run, log => { this.#limit.update(log) }))
    this.#byId.set(run.id, run)
    this.#byName.set(key, run)
    return run
  }

  find (name: string, principal: string | undefined): RunState | undefined {
    return this.#byName.get(formatNameKey({ name, principal }))
  }

  findById (id: string): RunState | undefined {
    return this.#byId.get(id)
  }

  append (run: MemoryRun, entry: EntryInput): void {
    if (run.outcome !== undefined) throw new RunOver()
    if (run.delivery !== undefined) {
      if (!this.#sendTo(run.delivery.sessionId, entry)) throw new SessionOver()
      return
    }
    this.#logs.append(run.log, entry)
    this.#limit.enforce()
  }

  end (run: MemoryRun, outcome: RunOutcome): boolean {
    if (run.outcome !== undefined) return false
    run.outcome = outcome
    run.endPosition = ++this.#logs.newestPosition
    if (run.delivery === undefined) {
      this.#ended.add(run)
      run.timer = setTimeout(() => { this.#remove(run) }, run.keep).unref()
    } else {
      this.#deliveryCount--
      this.#remove(run)
    }
    for (const listener of [...run.listeners]) listener.onEnd()
    const { sessionId, partPrefix } = run.delivery ?? {}
    if (sessionId !== undefined && partPrefix !== undefined) this.#sendTo(sessionId, { frame: framePartEnd(partPrefix, outcome) })
    return true
  }

  follow (run: MemoryRun, cursor: number, listener: RunListener): RunSource | undefined {
    if (!this.#byId.has(run.id)) return undefined
    run.listeners.add(listener)
    return { log: run.log, cursor: Math.min(cursor, Math.max(run.log.lastPosition, run.startPosition)) }
  }

  unfollow (run: MemoryRun, listener: RunListener): void {
    run.listeners.delete(listener)
    this.#releaseIfUnused(run)
  }

  close (): void {
    for (const { timer } of this.#ended) clearTimeout(timer)
  }

  /** Makes room for one more run, if necessary and possible. */
  #makeRoom (): boolean {
    if (this.#byId.size - this.#deliveryCount < this.#settings.maxRuns) return true
    const [oldest] = this.#ended
    if (oldest !== undefined) this.#remove(oldest)
    return oldest !== undefined
  }

  #remove (run: MemoryRun): void {
    clearTimeout(run.timer)
    const key = formatNameKey(run)
    this.#byId.delete(run.id)
    if (this.#byName.get(key) === run) this.#byName.delete(key)
    this.#ended.delete(run)
    this.#releaseIfUnused(run)
  }

  /** Frees the log of a run that was removed, when its last reader has received the rest. */
  #releaseIfUnused (run: MemoryRun): void {
    if (run.listeners.size === 0 && !this.#byId.has(run.id)) this.#logs.release(run.log)
  }
}

/** Formats a principal and a name as one text. */
function formatNameKey ({ name, principal }: Pick<RunInput, 'name' | 'principal'>): string {
  return JSON.stringify([principal, name])
}
