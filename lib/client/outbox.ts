import { Backoff } from './backoff.js'
import type { Send } from './connection.js'
import { ClientError, errorOf, isPassing } from './errors.js'

export interface RequestOptions {
  /** Milliseconds for which the message is repeated until it is answered. Default: that of the session. */
  timeout?: number
  /** Gives the message up. */
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
  unanswered: number
  settle: (answer: Answer | ClientError) => void
}

interface Answer {
  readonly status: number
  readonly body: unknown
}

// As many as a server takes by default, with room for those of other tabs; as long as a request may be by default, with room for the rest.
const BATCH_MESSAGES = 64
const BATCH_CHARACTERS = 256 * 1024

/** What is to go up: first in, first out, one request at a time; what has gathered meanwhile goes as one batch. */
export class Outbox {
  readonly #send: Send
  readonly #options: OutboxOptions
  readonly #onStale: () => void
  readonly #backoff = new Backoff()
  readonly #end = new AbortController()
  #queue: Message[] = []
  #sessionId: string | undefined
  // Keys need be unique within a session only.
  #count = 0
  #busy = false
  #paused = true

  /** `onStale` is told when the server says that the stream is not there. */
  constructor (send: Send, options: OutboxOptions, onStale: () => void) {
    this.#send = send
    this.#options = options
    this.#onStale = onStale
  }

  /** Queues a message; resolves with its answer. */
  push (event: string, data: unknown, { timeout = this.#options.timeout, signal }: RequestOptions = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      if (this.#end.signal.aborted) throw new ClientError('CLOSED', 'The session is over')
      if (this.#queue.length >= this.#options.maxQueued) throw new ClientError('QUEUE_FULL', `${this.#queue.length} messages wait to be sent`)
      const give = (error: unknown): void => {
        this.#queue = this.#queue.filter(other => other !== message)
        message.settle(error as ClientError)
      }
      const onAbort = (): void => { give(signal?.reason) }
      const timer = setTimeout(() => { give(new ClientError('TIMEOUT', `No answer within ${timeout} ms`)) }, timeout)
      const message: Message = {
        line: JSON.stringify({ event, data, id: `${this.#count++}` }),
        unanswered: 0,
        settle: answer => {
          clearTimeout(timer)
          signal?.removeEventListener('abort', onAbort)
          if (answer instanceof Error) reject(answer)
          else if (answer.status >= 400) reject(errorOf(answer.status, answer.body))
          else resolve(isNothing(answer) ? undefined : answer.body)
        }
      }
      signal?.addEventListener('abort', onAbort)
      this.#queue.push(message)
      this.#pump()
    })
  }

  /** There is a stream, of this session: what waits can go. */
  open (sessionId: string): void {
    const isReset = this.#sessionId !== undefined && this.#sessionId !== sessionId
    this.#sessionId = sessionId
    if (isReset && !this.#busy) this.#dropDoubtful(this.#queue)
    this.#paused = false
    this.#backoff.reset()
    this.#backoff.wake()
    this.#pump()
  }

  /** Nothing can go any more. */
  close (error: ClientError): void {
    this.#end.abort()
    for (const message of this.#queue.splice(0)) message.settle(error)
  }

  async #pump (): Promise<void> {
    if (this.#busy) return
    this.#busy = true
    while (!this.#paused && this.#queue.length > 0) {
      const sessionId = this.#sessionId as string
      const batch = this.#take()
      let retryAfter: number | undefined
      try {
        retryAfter = await this.#post(sessionId, batch)
      } catch {
        retryAfter = 0
      }
      // What an earlier session may have handled must not be handled by another.
      if (sessionId !== this.#sessionId) this.#dropDoubtful(this.#queue)
      else if (retryAfter !== undefined) await this.#backoff.wait(this.#end.signal, retryAfter)
    }
    this.#busy = false
  }

  #take (): Message[] {
    let characters = 0
    const end = this.#queue.findIndex(({ line }, index) => {
      characters += line.length
      return index > 0 && (index >= BATCH_MESSAGES || characters > BATCH_CHARACTERS)
    })
    return this.#queue.slice(0, end < 0 ? undefined : end)
  }

  /** Posts messages, and settles those that are answered. Answers after how many seconds to try again; `undefined` if all is well. */
  async #post (sessionId: string, batch: readonly Message[]): Promise<number | undefined> {
    for (const message of batch) message.unanswered++
    const response = await this.#send(this.#options.path, {
      method: 'POST',
      headers: { 'x-session-id': sessionId, 'content-type': 'application/x-ndjson' },
      body: batch.map(({ line }) => line).join('\n')
    })
    const body: unknown = await response.json().catch(() => undefined)
    if (response.headers.get('x-session-connected') === 'false') this.#onStale()
    if (response.status === 404 && (body as { code?: string } | undefined)?.code === 'FST_SSE_SESSION_UNKNOWN') {
      // The next welcome tells of what becomes of the session; until then nobody would take them.
      this.#answered(batch)
      this.#paused = sessionId === this.#sessionId
      return undefined
    }
    // [RFC 9110 15.6] 500 is the answer of a handler that failed; the others come from before it.
    if (isPassing(response.status) && response.status !== 500) {
      if (response.status === 429 || response.status === 503) this.#answered(batch)
      return Number(response.headers.get('retry-after')) || 0
    }
    const answers = response.ok ? body as Answer[] : batch.map(() => ({ status: response.status, body }))
    let refused = false
    batch.forEach((message, index) => {
      const answer = answers[index] as Answer
      if (answer.status === 429 || answer.status === 503) {
        message.unanswered--
        refused = true
      } else {
        this.#queue = this.#queue.filter(other => other !== message)
        message.settle(answer)
      }
    })
    return refused ? 0 : undefined
  }

  #answered (batch: readonly Message[]): void {
    for (const message of batch) message.unanswered--
  }

  #dropDoubtful (messages: readonly Message[]): void {
    this.#queue = messages.filter(message => message.unanswered === 0)
    const error = new ClientError('RESET', 'The session was lost while the answer was under way')
    for (const message of messages) if (message.unanswered > 0) message.settle(error)
  }
}

/** What the server answers when the handler has returned nothing. */
function isNothing ({ status, body }: Answer): boolean {
  return status === 202 && (body as { status?: string } | undefined)?.status === 'accepted'
}
