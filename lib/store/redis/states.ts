import { RedisState, type Lease, type SessionRecord } from './record.js'

/** The sessions that this process has at hand: one object for each, for as long as anyone uses it. */
export class States {
  readonly #lease: Lease
  readonly #known = new Map<string, WeakRef<RedisState>>()
  /** Those that were used of late, and before. */
  #used: readonly [Set<RedisState>, Set<RedisState>] = [new Set(), new Set()]

  constructor (lease: Lease) {
    this.#lease = lease
  }

  /** The session at hand of an id. */
  at (id: string): RedisState | undefined {
    return this.#known.get(id)?.deref()
  }

  /** As `at`; it stays at hand for a while. */
  use (id: string): RedisState | undefined {
    const state = this.at(id)
    if (state !== undefined) this.#used[0].add(state)
    return state
  }

  /** The session of an id, which is made of its record where it is not at hand. */
  of (id: string, { principal, openedAt }: Pick<SessionRecord, 'principal' | 'openedAt'>): RedisState {
    let state = this.use(id)
    if (state === undefined) {
      state = new RedisState(id, principal, openedAt, this.#lease)
      this.#known.set(id, new WeakRef(state))
      this.#used[0].add(state)
    }
    return state
  }

  /** Those at hand that live, as far as is known. */
  living (): RedisState[] {
    return [...this.#known.values()].map(known => known.deref()).filter((state): state is RedisState => state !== undefined && state.closeReason === undefined)
  }

  /** Lets go of what was not used since the time before last. */
  sweep (): void {
    this.#used = [new Set(), this.#used[0]]
    for (const [id, known] of this.#known) if (known.deref() === undefined) this.#known.delete(id)
  }
}
