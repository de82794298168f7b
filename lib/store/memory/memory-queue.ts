import { andThen, isPromise, type Awaitable } from '../../awaitable.js'
import { IdempotencyKeyReused, TooManyWaiting } from '../../errors.js'
import type { MessageQueue, QueuedMessage, QueueResult, StoredResponse } from '../message-queue.js'

interface IdempotencyRecord {
  readonly fingerprint: string
  /** The response; a promise of it while the message is being handled. */
  response: Awaitable<StoredResponse>
}

/** The message queue of a session whose messages are handled only in this process. */
export class MemoryQueue implements MessageQueue {
  readonly #maxWaiting: number
  readonly #maxRecords: number
  readonly #records = new Map<string, IdempotencyRecord>()
  /** Resolves when the last message of the queue is handled; `undefined` while the queue is empty. */
  #last: Promise<void> | undefined
  /** Whether a handler is running synchronously, in the current call stack. */
  #isInHandler = false
  #waiting = 0

  constructor (maxWaiting: number, maxRecords: number) {
    this.#maxWaiting = maxWaiting
    this.#maxRecords = maxRecords
  }

  /** Throws TooManyWaiting if the queue has no room for `count` more messages. */
  assertCapacity (count: number): void {
    if (this.#last !== undefined && this.#waiting + count > this.#maxWaiting) throw new TooManyWaiting(this.#waiting)
  }

  enqueue (message: QueuedMessage): Awaitable<QueueResult> {
    // A handler has sent this message synchronously, for example with `inject`. The message of that handler enters the queue only
    // when the handler has returned, and this message must come after it.
    if (this.#isInHandler) return Promise.resolve().then(() => this.enqueue(message))
    const { key, handle } = message
    if (key === undefined) return andThen(this.#run(handle), toResult)
    const fingerprint = message.fingerprint()
    const earlier = this.#records.get(key)
    if (earlier !== undefined) {
      if (earlier.fingerprint !== fingerprint) throw new IdempotencyKeyReused()
      return andThen(earlier.response, response => ({ response, replayed: true }))
    }
    const response = this.#run(handle)
    this.#addRecord(key, { fingerprint, response })
    return andThen(response, toResult)
  }

  enqueueAll (messages: readonly QueuedMessage[]): Array<Promise<QueueResult>> {
    this.assertCapacity(messages.length)
    // All messages are added synchronously, so that they keep their order and no other message comes between them.
    return messages.map(async message => await this.enqueue(message))
  }

  #addRecord (key: string, record: IdempotencyRecord): void {
    this.#records.set(key, record)
    const settled = andThen(record.response, response => {
      record.response = response
      this.#evict()
    })
    if (settled instanceof Promise) settled.catch(() => { this.#records.delete(key) })
  }

  /** Removes the oldest records above the limit. The record of a message that is being handled stays, because a repeat must not be handled a second time. */
  #evict (): void {
    for (const [key, { response }] of this.#records) {
      if (this.#records.size <= this.#maxRecords) return
      if (!isPromise(response)) this.#records.delete(key)
    }
  }

  /** Runs a handler when all earlier messages are handled; synchronously if there are none. */
  #run (handle: () => Awaitable<StoredResponse>): Awaitable<StoredResponse> {
    let response: Promise<StoredResponse>
    if (this.#last === undefined) {
      let result: Awaitable<StoredResponse>
      this.#isInHandler = true
      try {
        result = handle()
      } finally {
        this.#isInHandler = false
      }
      // The handler finished synchronously, so no other message waits for it.
      if (!(result instanceof Promise)) return result
      response = result
    } else {
      this.assertCapacity(1)
      this.#waiting++
      response = this.#last.then(() => {
        this.#waiting--
        return handle()
      })
    }
    const onSettled = (): void => { if (this.#last === last) this.#last = undefined }
    const last = response.then(onSettled, onSettled)
    this.#last = last
    return response
  }
}

const toResult = (response: StoredResponse): QueueResult => ({ response, replayed: false })
