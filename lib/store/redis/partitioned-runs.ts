import type { Awaitable } from '../../awaitable.js'
import { RunUnknown } from '../../errors.js'
import type { EntryInput } from '../../log/log.js'
import type { RunInput, RunListener, RunOutcome, RunState } from '../run-state.js'
import type { Reuse, RunSource, RunStore } from '../run-store.js'
import { partitionOf } from './hash-slot.js'
import type { RedisRuns } from './runs.js'

/** Distributes runs to partitions by principal and name, because these are unique. The run of a delivery is in the partition of its session. */
export class PartitionedRuns implements RunStore {
  readonly #partitions: readonly RedisRuns[]
  readonly #owners = new WeakMap<RunState, RedisRuns>()

  constructor (partitions: readonly RedisRuns[]) {
    this.#partitions = partitions
  }

  start (input: RunInput, reuse: Reuse): Promise<RunState | undefined> {
    const partition = this.#partitionFor(input.name, input.principal, input.delivery?.sessionId)
    return this.#own(partition, partition.start(input, reuse))
  }

  find (name: string, principal: string | undefined, sessionId?: string): Promise<RunState | undefined> {
    const partition = this.#partitionFor(name, principal, sessionId)
    return this.#own(partition, partition.find(name, principal))
  }

  async findById (id: string): Promise<RunState | undefined> {
    // It can be in any partition. If it is in one, the others need not be available.
    const found = this.#partitions.map(partition => this.#own(partition, partition.findById(id)))
    try {
      return await Promise.any(found.map(async run => await run ?? Promise.reject(new RunUnknown())))
    } catch {
      // Rejects if a partition is unavailable: the run may be there.
      await Promise.all(found)
      return undefined
    }
  }

  append (run: RunState, entry: EntryInput): Awaitable<void> {
    return this.#ownerOf(run).append(run, entry)
  }

  end (run: RunState, outcome: RunOutcome): Awaitable<boolean> {
    return this.#ownerOf(run).end(run, outcome)
  }

  follow (run: RunState, cursor: number, listener: RunListener): Awaitable<RunSource | undefined> {
    return this.#ownerOf(run).follow(run, cursor, listener)
  }

  unfollow (run: RunState, listener: RunListener): void {
    this.#ownerOf(run).unfollow(run, listener)
  }

  handleRestarts (producers: ReadonlySet<string>, onRestart: (run: RunState) => void): void {
    for (const partition of this.#partitions) {
      partition.handleRestarts(producers, run => {
        this.#owners.set(run, partition)
        onRestart(run)
      })
    }
  }

  release (run: RunState): Promise<void> {
    return this.#ownerOf(run).release(run)
  }

  #partitionFor (name: string, principal: string | undefined, sessionId = JSON.stringify([principal, name])): RedisRuns {
    return this.#partitions[partitionOf(sessionId, this.#partitions.length)] as RedisRuns
  }

  #ownerOf (run: RunState): RedisRuns {
    return this.#owners.get(run) as RedisRuns
  }

  /** Records to which partition a run belongs. */
  async #own (partition: RedisRuns, found: Awaitable<RunState | undefined>): Promise<RunState | undefined> {
    const run = await found
    if (run !== undefined) this.#owners.set(run, partition)
    return run
  }
}
