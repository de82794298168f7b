import { now } from '../../clock.js'

/** Calls a function for each item, a fixed time after the item was added. It uses one timer for all items. */
export class ExpiryQueue<Item> {
  readonly #delay: number
  readonly #onExpire: (item: Item) => void
  // In order of time, because the delay is the same for all items.
  readonly #deadlines = new Map<Item, number>()
  #timer: NodeJS.Timeout | undefined

  /** `delay` in milliseconds. */
  constructor (delay: number, onExpire: (item: Item) => void) {
    this.#delay = delay
    this.#onExpire = onExpire
  }

  /** Adds an item, or restarts its delay. */
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
