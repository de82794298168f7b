/** The sessions, or the runs, that are in use in this process: one object for each. */
export class StateCache<State extends object, Source> {
  readonly #create: (id: string, source: Source) => State
  readonly #isOpen: (state: State) => boolean
  readonly #known = new Map<string, WeakRef<State>>()
  /** The states that were used since the last sweep, and those that were used between the last two sweeps. */
  #used: readonly [Set<State>, Set<State>] = [new Set(), new Set()]

  constructor (create: (id: string, source: Source) => State, isOpen: (state: State) => boolean) {
    this.#create = create
    this.#isOpen = isOpen
  }

  get (id: string): State | undefined {
    return this.#known.get(id)?.deref()
  }

  /** As `get`; the state stays in memory until the sweep after the next one. */
  use (id: string): State | undefined {
    const state = this.get(id)
    if (state !== undefined) this.#used[0].add(state)
    return state
  }

  /** Returns the state with an id, which is created if it is not in memory. */
  getOrCreate (id: string, source: Source): State {
    let state = this.use(id)
    if (state === undefined) {
      state = this.#create(id, source)
      this.#known.set(id, new WeakRef(state))
      this.#used[0].add(state)
    }
    return state
  }

  /** Lists the sessions in memory that are not marked as closed, or the runs that have not ended. */
  listOpen (): State[] {
    return this.#list().filter(this.#isOpen)
  }

  /** Lists the sessions in memory that are marked as closed, or the runs that have ended. */
  listClosed (): State[] {
    return this.#list().filter(state => !this.#isOpen(state))
  }

  /** Releases the states that were not used since the previous sweep. */
  sweep (): void {
    this.#used = [new Set(), this.#used[0]]
    for (const [id, known] of this.#known) if (known.deref() === undefined) this.#known.delete(id)
  }

  #list (): State[] {
    return [...this.#known.values()].map(known => known.deref()).filter(state => state !== undefined)
  }
}
