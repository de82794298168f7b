/**
 * Items that are active for a short time, such as requests. Not a Set: V8 copies the items of a Set to a new table now and then, and
 * the old table keeps referring to them and to the new one. If an old table is in the old generation of the garbage collector, all
 * later items would survive until the next full collection.
 */
export class ActiveItems<T extends object> {
  readonly #slots: Array<T | undefined> = []
  readonly #freeSlots: number[] = []

  get size (): number {
    return this.#slots.length - this.#freeSlots.length
  }

  /** Returns the slot of the item. */
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
