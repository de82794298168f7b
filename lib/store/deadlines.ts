import { now } from './log.js'

/** Items that fall due a fixed time after they were set, with one timer for all. */
export class Deadlines<Item> {
  readonly #delay: number
  readonly #due: (item: Item) => void
  // In order of their time, since all wait equally long.
  readonly #times = new Map<Item, number>()
  #timer: NodeJS.Timeout | undefined

  /** `delay` in milliseconds. */
  constructor (delay: number, due: (item: Item) => void) {
    this.#delay = delay
    this.#due = due
  }

  set (item: Item): void {
    this.#times.delete(item)
    this.#times.set(item, now() + this.#delay)
    this.#timer ??= setTimeout(this.#look, this.#delay).unref()
  }

  delete (item: Item): void {
    this.#times.delete(item)
  }

  clear (): void {
    this.#times.clear()
    clearTimeout(this.#timer)
  }

  readonly #look = (): void => {
    const time = now()
    for (const [item, deadline] of this.#times) {
      if (deadline > time) {
        this.#timer = setTimeout(this.#look, deadline - time).unref()
        return
      }
      this.#times.delete(item)
      this.#due(item)
    }
    this.#timer = undefined
  }
}
