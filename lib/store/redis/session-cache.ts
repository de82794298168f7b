import { SessionReplica, type SessionRecord, type WriteGuard } from './replica/session-replica.js'

/** The sessions that are in use in this process: one object for each. */
export class SessionCache {
  readonly #guard: WriteGuard
  readonly #known = new Map<string, WeakRef<SessionReplica>>()
  /** Sessions that were used since the last sweep, and since the one before. */
  #used: readonly [Set<SessionReplica>, Set<SessionReplica>] = [new Set(), new Set()]

  constructor (guard: WriteGuard) {
    this.#guard = guard
  }

  get (id: string): SessionReplica | undefined {
    return this.#known.get(id)?.deref()
  }

  /** As `get`; the session stays in memory until the sweep after the next one. */
  use (id: string): SessionReplica | undefined {
    const state = this.get(id)
    if (state !== undefined) this.#used[0].add(state)
    return state
  }

  /** Returns the session with an id, which is created if it is not in memory. */
  getOrCreate (id: string, { principal, startPosition }: Pick<SessionRecord, 'principal' | 'startPosition'>): SessionReplica {
    let state = this.use(id)
    if (state === undefined) {
      state = new SessionReplica(id, principal, startPosition, this.#guard)
      this.#known.set(id, new WeakRef(state))
      this.#used[0].add(state)
    }
    return state
  }

  /** The sessions in memory that are not marked as closed. */
  open (): SessionReplica[] {
    return [...this.#known.values()].map(known => known.deref()).filter((state): state is SessionReplica => state !== undefined && state.closeReason === undefined)
  }

  /** Releases the sessions that were not used since the sweep before the last one. */
  sweep (): void {
    this.#used = [new Set(), this.#used[0]]
    for (const [id, known] of this.#known) if (known.deref() === undefined) this.#known.delete(id)
  }
}
