import { flushScheduler } from '../../stream/flush-scheduler.js'

/** Something that can take less memory. */
export interface Shrinkable {
  /** About the memory that it takes, in bytes. */
  readonly weight: number
  /** Removes its oldest entry or response, and reports the new weight with `update`. Is called only if the weight is above 0. */
  dropOldest (): void
}

/**
 * Limits the memory of a store. If the limit is exceeded, the largest items are shrunk first, so that a client that takes
 * much memory does not affect the others.
 */
export class MemoryLimit {
  readonly #maxBytes: number
  /** Memory that cannot be freed. */
  #reserved = 0
  /** Memory of all items together. */
  #shrinkable = 0
  readonly #weights = new Map<Shrinkable, number>()
  /** The items by the number of binary digits of their weight, so that one of the largest is found without sorting. */
  readonly #itemsBySize: Array<Set<Shrinkable>> = []

  constructor (maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Updates the recorded weight of an item. */
  update (item: Shrinkable): void {
    const { weight } = item
    const before = this.#weights.get(item) ?? 0
    this.#shrinkable += weight - before
    if (weight === 0) this.#weights.delete(item)
    else this.#weights.set(item, weight)
    const [from, to] = [countDigits(before), countDigits(weight)]
    if (from === to) return
    this.#itemsBySize[from]?.delete(item)
    if (to > 0) (this.#itemsBySize[to] ??= new Set()).add(item)
  }

  /** Whether so much memory can be reserved. */
  hasRoom (bytes: number): boolean {
    return this.#reserved + bytes <= this.#maxBytes
  }

  /** Reserves memory that cannot be freed before `release`. Returns false if there is not enough. */
  reserve (bytes: number): boolean {
    if (!this.hasRoom(bytes)) return false
    this.#reserved += bytes
    this.enforce()
    return true
  }

  release (bytes: number): void {
    this.#reserved -= bytes
  }

  /** Shrinks items if the limit is exceeded, to 1 % below it, so that this is not necessary after each append. */
  enforce (): void {
    if (this.#reserved + this.#shrinkable <= this.#maxBytes) return
    // After this, a client misses entries only if its connection does not accept more.
    flushScheduler.flushAll()
    const target = this.#maxBytes * 0.99
    while (this.#shrinkable > 0 && this.#reserved + this.#shrinkable > target) this.#findLarge().dropOldest()
  }

  /** Finds an item whose weight is more than half of the largest. */
  #findLarge (): Shrinkable {
    while (this.#itemsBySize.at(-1)?.size === 0) this.#itemsBySize.pop()
    const [item] = this.#itemsBySize.at(-1) as Set<Shrinkable>
    return item as Shrinkable
  }
}

/** Returns the number of binary digits of a whole number; 0 for 0. */
function countDigits (value: number): number {
  return value === 0 ? 0 : Math.floor(Math.log2(value)) + 1
}
