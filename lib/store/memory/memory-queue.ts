import { andThen, isPromise, type Awaitable } from '../../awaitable.js'
import { IdempotencyKeyReused, MemoryFull, ResponseDropped, TooManyWaiting } from '../../errors.js'
import type { MessageQueue, QueuedMessage, QueueResult, StoredResponse } from '../message-queue.js'
import type { StoreSettings } from '../store.js'
import type { MemoryLimit, Shrinkable } from './memory-limit.js'

// The memory that a key and a response take in addition to their texts.
const RECORD_OVERHEAD = 300

interface IdempotencyRecord {
  readonly fingerprint: string
  /** The response; a promise of it while the message is being handled; `undefined` if the response was dropped. */
  response: Awaitable<StoredResponse> | undefined
  /** Size of the stored response, in bytes; 0 if there is none. */
  bytes: number
}

/** The message queue of a session whose messages are handled only in this process. */
export class MemoryQueue implements MessageQueue, Shrinkable {
  /** Size of all stored responses, in bytes. */
  weight = 0
  readonly #settings: StoreSettings
  readonly #limit: MemoryLimit
  /** By key. The records of handled messages are in the order in which they were handled. */
  readonly #records = new Map<string, IdempotencyRecord>()
  /** Number of messages with a key that wait or are being handled. */
  #unhandled = 0
  /** The records with a stored response, the oldest first. */
  readonly #stored = new Set<IdempotencyRecord>()
  /** Resolves when the last message of the queue is handled; `undefined` while the queue is empty. */
  #last: Promise<void> | undefined
  /** Whether a handler is running synchronously, in the current call stack. */
  #isInHandler = false
  #isClosed = false
  /** Number and size of the messages that wait, and of the concurrent ones that are being handled. */
  #waiting = 0
  #waitingBytes = 0
  /** Number of the concurrent messages that are being handled. */
  #concurrent = 0

  constructor (settings: StoreSettings, limit: MemoryLimit) {
    this.#settings = settings
    this.#limit = limit
  }

  enqueue (message: QueuedMessage): Awaitable<QueueResult> {
    return this.#enqueue(message, () => {
      const size = message.size?.() ?? 0
      this.assertCapacity(1, size, message.isConcurrent)
      return size
    })
  }

  enqueueAll (messages: readonly QueuedMessage[]): Array<Promise<QueueResult>> {
    const sizes = messages.map(message => message.size?.() ?? 0)
    const bytes = sizes.reduce((sum, size) => sum + size, 0)
    if (this.#last !== undefined || this.#waiting > 0) this.assertCapacity(messages.length, bytes, messages.some(({ isConcurrent }) => isConcurrent))
    if (!this.#limit.hasRoom(bytes + messages.length * RECORD_OVERHEAD)) throw new MemoryFull()
    // All messages are added synchronously, so that they keep their order and no other message comes between them.
    return messages.map(async (message, index) => await this.#enqueue(message, () => sizes[index] as number))
  }

  /** Throws TooManyWaiting if the queue has no room for so many more messages. One message may always be handled, and the first message or batch that waits may have any size. With `isConcurrent`, this applies only if no concurrent one is being handled, because any number of them could have any size otherwise. */
  assertCapacity (count: number, bytes = 0, isConcurrent = false): void {
    const { maxWaitingMessages, maxWaitingBytes } = this.#settings
    const maxCount = this.#last === undefined ? maxWaitingMessages + 1 : maxWaitingMessages
    const isFirst = this.#waiting === (isConcurrent ? 0 : this.#concurrent)
    const hasRoom = this.#waiting + count <= maxCount && (isFirst || this.#waitingBytes + bytes <= maxWaitingBytes)
    if (!hasRoom) throw new TooManyWaiting(this.#waiting)
  }

  /** Drops the oldest response. Its key is kept, so that a repeat is not handled a second time. */
  dropOldest (): void {
    const record = this.#stored.values().next().value as IdempotencyRecord
    this.#dropResponse(record)
    record.response = undefined
    this.#limit.update(this)
  }

  /** Drops everything that is stored. The session is closed, so no repeat gets a response. */
  close (): void {
    this.#isClosed = true
    for (const key of [...this.#records.keys()]) this.#deleteRecord(key)
    this.#limit.update(this)
  }

  /** `admit` is called if this message or others count as waiting. It returns the size of the message, or throws if the message is refused. */
  #enqueue (message: QueuedMessage, admit: () => number): Awaitable<QueueResult> {
    // A handler has sent this message synchronously, for example with `inject`. The message of that handler enters the queue only
    // when the handler has returned, and this message must come after it.
    if (this.#isInHandler) return Promise.resolve().then(() => this.#enqueue(message, admit))
    const { key } = message
    if (key === undefined) return andThen(this.#run(message, admit), toResult)
    const fingerprint = message.fingerprint()
    const earlier = this.#records.get(key)
    if (earlier !== undefined) return this.#repeat(earlier, fingerprint, admit)
    if (!this.#limit.reserve(recordBytes(key))) throw new MemoryFull()
    try {
      const response = this.#run(message, admit)
      // The handler may have closed the session.
      if (this.#isClosed) this.#limit.release(recordBytes(key))
      else this.#addRecord(key, { fingerprint, response, bytes: 0 })
      return andThen(response, toResult)
    } catch (error) {
      this.#limit.release(recordBytes(key))
      throw error
    }
  }

  #repeat (earlier: IdempotencyRecord, fingerprint: string, admit: () => number): Awaitable<QueueResult> {
    if (earlier.fingerprint !== fingerprint) throw new IdempotencyKeyReused()
    const { response } = earlier
    if (response === undefined) throw new ResponseDropped()
    if (isPromise(response)) releaseAfter(response, this.#reserve(admit))
    return andThen(response, response => ({ response, replayed: true }))
  }

  #addRecord (key: string, record: IdempotencyRecord): void {
    this.#records.set(key, record)
    this.#unhandled++
    const settled = andThen(record.response as Awaitable<StoredResponse>, response => {
      this.#unhandled--
      this.#store(key, record, response)
    })
    if (!(settled instanceof Promise)) return
    settled.catch(() => {
      this.#unhandled--
      if (this.#records.get(key) === record) this.#deleteRecord(key)
    })
  }

  /** Stores a response within the limits. */
  #store (key: string, record: IdempotencyRecord, response: StoredResponse): void {
    // After `close`, nothing may be stored any more.
    if (this.#records.get(key) !== record) return
    // A concurrent message may be older than others that were handled before it. Its record becomes the newest, because repeats may still arrive.
    this.#records.delete(key)
    this.#records.set(key, record)
    const { maxIdempotencyKeys, maxResponseBytes } = this.#settings
    const bytes = responseBytes(response)
    record.response = bytes <= maxResponseBytes ? response : undefined
    if (record.response !== undefined) {
      record.bytes = bytes
      this.weight += bytes
      this.#stored.add(record)
    }
    while (this.weight > maxResponseBytes) this.dropOldest()
    // The record of a message that is being handled stays and does not count, because a repeat must not be handled a second time.
    for (const [key, { response }] of this.#records) {
      if (this.#records.size - this.#unhandled <= maxIdempotencyKeys) break
      if (!isPromise(response)) this.#deleteRecord(key)
    }
    this.#limit.update(this)
    this.#limit.enforce()
  }

  #deleteRecord (key: string): void {
    this.#dropResponse(this.#records.get(key) as IdempotencyRecord)
    this.#records.delete(key)
    this.#limit.release(recordBytes(key))
  }

  #dropResponse (record: IdempotencyRecord): void {
    this.#stored.delete(record)
    this.weight -= record.bytes
    record.bytes = 0
  }

  /** Counts a message as waiting. Returns a function that ends this. */
  #reserve (admit: () => number): () => void {
    const bytes = admit()
    if (!this.#limit.reserve(bytes)) throw new MemoryFull()
    this.#waiting++
    this.#waitingBytes += bytes
    return () => {
      this.#waiting--
      this.#waitingBytes -= bytes
      this.#limit.release(bytes)
    }
  }

  /** Runs a handler: that of a concurrent message now, another one when all earlier messages are handled. Runs it synchronously if it does not have to wait. */
  #run ({ handle, isConcurrent = false }: QueuedMessage, admit: () => number): Awaitable<StoredResponse> {
    if (isConcurrent) return this.#runConcurrently(handle, admit)
    let response: Promise<StoredResponse>
    if (this.#last === undefined) {
      // Only concurrent messages are being handled. The message is not counted, but together they must not be too many.
      if (this.#waiting > 0) admit()
      const result = this.#call(handle)
      // The handler finished synchronously, so no other message waits for it.
      if (!(result instanceof Promise)) return result
      response = result
    } else {
      releaseAfter(this.#last, this.#reserve(admit))
      response = this.#last.then(() => handle())
    }
    const onSettled = (): void => { if (this.#last === last) this.#last = undefined }
    const last = response.then(onSettled, onSettled)
    this.#last = last
    return response
  }

  #runConcurrently (handle: QueuedMessage['handle'], admit: () => number): Awaitable<StoredResponse> {
    const stopWaiting = this.#reserve(admit)
    this.#concurrent++
    const release = (): void => {
      this.#concurrent--
      stopWaiting()
    }
    let response: Awaitable<StoredResponse> | undefined
    try {
      response = this.#call(handle)
      return response
    } finally {
      if (isPromise(response)) releaseAfter(response, release)
      else release()
    }
  }

  #call (handle: QueuedMessage['handle']): Awaitable<StoredResponse> {
    this.#isInHandler = true
    try {
      return handle()
    } finally {
      this.#isInHandler = false
    }
  }
}

function releaseAfter (promise: Promise<unknown>, release: () => void): void {
  promise.then(release, release)
}

const toResult = (response: StoredResponse): QueueResult => ({ response, replayed: false })

function recordBytes (key: string): number {
  return key.length + RECORD_OVERHEAD
}

function responseBytes ({ headers, body }: StoredResponse): number {
  const texts = Object.entries(headers).flat()
  const bodyBytes = typeof body === 'string' || body instanceof Uint8Array ? Buffer.byteLength(body) : 0
  return RECORD_OVERHEAD + bodyBytes + texts.reduce((sum, { length }) => sum + length, 0)
}
