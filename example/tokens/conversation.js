import { randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'

/**
 * A part of a conversation: a question, a token of its answer, or the end of the answer.
 * @typedef {{ question: string } | { token: string } | { end: 'finished' | 'stopped' | 'failed' }} Part
 */

/** An append-only list of parts. Any number of readers can follow it from the beginning, each at its own speed. */
export class Conversation {
  id = randomUUID()
  /** @type {AbortController | undefined} stops the current answer */
  abortController
  /** @type {Part[]} */
  #parts = []
  #emitter = new EventEmitter()

  /** @param {Part} part */
  add (part) {
    this.#parts.push(part)
    this.#emitter.emit('part')
  }

  /**
   * Yields all parts, also those that are added later, until the signal aborts.
   * @param {AbortSignal} signal
   */
  async * follow (signal) {
    for (let next = 0; ;) {
      const parts = this.#parts.slice(next)
      if (parts.length === 0) await once(this.#emitter, 'part', { signal })
      yield * parts
      next += parts.length
    }
  }
}
