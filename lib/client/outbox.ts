import { after, Backoff, type Pace } from './backoff.js'
import { ClientError, errorOf, isPassing, retryAfterOf } from './errors.js'
import type { Send } from './send.js'

/** What a request may be told of its own. */
export interface RequestOptions {
  /** Milliseconds for which it is repeated until it is answered; then it fails with `TIMEOUT`. Default: the session's; `Infinity` turns it off. */
  timeout?: number
  /** Gives it up, handled or not: it fails with the reason. Default: none. */
  signal?: AbortSignal
}

export interface OutboxOptions {
  readonly path: string
  readonly timeout: number
  readonly maxQueued: number
}

interface Message {
  /** The message as a line of a batch. */
  readonly line: string
  /** Attempts of which it is not known whether the message was handled. */
  doubts: number
  resolve: (answer: unknown) => void
  reject: (error: unknown) => void
}

/** What became of one message of a batch. */
interface Answer {
  readonly status: number
  readonly body: unknown
  /** Whether it is the answer to an earlier attempt. */
  readonly replayed?: boolean
}

// As many as a server takes by default, with room for others; as long as a request may be by default, with room for the rest.
const BATCH_MESSAGES = 64
const BATCH_CHARACTERS = 256 * 1024
// Then the connection may be dead. Where only the handler is slow, the repeat waits for it.
const ATTEMPT = 15_000

/** What is to go up: first in, first out, one request at a time; what has gathered meanwhile goes as one batch. */
export class Outbox {
  readonly #send: Send
  readonly #options: OutboxOptions
  readonly #onStale: () => void
  readonly #backoff: Backoff
  readonly #queue = new Set<Message>()
  #attempt = new AbortController()
  #closed: ClientError | undefined
  #sessionId: string | undefined
  // Keys need be unique within a session only.
  #count = 0
  #limit = BATCH_MESSAGES
  #busy = false
  #paused = true

  /** `onStale` is told when the server says that the stream is not there. */
  constructor (send: Send, options: OutboxOptions, pace: Pace, onStale: () => void) {
    this.#send = send
    this.#options = options
    this.#onStale = onStale
    this.#backoff = new Backoff(pace)
  }

  /** Queues a message; resolves with its answer. */
  push (event: string, data: unknown, { timeout = this.#options.timeout, signal }: RequestOptions = {}): Promise<unknown> {
    const answer = new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      if (this.#closed !== undefined) throw this.#closed
      if (this.#queue.size >= this.#options.maxQueued) throw new ClientError('QUEUE_FULL', `${this.#queue.size} messages wait for their answers`)
      const settle = <T>(how: (value: T) => void) => (value: T): void => {
        this.#queue.delete(message)
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        how(value)
      }
      const message: Message = {
        line: JSON.stringify({ event, data, id: `${this.#count++}` }),
        doubts: 0,
        resolve: settle(resolve),
        reject: settle(reject)
      }
      const onAbort = (): void => { message.reject(signal?.reason) }
      const timer = after(timeout, () => { message.reject(new ClientError('TIMEOUT', `No answer within ${timeout} ms`)) })
      signal?.addEventListener('abort', onAbort)
      this.#queue.add(message)
      this.#pump()
    })
    // Nobody need wait for it: a rejection then is no failure of the process.
    answer.catch(() => {})
    return answer
  }

  /** There is a stream, of this session: what waits can go. */
  open (sessionId: string): void {
    if (sessionId !== this.#sessionId) {
      // What an earlier session may have handled must not be handled by another.
      for (const { doubts, reject } of this.#queue) {
        if (doubts > 0) reject(new ClientError('RESET', 'The session was lost before its answer'))
      }
    }
    this.#sessionId = sessionId
    this.#paused = false
    // The connection of a request under way may have died with the stream; a repeat costs little.
    this.#attempt.abort()
    this.#backoff.wake()
    this.#pump()
  }

  /** Nothing can go any more. */
  close (error: ClientError): void {
    this.#closed = error
    for (const { reject } of this.#queue) reject(error)
    this.#attempt.abort()
    this.#backoff.stop()
  }

  async #pump (): Promise<void> {
    if (this.#busy) return
    this.#busy = true
    while (!this.#paused && this.#queue.size > 0) {
      const attempt = this.#attempt = new AbortController()
      const timer = after(ATTEMPT, () => { attempt.abort() })
      const pause = await this.#post(this.#take(), attempt.signal).catch(() => attempt.signal.aborted ? undefined : 0)
      clearTimeout(timer)
      if (pause === undefined) this.#backoff.reset()
      else await this.#backoff.wait(pause)
    }
    this.#busy = false
  }

  #take (): Message[] {
    const batch: Message[] = []
    let characters = 0
    for (const message of this.#queue) {
      characters += message.line.length
      if (batch.length > 0 && (batch.length >= this.#limit || characters > BATCH_CHARACTERS)) break
      batch.push(message)
    }
    return batch
  }

  /** Posts messages, and settles those that are answered. Answers how long the server wants to be left alone; `undefined` if all is well. */
  async #post (batch: readonly Message[], signal: AbortSignal): Promise<number | undefined> {
    const response = await this.#send(this.#options.path, {
      method: 'POST',
      headers: { 'x-session-id': this.#sessionId as string, 'content-type': 'application/x-ndjson' },
      body: () => {
        for (const message of batch) message.doubts++
        return batch.map(({ line }) => line).join('\n')
      },
      signal
    })
    const { status } = response
    const body: unknown = await response.json().catch(() => {})
    // It was the answer to an earlier stream's, or session's.
    signal.throwIfAborted()
    if (response.headers.get('x-session-connected') === 'false') this.#onStale()
    if (response.ok) {
      // It was cut short, or comes from something between.
      if (!Array.isArray(body)) throw new TypeError('The answer is no list')
      this.#limit = Math.min(BATCH_MESSAGES, this.#limit * 2)
      return settle(batch, body)
    }
    // An answer of 5xx may come from a proxy that has lost the server's.
    if (status < 500 || status === 503) for (const message of batch) message.doubts--
    if (isPassing(status)) return retryAfterOf(response)
    const error = errorOf(status, body)
    if (error.code === 'FST_SSE_SESSION_UNKNOWN') {
      // The next welcome tells what becomes of the session.
      this.#paused = true
    } else if (batch.length > 1 && (status === 400 || status === 413)) {
      // One of them is not to the server's liking, or all are too much: nothing of it was handled.
      this.#limit = batch.length >> 1
    } else {
      for (const { reject } of batch) reject(error)
    }
    return undefined
  }
}

/** Settles the messages that were handled; answers `undefined` if those were all. */
function settle (batch: readonly Message[], answers: readonly Answer[]): number | undefined {
  let pause: number | undefined
  batch.forEach((message, index) => {
    const { status, body, replayed } = answers[index] as Answer
    if ((status === 429 || status === 503) && replayed !== true) {
      // Not handled, as a rule. Where it was the handler's own answer, the repeat says so.
      message.doubts--
      pause = 0
    } else if (status >= 400) {
      message.reject(errorOf(status, body))
    } else {
      // What the server answers where the handler has returned nothing.
      message.resolve(status === 202 && JSON.stringify(body) === '{"status":"accepted"}' ? undefined : body)
    }
  })
  return pause
}
