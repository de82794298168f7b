import { now } from '../../log/log.js'

/** Calls back for each item a fixed time after it was added, with one timer for all items. */
export class ExpiryQueue<Item> {
  readonly #delay: number
  readonly #onExpire: (item: Item) => void
  // In order of time, because all items wait equally long.
  readonly #deadlines = new Map<Item, number>()
  #timer: NodeJS.Timeout | undefined

  /** `delay` in milliseconds. */
  constructor (delay: number, onExpire: (item: Item) => void) {
    this.#delay = delay
    this.#onExpire = onExpire
  }

  /** Adds an item, or starts its delay again. */
  set (item: Item): void {
    this.#deadlines.delete(item)
    this.#deadlines.set(item, now() + this.#delay)
    this.#timer ??= setTimeout(this.#expireDue, this.#delay).unref()
  }

  delete (item: Item): void {
    this.#deadlines.delete(item)
  }

  clear (): void {
    this.#deadlines.clear()
    clearTimeout(this.#timer)
  }

  readonly #expireDue = (): void => {
    const time = now()
    for (const [item, deadline] of this.#deadlines) {
      if (deadline > time) {
        this.#timer = setTimeout(this.#expireDue, deadline - time).unref()
        return
      }
      this.#deadlines.delete(item)
      this.#onExpire(item)
    }
    this.#timer = undefined
  }
}
