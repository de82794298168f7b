import assert from 'node:assert/strict'
import type { Reuse, RunListener, RunOutcome, RunState, RunStore } from '../../../lib/index.js'
import { IdGenerator } from '../../../lib/wire/event-id.js'
import { waitUntil } from '../../support/wait.js'

/** One step; each kind uses the fields that it needs. */
export interface RunStep {
  readonly kind: 'start' | 'find' | 'append' | 'end' | 'follow' | 'unfollow' | 'disconnect'
  readonly name: number
  /** The node that executes the step. */
  readonly node: number
  readonly reader: number
  readonly reuse: Reuse
  /** Where a reader starts: `now`, or the number of entries of the run that it has received before. */
  readonly from: number | 'now'
}

/** Counts what happened in all histories, so that a test can assert that each case occurred. */
export interface RunCounts { entries: number, gaps: number, ends: number, removals: number }

interface ModelRun {
  readonly id: string
  readonly name: string
  readonly owner: number
  /** The positions of the entries. */
  readonly entries: number[]
  outcome: RunOutcome | undefined
}

interface Reader {
  readonly run: ModelRun
  readonly node: number
  readonly state: RunState
  readonly listener: RunListener
  /** The number of entries before its cursor. */
  readonly from: number
  /** The positions that it has received. */
  readonly received: number[]
  gaps: number
  ends: number
}

const ids = new IdGenerator()
let modelCount = 0

/**
 * Runs steps on the stores of several nodes and on a model of them. After every step, each reader must have received every
 * entry of its run after its cursor, in order, the end if there is one, and a gap if, and only if, the log was trimmed before.
 */
export class RunModel {
  readonly #stores: readonly RunStore[]
  readonly #maxEntries: number
  readonly #maxRuns: number
  readonly #counts: RunCounts
  readonly #disconnect: () => Promise<unknown>
  readonly #number = ++modelCount
  /** The runs that exist, in the order of their starts, and those that have ended, in the order of their ends. */
  readonly #runs: ModelRun[] = []
  readonly #ended: ModelRun[] = []
  readonly #readers: Array<Reader | undefined> = []

  constructor (stores: readonly RunStore[], maxEntries: number, maxRuns: number, counts: RunCounts, disconnect: () => Promise<unknown>) {
    this.#stores = stores
    this.#maxEntries = maxEntries
    this.#maxRuns = maxRuns
    this.#counts = counts
    this.#disconnect = disconnect
  }

  async run (steps: Iterable<RunStep>): Promise<void> {
    try {
      for (const step of steps) {
        await this.#execute(step)
        for (const reader of this.#readers) if (reader !== undefined) await this.#check(reader)
      }
    } finally {
      for (const reader of this.#readers) if (reader !== undefined) this.#unfollow(reader)
      for (const run of this.#runs) if (run.outcome === undefined) await this.#end(run, 0)
    }
  }

  #store (node: number): RunStore {
    return this.#stores[node % this.#stores.length] as RunStore
  }

  /** The newest run with a name. */
  #newest (name: string): ModelRun | undefined {
    return this.#runs.findLast(run => run.name === name)
  }

  async #state (run: ModelRun, node: number): Promise<RunState> {
    const state = await this.#store(node).findById(run.id)
    if (state === undefined) throw new Error('A run that is kept is not found')
    assert.deepEqual(state.outcome, run.outcome)
    return state
  }

  async #execute ({ kind, name: number, node, reader: index, reuse, from }: RunStep): Promise<void> {
    const name = `${number} of ${this.#number}`
    const run = this.#newest(name)
    const reader = this.#readers[index]
    if (kind === 'start') await this.#start(name, node, reuse)
    else if (kind === 'disconnect') await this.#disconnect()
    else if (kind === 'unfollow' && reader !== undefined) {
      this.#unfollow(reader)
      this.#readers[index] = undefined
    } else if (kind === 'find') {
      const state = await this.#store(node).find(name, undefined)
      assert.equal(state?.id, run?.id)
      assert.deepEqual(state?.outcome, run?.outcome)
    } else if (run !== undefined) {
      if (kind === 'append') await this.#append(run)
      else if (kind === 'end') await this.#end(run, node)
      else if (kind === 'follow' && reader === undefined) await this.#follow(run, node, index, from)
    }
  }

  async #start (name: string, node: number, reuse: Reuse): Promise<void> {
    const existing = this.#newest(name)
    const input = { id: ids.next(), name, principal: undefined, fingerprint: undefined, keep: 60_000 }
    const started = (async () => await this.#store(node).start(input, reuse))()
    if (existing !== undefined && existing.outcome === undefined && reuse === 'never') return await assert.rejects(started, { code: 'FST_SSE_RUN_EXISTS' })
    const state = await started
    if (existing !== undefined && (existing.outcome === undefined || reuse === 'kept')) return assert.equal(state?.id, existing.id)
    if (this.#runs.length === this.#maxRuns) {
      const oldest = this.#ended.shift()
      if (oldest === undefined) return assert.equal(state, undefined)
      this.#runs.splice(this.#runs.indexOf(oldest), 1)
      assert.equal(await this.#store(node + 1).findById(oldest.id), undefined)
      this.#counts.removals++
    }
    assert.equal(state?.id, input.id)
    this.#runs.push({ id: input.id, name, owner: node, entries: [], outcome: undefined })
  }

  async #append (run: ModelRun): Promise<void> {
    const store = this.#store(run.owner)
    const state = await this.#state(run, run.owner)
    const appended = (async () => { await store.append(state, { frame: 'data: 1\n\n' }) })()
    if (run.outcome !== undefined) return await assert.rejects(appended, { code: 'FST_SSE_RUN_OVER' })
    await appended
    // `append` does not return the position, so it is read from the cursor of a new reader.
    const listener: RunListener = { onAppend: () => {}, onEnd: () => {}, onAbort: () => {} }
    const source = await store.follow(state, Infinity, listener)
    run.entries.push(source?.cursor ?? 0)
    store.unfollow(state, listener)
  }

  async #end (run: ModelRun, node: number): Promise<void> {
    const state = await this.#state(run, node)
    const isFirst = run.outcome === undefined
    const outcome: RunOutcome = { status: 'stopped', reason: `by ${node}` }
    assert.equal(await this.#store(node).end(state, outcome), isFirst)
    if (!isFirst) return
    run.outcome = outcome
    this.#ended.push(run)
    assert.deepEqual(state.outcome, outcome)
    assert.ok(state.endPosition > (run.entries.at(-1) ?? state.startPosition))
  }

  async #follow (run: ModelRun, node: number, index: number, start: RunStep['from']): Promise<void> {
    const state = await this.#state(run, node)
    const from = start === 'now' ? run.entries.length : Math.min(start, run.entries.length)
    const cursor = start === 'now' ? Infinity : run.entries[from - 1] ?? state.startPosition
    let position = Infinity
    const write = (): void => {
      const log = source?.log
      if (!state.canWrite || log === undefined || reader.ends > 0) return
      if (log.trimmedPosition > position) {
        reader.gaps++
        this.#counts.gaps++
        position = log.trimmedPosition
      }
      for (let next = log.nextPosition(position); next !== Infinity; next = log.nextPosition(next)) {
        reader.received.push(next)
        position = next
        this.#counts.entries++
      }
      if (state.outcome === undefined) return
      reader.ends++
      this.#counts.ends++
    }
    // Streams write later than the listener is called.
    const listener: RunListener = { onAppend: () => { setImmediate(write) }, onEnd: () => { setImmediate(write) }, onAbort: () => {} }
    const reader: Reader = { run, node, state, listener, from, received: [], gaps: 0, ends: 0 }
    const source = await this.#store(node).follow(state, cursor, listener)
    assert.equal(source?.cursor, run.entries[from - 1] ?? state.startPosition)
    position = source?.cursor ?? 0
    this.#readers[index] = reader
    write()
  }

  #unfollow ({ node, state, listener }: Reader): void {
    this.#store(node).unfollow(state, listener)
  }

  async #check ({ run, from, received, state, ...reader }: Reader): Promise<void> {
    const current = (): Reader | undefined => this.#readers.find(other => other?.received === received)
    const first = received[0]
    // The number of entries that were trimmed before the first one that it has received, or that the log cannot keep.
    const trimmed = first === undefined ? Math.max(0, run.entries.length - this.#maxEntries) : run.entries.indexOf(first)
    const expected = run.entries.slice(Math.max(from, trimmed))
    await waitUntil(() => received.length >= expected.length && current()?.ends === (run.outcome === undefined ? 0 : 1), `the entries ${expected.join()} on node ${reader.node}; there are ${received.join()}`, 5000)
    assert.deepEqual(received, expected)
    assert.equal(current()?.gaps, trimmed > from ? 1 : 0)
    assert.deepEqual(state.outcome, run.outcome)
  }
}
