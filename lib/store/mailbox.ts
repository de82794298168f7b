import { IdempotencyKeyReused, TooManyWaiting } from '../errors.js'
import { chain, isPromise } from '../promises.js'
import type { Awaitable } from './store.js'

/** What a message was answered. A handler's error is an answer, too: its message was handled. */
export interface Outcome {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly error: Error | undefined
}

/** A message as the mailbox sees it. */
export interface Letter {
  readonly key: string | undefined
  /** What was asked for: the same key must come with the same. */
  readonly payload: () => string
  /** Has the message handled. Throws, or rejects, where it was refused, so that a repeat is a new attempt. */
  readonly handle: () => Awaitable<Outcome>
}

export interface Delivery {
  readonly outcome: Outcome
  /** Whether this is the answer to an earlier message of the same key. */
  readonly replayed: boolean
}

/**
 * One session's upward messages. They MUST be handled one at a time, over all processes, in order of arrival, and once a key: a
 * repeat gets the outcome of the first, for which it waits where that is being handled. A message that was refused
 * leaves no outcome. Where a session's log and outcomes are lost the message is refused as one of an unknown session.
 */
export interface Mailbox {
  /** Answers with the outcome of the message, or of the earlier one of its key. Throws, or rejects, as the message is refused. */
  deliver (letter: Letter): Awaitable<Delivery>
  /** Delivers several, with none of another request between them; throws, or rejects, where they may not all wait. Each has its own verdict. */
  deliverAll (letters: readonly Letter[]): Awaitable<Array<Promise<Delivery>>>
}

interface Receipt {
  readonly payload: string
  /** A promise while the message is being handled. */
  outcome: Awaitable<Outcome>
}

/** The messages of a session that one process alone handles. */
export class LocalMailbox implements Mailbox {
  readonly #maxWaiting: number
  readonly #maxReceipts: number
  readonly #receipts = new Map<string, Receipt>()
  #last: Promise<void> | undefined
  #handling = false
  #waiting = 0

  constructor (maxWaiting: number, maxReceipts: number) {
    this.#maxWaiting = maxWaiting
    this.#maxReceipts = maxReceipts
  }

  /** Throws TooManyWaiting where so many more messages may not wait. */
  reserve (count: number): void {
    if (this.#last !== undefined && this.#waiting + count > this.#maxWaiting) throw new TooManyWaiting(this.#waiting)
  }

  /** Answers with the outcome of the message, or of the earlier one of its key. */
  deliver (letter: Letter): Awaitable<Delivery> {
    // It comes from inside a handler, as by `inject`: that is in the queue when it has returned.
    if (this.#handling) return Promise.resolve().then(() => this.deliver(letter))
    const { key, payload, handle } = letter
    if (key === undefined) return chain(this.#enqueue(handle), first)
    const asked = payload()
    const earlier = this.#receipts.get(key)
    if (earlier !== undefined) {
      if (earlier.payload !== asked) throw new IdempotencyKeyReused()
      return chain(earlier.outcome, outcome => ({ outcome, replayed: true }))
    }
    const outcome = this.#enqueue(handle)
    this.#keep(key, { payload: asked, outcome })
    return chain(outcome, first)
  }

  deliverAll (letters: readonly Letter[]): Array<Promise<Delivery>> {
    this.reserve(letters.length)
    // All at once into the queue, which keeps them in order and lets no other between them.
    return letters.map(async letter => await this.deliver(letter))
  }

  #keep (key: string, receipt: Receipt): void {
    this.#receipts.set(key, receipt)
    const kept = chain(receipt.outcome, outcome => {
      receipt.outcome = outcome
      this.#evict()
    })
    if (kept instanceof Promise) kept.catch(() => { this.#receipts.delete(key) })
  }

  // Oldest first; the receipt of a running message stays, for its repeat must not run beside it.
  #evict (): void {
    for (const [key, { outcome }] of this.#receipts) {
      if (this.#receipts.size <= this.#maxReceipts) return
      if (!isPromise(outcome)) this.#receipts.delete(key)
    }
  }

  #enqueue (handle: () => Awaitable<Outcome>): Awaitable<Outcome> {
    let outcome: Promise<Outcome>
    if (this.#last === undefined) {
      let handled: Awaitable<Outcome>
      this.#handling = true
      try {
        handled = handle()
      } finally {
        this.#handling = false
      }
      // Done before another could be in the queue.
      if (!(handled instanceof Promise)) return handled
      outcome = handled
    } else {
      this.reserve(1)
      this.#waiting++
      outcome = this.#last.then(() => {
        this.#waiting--
        return handle()
      })
    }
    const done = (): void => { if (this.#last === last) this.#last = undefined }
    const last = outcome.then(done, done)
    this.#last = last
    return outcome
  }
}

const first = (outcome: Outcome): Delivery => ({ outcome, replayed: false })
