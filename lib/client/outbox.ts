import { Backoff, setTimer, type RetrySettings } from './backoff.js'
import { ClientError, createResponseError, isTransient, parseRetryAfter } from './errors.js'
import type { Send } from './send.js'

/** Options of one request. */
export interface RequestOptions {
  /** Time for which the client repeats the request until it gets a response, in milliseconds. Default: that of the session. `Infinity` turns it off. Error: `TIMEOUT`. */
  timeout?: number
  /** Cancels the request; the server may have handled it already. Default: none. Error: the reason of the signal. */
  signal?: AbortSignal
}

export interface OutboxOptions {
  readonly path: string
  readonly timeout: number
  readonly maxQueued: number
}

interface Message {
  /** The message as one line of a batch, in JSON. */
  readonly line: string
  /** Number of attempts in which the server may have handled the message. */
  uncertainAttempts: number
  resolve: (result: unknown) => void
  reject: (error: unknown) => void
}

/** The response to one message of a batch. */
interface MessageResponse {
  readonly status: number
  readonly body: unknown
  /** Whether the server handled the message in an earlier attempt and repeats that response. */
  readonly replayed?: boolean
}

// A quarter of the server's default `maxWaitingMessages`, which leaves room for other requests of the session.
const MAX_BATCH_MESSAGES = 64
// In UTF-8 these are at most 768 KiB, less than Fastify's default `bodyLimit` of 1 MiB.
const MAX_BATCH_CHARACTERS = 256 * 1024
// Milliseconds after which the connection of a request counts as dead. If only the handler is slow, the repeated request waits for it.
const REQUEST_TIMEOUT = 15_000

/** Sends messages in order, with at most one request at a time. Messages that are queued during a request form the next batch. */
export class Outbox {
  readonly #send: Send
  readonly #options: OutboxOptions
  readonly #onStale: () => void
  readonly #backoff: Backoff
  readonly #queue = new Set<Message>()
  #abortController = new AbortController()
  #closeError: ClientError | undefined
  #sessionId: string | undefined
  // The next idempotency key. Keys are unique within the session only.
  #nextKey = 0
  #batchLimit = MAX_BATCH_MESSAGES
  #isFlushing = false
  #isPaused = true

  /** `onStale` is called when a response shows that the server has no stream for the session. */
  constructor (send: Send, options: OutboxOptions, retrySettings: RetrySettings, onStale: () => void) {
    this.#send = send
    this.#options = options
    this.#onStale = onStale
    this.#backoff = new Backoff(retrySettings)
  }

  /** Queues a message. Resolves with the result of its handler. */
  push (event: string, data: unknown, { timeout = this.#options.timeout, signal }: RequestOptions = {}): Promise<unknown> {
    const { maxQueued } = this.#options
    const result = new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      if (this.#closeError) throw this.#closeError
      if (this.#queue.size >= maxQueued) throw new ClientError('QUEUE_FULL', `The queue exceeds maxQueued (${maxQueued}); raise it`)
      const withCleanup = <T>(settle: (value: T) => void) => (value: T): void => {
        this.#queue.delete(message)
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        settle(value)
      }
      const message: Message = {
        line: JSON.stringify({ event, data, id: `${this.#nextKey++}` }),
        uncertainAttempts: 0,
        resolve: withCleanup(resolve),
        reject: withCleanup(reject)
      }
      const onAbort = (): void => { message.reject(signal?.reason) }
      const timer = setTimer(() => { message.reject(new ClientError('TIMEOUT', `No response within ${timeout} ms; the message may have been handled`)) }, timeout)
      signal?.addEventListener('abort', onAbort)
      this.#queue.add(message)
      this.#flush()
    })
    // Callers may ignore the result. Without this handler a rejection would end a Node process.
    result.catch(() => {})
    return result
  }

  /** Sends the queue to this session. The caller calls it for each new stream, of the same session or of another one. */
  resume (sessionId: string): void {
    if (sessionId !== this.#sessionId) {
      // An idempotency key is unique within one session. Another session would handle a message again that the first has handled.
      for (const { uncertainAttempts, reject } of this.#queue) {
        if (uncertainAttempts > 0) reject(new ClientError('RESET', 'The session was lost; the message may have been handled'))
      }
    }
    this.#sessionId = sessionId
    this.#isPaused = false
    // The connection of the current request may be lost, like that of the previous stream. Repeating the request is cheap.
    this.#abortController.abort()
    this.#backoff.skip()
    this.#flush()
  }

  /** Fails all messages, including those that are queued later. */
  close (error: ClientError): void {
    this.#closeError = error
    for (const { reject } of this.#queue) reject(error)
    this.#abortController.abort()
    this.#backoff.stop()
  }

  async #flush (): Promise<void> {
    if (this.#isFlushing) return
    this.#isFlushing = true
    while (!this.#isPaused && this.#queue.size > 0) {
      const abortController = this.#abortController = new AbortController()
      const timer = setTimer(() => { abortController.abort() }, REQUEST_TIMEOUT)
      const retryAfter = await this.#post(this.#nextBatch(), abortController.signal).catch(() => abortController.signal.aborted ? undefined : 0)
      clearTimeout(timer)
      if (retryAfter === undefined) this.#backoff.reset()
      else await this.#backoff.wait(retryAfter)
    }
    this.#isFlushing = false
  }

  #nextBatch (): Message[] {
    const batch: Message[] = []
    let characters = 0
    for (const message of this.#queue) {
      characters += message.line.length
      if (batch.length > 0 && (batch.length >= this.#batchLimit || characters > MAX_BATCH_CHARACTERS)) break
      batch.push(message)
    }
    return batch
  }

  /**
   * Posts a batch and settles the messages that have a final response. Resolves with the minimum delay before the next
   * batch, in milliseconds, if the server did not accept all; with `undefined` if no delay is needed.
   */
  async #post (batch: readonly Message[], signal: AbortSignal): Promise<number | undefined> {
    const response = await this.#send(this.#options.path, {
      method: 'POST',
      headers: { 'x-session-id': this.#sessionId as string, 'content-type': 'application/x-ndjson' },
      body: () => {
        for (const message of batch) message.uncertainAttempts++
        return batch.map(({ line }) => line).join('\n')
      },
      signal
    })
    const { status } = response
    const body: unknown = await response.json().catch(() => {})
    // After the abort another session may be current, and the messages are sent again. So a late response does not count.
    signal.throwIfAborted()
    if (response.headers.get('x-session-connected') === 'false') this.#onStale()
    if (response.ok) {
      // The response is incomplete, or a proxy or captive portal sent it.
      if (!Array.isArray(body)) return 0
      this.#batchLimit = Math.min(MAX_BATCH_MESSAGES, this.#batchLimit * 2)
      return settleBatch(batch, body)
    }
    // The server did not handle the messages. With another 5xx status a proxy may have lost the response of the server.
    if (status < 500 || status === 503) for (const message of batch) message.uncertainAttempts--
    if (isTransient(status)) return parseRetryAfter(response)
    const error = createResponseError(status, body)
    if (error.code === 'FST_SSE_SESSION_UNKNOWN') {
      // The next stream shows whether the session continues.
      this.#isPaused = true
    } else if (batch.length > 1 && (status === 400 || status === 413)) {
      // One message is invalid, or the batch is too large. The server handled none of them.
      this.#batchLimit = batch.length >> 1
    } else {
      for (const { reject } of batch) reject(error)
    }
    return undefined
  }
}

/** Settles the messages with a final response. Returns 0 if others must be repeated, `undefined` if none. */
function settleBatch (batch: readonly Message[], responses: readonly MessageResponse[]): number | undefined {
  let retryAfter: number | undefined
  batch.forEach((message, index) => {
    const { status, body, replayed } = responses[index] as MessageResponse
    if ((status === 429 || status === 503) && replayed !== true) {
      // Usually the server did not handle the message. If a handler chose this status, the repeated message gets it with `replayed`.
      message.uncertainAttempts--
      retryAfter = 0
    } else if (status >= 400) {
      message.reject(createResponseError(status, body))
    } else {
      // The server sends this status and body when the handler returns nothing.
      message.resolve(status === 202 && JSON.stringify(body) === '{"status":"accepted"}' ? undefined : body)
    }
  })
  return retryAfter
}
