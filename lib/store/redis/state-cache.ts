/** The sessions, or the runs, that are in use in this process: one object for each. */
export class StateCache<State extends object, Source> {
  readonly #create: (id: string, source: Source) => State
  readonly #isOpen: (state: State) => boolean
  readonly #isRetained: (state: State) => boolean
  readonly #known = new Map<string, WeakRef<State>>()
  /** The states that were used since the last sweep, and those that were used between the last two sweeps. */
  #used: readonly [Set<State>, Set<State>] = [new Set(), new Set()]

  /** `isRetained`: whether a state stays in memory for a while after its last use. */
  constructor (create: (id: string, source: Source) => State, isOpen: (state: State) => boolean, isRetained: (state: State) => boolean = () => true) {
    this.#create = create
    this.#isOpen = isOpen
    this.#isRetained = isRetained
  }

  get (id: string): State | undefined {
    return this.#known.get(id)?.deref()
  }

  /** As `get`; if the state is one to retain, it stays in memory until the sweep after the next one. */
  use (id: string): State | undefined {
    const state = this.get(id)
    if (state !== undefined) this.#retain(state)
    return state
  }

  /** Returns the state with an id, which is created if it is not in memory. */
  getOrCreate (id: string, source: Source): State {
    let state = this.use(id)
    if (state === undefined) {
      state = this.#create(id, source)
      this.#known.set(id, new WeakRef(state))
      this.#retain(state)
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

  #retain (state: State): void {
    if (this.#isRetained(state)) this.#used[0].add(state)
  }

  #list (): State[] {
    return [...this.#known.values()].map(known => known.deref()).filter(state => state !== undefined)
  }
}
