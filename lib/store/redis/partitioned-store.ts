import type { Awaitable } from '../../awaitable.js'
import type { EntryInput } from '../../log/log.js'
import { IdGenerator } from '../../wire/event-id.js'
import type { MessageQueue } from '../message-queue.js'
import type { RunStore } from '../run-store.js'
import type { SessionData, SessionState } from '../session-state.js'
import type { JoinResult, Store, StoreStats } from '../store.js'
import { partitionOf } from './hash-slot.js'
import { PartitionedRuns } from './partitioned-runs.js'
import type { RedisStore } from './redis-store.js'

/**
 * Distributes sessions and runs to partitions. Each is a complete store, so positions of different partitions are never
 * compared, and a partition that is unavailable does not affect the sessions of the others. What is sent to a channel, or to
 * all sessions, is appended in every partition.
 */
export class PartitionedStore implements Store {
  readonly runs: RunStore
  readonly #partitions: readonly RedisStore[]
  readonly #close: () => Promise<void>
  readonly #ids = new IdGenerator()

  constructor (partitions: readonly RedisStore[], close: () => Promise<void>) {
    this.#partitions = partitions
    this.#close = close
    this.runs = new PartitionedRuns(partitions.map(({ runs }) => runs))
  }

  open (id: string, principal: string | undefined): Promise<SessionState | undefined> {
    // All sessions of a principal are in one partition, because it limits their number.
    const partition = this.#partitionOf(principal ?? id)
    while (this.#partitionOf(id) !== partition) id = this.#ids.next()
    return partition.open(id, principal)
  }

  find (id: string): Promise<SessionState | undefined> {
    return this.#partitionOf(id).find(id)
  }

  findCached (id: string): Awaitable<SessionState | undefined> {
    return this.#partitionOf(id).findCached(id)
  }

  findByPrincipal (principal: string): Promise<readonly SessionState[]> {
    return this.#partitionOf(principal).findByPrincipal(principal)
  }

  cancelExpiry (state: SessionState): void {
    this.#partitionOf(state.id).cancelExpiry(state)
  }

  attach (state: SessionState, cursor: number, requestedAt: number): Promise<number | undefined> {
    return this.#partitionOf(state.id).attach(state, cursor, requestedAt)
  }

  detach (state: SessionState): void {
    this.#partitionOf(state.id).detach(state)
  }

  authorize (state: SessionState, until: number): Promise<void> {
    return this.#partitionOf(state.id).authorize(state, until)
  }

  update (state: SessionState, change: SessionData): Promise<void> {
    return this.#partitionOf(state.id).update(state, change)
  }

  join (state: SessionState, channel: string, history: number): Promise<JoinResult> {
    return this.#partitionOf(state.id).join(state, channel, history)
  }

  leave (state: SessionState, channel: string): Promise<boolean> {
    return this.#partitionOf(state.id).leave(state, channel)
  }

  end (state: SessionState, reason: string, keep: boolean, ifUnauthorizedAt?: number): Promise<boolean> {
    return this.#partitionOf(state.id).end(state, reason, keep, ifUnauthorizedAt)
  }

  send (state: SessionState, entry: EntryInput): Promise<void> {
    return this.#partitionOf(state.id).send(state, entry)
  }

  async publish (channel: string, entry: EntryInput, keep: number): Promise<void> {
    await Promise.all(this.#partitions.map(partition => partition.publish(channel, entry, keep)))
  }

  async broadcast (entry: EntryInput): Promise<void> {
    await Promise.all(this.#partitions.map(partition => partition.broadcast(entry)))
  }

  waitForDrain (state: SessionState): Promise<void> {
    return this.#partitionOf(state.id).waitForDrain(state)
  }

  messageQueue (state: SessionState): MessageQueue {
    return this.#partitionOf(state.id).messageQueue(state)
  }

  async count (channel: string): Promise<number> {
    const counts = await Promise.all(this.#partitions.map(partition => partition.count(channel)))
    return counts.reduce((sum, count) => sum + count)
  }

  async members (channel: string): Promise<readonly SessionState[]> {
    return (await Promise.all(this.#partitions.map(partition => partition.members(channel)))).flat()
  }

  async clear (channel: string): Promise<void> {
    await Promise.all(this.#partitions.map(partition => partition.clear(channel)))
  }

  stats (): StoreStats {
    const sessions = this.#partitions.reduce((sum, partition) => sum + partition.stats().sessions, 0)
    return { sessions, channels: new Set(this.#partitions.flatMap(({ channels }) => channels)).size }
  }

  async close (): Promise<readonly SessionState[]> {
    await this.#close()
    return []
  }

  #partitionOf (id: string): RedisStore {
    return this.#partitions[partitionOf(id, this.#partitions.length)] as RedisStore
  }
}
