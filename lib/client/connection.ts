import { createParser } from 'eventsource-parser'
import { after, Backoff, type Pace } from './backoff.js'
import { ClientError, errorOf, isPassing, retryAfterOf } from './errors.js'
import type { Send } from './send.js'

/** Who is told what comes down. */
export interface ConnectionListener {
  welcome (data: Welcome): void
  event (name: string, data: unknown): void
  /** An attempt has failed, or a stream was lost. */
  lost (error: unknown): void
  /** An event came that cannot be read. */
  unreadable (error: unknown): void
  /** The session is over; with an error where it ended badly. */
  closed (reason: string, error?: ClientError): void
}

/** What the server says when a stream has begun. */
export interface Welcome {
  readonly sessionId: string
  readonly resumed: boolean
  /** Milliseconds between heartbeats; absent where there are none. */
  readonly heartbeatInterval?: number
}

export interface ConnectionOptions {
  readonly path: string
  readonly maxEventSize: number
}

// Until a welcome has said how often the server is to be heard.
const PATIENCE = 37_500
const SILENT_INTERVALS = 2.5
// Characters of an event that are not its data: its id, its name, the fields' names.
const HEAD = 1024
const TOO_LARGE = ['EVENT_TOO_LARGE', 'An event exceeds maxEventSize'] as const

/** Keeps one event stream open, and says where it stands when it comes back. One attempt is under way at a time. */
export class Connection {
  readonly #send: Send
  readonly #options: ConnectionOptions
  readonly #pace: Pace
  readonly #listener: ConnectionListener
  readonly #backoff: Backoff
  #attempt = new AbortController()
  #stopped = false
  #hurries = false
  #retryAfter = 0
  #lastEventId: string | undefined
  #patience = PATIENCE
  #beganAt = 0
  #heardAt = 0
  #watchdog: ReturnType<typeof setTimeout> | undefined

  constructor (send: Send, options: ConnectionOptions, pace: Pace, listener: ConnectionListener) {
    this.#send = send
    this.#options = options
    this.#pace = pace
    this.#listener = listener
    this.#backoff = new Backoff(pace)
  }

  /** Connects again and again until the session is over. */
  async run (): Promise<void> {
    while (!this.#stopped) {
      this.#attempt = new AbortController()
      this.#hurries = false
      this.#retryAfter = 0
      this.#beganAt = Date.now()
      this.#patience = PATIENCE
      this.#heard()
      try {
        await this.#stream(this.#attempt.signal)
      } catch (error) {
        if (!this.#stopped) this.#listener.lost(error)
      }
      clearTimeout(this.#watchdog)
      if (!this.#stopped && !this.#hurries) await this.#backoff.wait(this.#retryAfter)
    }
  }

  /** Gives the present stream up and connects at once, unless it has only just done so. */
  reconnect (): void {
    this.#hurries = Date.now() - this.#beganAt >= this.#pace.floor
    this.#attempt.abort(new ClientError('SILENT', 'The stream died'))
    this.#backoff.wake()
  }

  /** Connects at once where only time is waited for; a stream that has been silent for too long is given up. */
  wake (): void {
    if (Date.now() - this.#heardAt > this.#patience) this.reconnect()
    else this.#backoff.wake()
  }

  stop (): void {
    this.#stopped = true
    this.#attempt.abort()
    this.#backoff.stop()
  }

  #finish (reason: string, error?: ClientError): void {
    this.stop()
    this.#listener.closed(reason, error)
  }

  /** One stream, from the request to its end, which is thrown unless it is that of the session. */
  async #stream (signal: AbortSignal): Promise<void> {
    const { path, maxEventSize } = this.#options
    const response = await this.#send(path, {
      headers: { accept: 'text/event-stream', ...this.#lastEventId !== undefined && { 'last-event-id': this.#lastEventId } },
      cache: 'no-store',
      signal
    })
    const { status, body } = response
    if (status === 204) return this.#finish('closed')
    if (!response.ok) {
      const error = errorOf(status, await response.json().catch(() => {}))
      if (!isPassing(status)) return this.#finish(error.code, error)
      this.#retryAfter = retryAfterOf(response)
      throw error
    }
    // [WHATWG HTML 9.2.2] Anything but an event stream fails the connection for good.
    if (!/^text\/event-stream\b/i.test(response.headers.get('content-type') ?? '') || body === null) {
      return this.#fail('NOT_A_STREAM', 'The answer is no event stream')
    }
    // Characters since the last event or comment: the data of an event that is not whole yet are hardly fewer.
    let size = 0
    const parser = createParser({
      onEvent: ({ id, event = 'message', data }) => {
        size = 0
        // Given up by a listener, in the middle of a chunk: what follows is not for the session, or comes again.
        if (signal.aborted) return
        if (data.length > maxEventSize) return this.#fail(...TOO_LARGE)
        this.#lastEventId = id ?? this.#lastEventId
        this.#receive(event, data)
      },
      onComment: () => { size = 0 },
      onRetry: retry => { this.#pace.floor = retry }
    })
    const decoder = new TextDecoder()
    const reader = body.getReader()
    while (!signal.aborted) {
      const { done, value } = await reader.read()
      // A stream of the user's own `fetch` may know nothing of the signal.
      signal.throwIfAborted()
      if (done) throw new ClientError('ENDED', 'The stream ended')
      this.#heard()
      const text = decoder.decode(value, { stream: true })
      size += text.length
      parser.feed(text)
      if (size > maxEventSize + HEAD) this.#fail(...TOO_LARGE)
    }
  }

  #fail (code: string, message: string): void {
    this.#finish(code, new ClientError(code, message))
  }

  #receive (event: string, text: string): void {
    let data
    try {
      data = JSON.parse(text)
    } catch (error) {
      // Not of our server's making. The stream itself is well.
      return this.#listener.unreadable(error)
    }
    if (event === 'welcome') {
      this.#backoff.reset()
      this.#patience = (data.heartbeatInterval ?? Infinity) * SILENT_INTERVALS
      this.#heard()
      this.#listener.welcome(data)
    } else if (event === 'close' || event === 'replaced') {
      this.#finish(data.reason ?? event)
    } else {
      this.#listener.event(event, data)
    }
  }

  /** The server was heard: the watchdog, which gives a silent stream up, starts anew. */
  #heard (): void {
    this.#heardAt = Date.now()
    clearTimeout(this.#watchdog)
    this.#watchdog = after(this.#patience, () => { this.reconnect() })
  }
}
