import { asError, IdempotencyKeyReused, statusOf, StoreUnavailable, TooManyWaiting } from './errors.js'
import { chain } from './promises.js'
import type { Awaitable } from './store/store.js'

/** What a message was answered. A handler's error is an answer, too: its message was handled. */
export interface Outcome {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly error: Error | undefined
}

/**
 * How a handler answers one message. It is not Fastify's Reply, for a message may have come in a batch with others,
 * and its answer may be given again to a repeat.
 */
export class UpwardReply {
  statusCode: number | undefined
  /** Whether `send` was called. */
  sent = false
  #headers: Record<string, string> = {}
  #body: unknown

  /** Sets the status; default 200 with a body, 202 without. */
  code (status: number): this {
    this.statusCode = status
    return this
  }

  /** Sets a header of the answer; it is lost where the message came in a batch. */
  header (name: string, value: string): this {
    this.#headers[name] = value
    return this
  }

  /** Sets the body, as returning it does. */
  send (body?: unknown): this {
    this.sent = true
    this.#body = body
    return this
  }

  /** @internal */
  outcome (returned: unknown): Outcome {
    const body = this.sent ? this.#body : returned === this ? undefined : returned
    return body === undefined && !this.sent
      ? { status: this.statusCode ?? 202, headers: this.#headers, body: { status: 'accepted' }, error: undefined }
      : { status: this.statusCode ?? 200, headers: this.#headers, body, error: undefined }
  }
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

interface Receipt {
  readonly payload: string
  readonly outcome: Awaitable<Outcome>
  settled: boolean
}

/** One session's upward messages: handled one at a time, in order of arrival, once a key. */
export class Mailbox {
  readonly #maxWaiting: number
  readonly #maxRecords: number
  readonly #records = new Map<string, Receipt>()
  #last: Promise<void> | undefined
  #handling = false
  #waiting = 0

  constructor (maxWaiting: number, maxRecords: number) {
    this.#maxWaiting = maxWaiting
    this.#maxRecords = maxRecords
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
    const earlier = this.#records.get(key)
    if (earlier !== undefined) {
      if (earlier.payload !== asked) throw new IdempotencyKeyReused()
      return chain(earlier.outcome, outcome => ({ outcome, replayed: true }))
    }
    const outcome = this.#enqueue(handle)
    this.#keep(key, { payload: asked, outcome, settled: false })
    return chain(outcome, first)
  }

  #keep (key: string, record: Receipt): void {
    this.#records.set(key, record)
    const settled = chain(record.outcome, () => {
      record.settled = true
      this.#evict()
    })
    if (settled instanceof Promise) settled.catch(() => { this.#records.delete(key) })
  }

  // Oldest first; the record of a running message stays, for its repeat must not run beside it.
  #evict (): void {
    for (const [key, record] of this.#records) {
      if (this.#records.size <= this.#maxRecords) return
      if (record.settled) this.#records.delete(key)
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

/** Runs a handler and makes an outcome of what it returns or throws. */
export function answer (handler: (reply: UpwardReply) => unknown): Awaitable<Outcome> {
  const reply = new UpwardReply()
  try {
    const outcome = chain(handler(reply), returned => reply.outcome(returned))
    return outcome instanceof Promise ? outcome.catch(failure) : outcome
  } catch (thrown) {
    return failure(thrown)
  }
}

function failure (thrown: unknown): Outcome {
  const error = asError(thrown)
  // Safe to repeat is what this error promises, so it must not become the answer to repeats.
  if (error instanceof StoreUnavailable) throw error
  return { status: statusOf(error), headers: {}, body: undefined, error }
}
