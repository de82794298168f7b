import { randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'

/**
 * What a conversation is made of: a question, then the tokens of its answer, then how that ended.
 * @typedef {{ question: string } | { token: string } | { end: 'finished' | 'stopped' | 'failed' }} Part
 */

/** A list of parts that grows, and that any number of readers follow from its beginning, each at its own pace. */
export class Conversation {
  id = randomUUID()
  /** @type {AbortController | undefined} stops the answer that is growing */
  growing
  /** @type {Part[]} */
  #parts = []
  #growth = new EventEmitter()

  /** @param {Part} part */
  add (part) {
    this.#parts.push(part)
    this.#growth.emit('part')
  }

  /** @param {AbortSignal} signal */
  async * follow (signal) {
    for (let next = 0; ;) {
      const parts = this.#parts.slice(next)
      if (parts.length === 0) await once(this.#growth, 'part', { signal })
      yield * parts
      next += parts.length
    }
  }
}
