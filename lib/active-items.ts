/**
 * A set of items that are active for a short time, such as requests. It is not a Set, because V8 copies the items of a Set to a new
 * table now and then, and the old table keeps references to them and to the new table. If an old table is in the old generation of
 * the garbage collector, it would keep all later items in memory until the next full collection.
 */
export class ActiveItems<T extends object> {
  readonly #slots: Array<T | undefined> = []
  readonly #freeSlots: number[] = []

  get size (): number {
    return this.#slots.length - this.#freeSlots.length
  }

  /** Adds an item. Returns its slot, which {@link remove} needs. */
  add (item: T): number {
    const slot = this.#freeSlots.pop() ?? this.#slots.length
    this.#slots[slot] = item
    return slot
  }

  /** Removes the item in a slot. */
  remove (slot: number): void {
    this.#slots[slot] = undefined
    this.#freeSlots.push(slot)
  }

  values (): T[] {
    return this.#slots.filter(item => item !== undefined)
  }
}
