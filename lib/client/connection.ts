import { createParser } from 'eventsource-parser'
import { Backoff, setTimer, type RetrySettings } from './backoff.js'
import { ClientError, createResponseError, isTransient, parseRetryAfter } from './errors.js'
import type { Send } from './send.js'

/** Receives what happens on a {@link Connection}. */
export interface ConnectionListener {
  /** A stream was opened. */
  onWelcome (welcome: Welcome): void
  onEvent (name: string, data: unknown): void
  /** The request for a stream failed, or the stream was lost. Another request follows. */
  onError (error: unknown): void
  /** The data of an event is not JSON. The stream continues. */
  onParseError (error: unknown): void
  /** The session is closed; `error` is set if it failed. */
  onClose (reason: string, error?: ClientError): void
}

/** The data of the `welcome` event, with which the server starts each stream. */
export interface Welcome {
  readonly sessionId: string
  readonly resumed: boolean
  /** Time between two heartbeats, in milliseconds; absent if the server sends none. */
  readonly heartbeatInterval?: number
}

export interface ConnectionOptions {
  readonly path: string
  readonly maxEventSize: number
}

// Milliseconds without data after which a stream counts as dead, until the welcome event contains the heartbeat interval.
const IDLE_TIMEOUT = 37_500
// The same in heartbeat intervals, after the welcome event.
const IDLE_HEARTBEATS = 2.5
// Maximum number of characters of an event that are not data: its id, its name and the field names.
const OVERHEAD = 1024

/** Keeps one event stream open. Resumes it after the last received event. Has at most one request at a time. */
export class Connection {
  readonly #send: Send
  readonly #options: ConnectionOptions
  readonly #retrySettings: RetrySettings
  readonly #listener: ConnectionListener
  readonly #backoff: Backoff
  #abortController = new AbortController()
  #isStopped = false
  #reconnectNow = false
  #retryAfter = 0
  #lastEventId: string | undefined
  #idleTimeout = IDLE_TIMEOUT
  #startedAt = 0
  #lastDataAt = 0
  #idleTimer: ReturnType<typeof setTimeout> | undefined

  constructor (send: Send, options: ConnectionOptions, retrySettings: RetrySettings, listener: ConnectionListener) {
    this.#send = send
    this.#options = options
    this.#retrySettings = retrySettings
    this.#listener = listener
    this.#backoff = new Backoff(retrySettings)
  }

  /** Opens one stream after the other until the session is closed. */
  async run (): Promise<void> {
    while (!this.#isStopped) {
      this.#abortController = new AbortController()
      this.#reconnectNow = false
      this.#retryAfter = 0
      this.#startedAt = Date.now()
      this.#idleTimeout = IDLE_TIMEOUT
      this.#restartIdleTimer()
      try {
        await this.#openStream(this.#abortController.signal)
      } catch (error) {
        if (!this.#isStopped) this.#listener.onError(error)
      }
      clearTimeout(this.#idleTimer)
      if (!this.#isStopped && !this.#reconnectNow) await this.#backoff.wait(this.#retryAfter)
    }
  }

  /** Replaces the current stream. Skips the delay before the next one, unless the current one is younger than `retryDelay`. */
  reconnect (): void {
    this.#reconnectNow = Date.now() - this.#startedAt >= this.#retrySettings.retryDelay
    this.#abortController.abort(new ClientError('SILENT', 'The stream is dead; reconnecting'))
    this.#backoff.skip()
  }

  /**
   * Replaces the current stream if it has been idle for too long, because timers do not run while a page is frozen.
   * Otherwise skips the current delay, if the connection is between two streams.
   */
  ensureAlive (): void {
    if (Date.now() - this.#lastDataAt > this.#idleTimeout) this.reconnect()
    else this.#backoff.skip()
  }

  /** Ends the stream and all retries, without a call of the listener. */
  stop (): void {
    this.#isStopped = true
    this.#abortController.abort()
    this.#backoff.stop()
  }

  #close (reason: string, error?: ClientError): void {
    this.stop()
    this.#listener.onClose(reason, error)
  }

  #fail (error: ClientError): void {
    this.#close(error.code, error)
  }

  /** Requests a stream and reads it. Throws when the stream is lost, returns when the session is closed. */
  async #openStream (signal: AbortSignal): Promise<void> {
    const response = await this.#send(this.#options.path, {
      headers: { accept: 'text/event-stream', ...this.#lastEventId !== undefined && { 'last-event-id': this.#lastEventId } },
      cache: 'no-store',
      signal
    })
    const { status, body, headers } = response
    if (status === 204) return this.#close('closed')
    if (!response.ok) {
      const error = createResponseError(status, await response.json().catch(() => {}))
      if (!isTransient(status)) return this.#fail(error)
      this.#retryAfter = parseRetryAfter(response)
      throw error
    }
    const type = headers.get('content-type')
    // [WHATWG HTML 9.2.2] Any other response fails the connection permanently.
    if (!/^text\/event-stream\b/i.test(type ?? '') || body === null) {
      return this.#fail(new ClientError('NOT_A_STREAM', `Expected an event stream, got ${status} ${type}; check the URL`))
    }
    await this.#readStream(body, signal)
  }

  async #readStream (body: ReadableStream<Uint8Array>, signal: AbortSignal): Promise<void> {
    const { maxEventSize } = this.#options
    const failTooLarge = (): void => {
      this.#fail(new ClientError('EVENT_TOO_LARGE', `An event exceeds maxEventSize (${maxEventSize}); raise it`))
    }
    // Characters since the last event or comment, which approximate the size of an incomplete event.
    let size = 0
    const parser = createParser({
      onEvent: ({ id, event = 'message', data }) => {
        size = 0
        // A listener may have closed or replaced the stream. If it was replaced, the server sends the rest of the chunk again.
        if (signal.aborted) return
        if (data.length > maxEventSize) return failTooLarge()
        this.#lastEventId = id ?? this.#lastEventId
        this.#handleEvent(event, data)
      },
      onComment: () => { size = 0 },
      onRetry: retry => { this.#retrySettings.retryDelay = retry }
    })
    const decoder = new TextDecoder()
    const reader = body.getReader()
    while (!signal.aborted) {
      const { done, value } = await reader.read()
      // The body of a custom `fetch` may ignore the signal.
      signal.throwIfAborted()
      if (done) throw new ClientError('ENDED', 'The stream ended; reconnecting')
      this.#restartIdleTimer()
      const text = decoder.decode(value, { stream: true })
      size += text.length
      parser.feed(text)
      if (size > maxEventSize + OVERHEAD) failTooLarge()
    }
  }

  #handleEvent (event: string, text: string): void {
    let data
    try {
      data = JSON.parse(text)
    } catch (error) {
      return this.#listener.onParseError(error)
    }
    if (event === 'welcome') {
      this.#backoff.reset()
      this.#idleTimeout = (data.heartbeatInterval ?? Infinity) * IDLE_HEARTBEATS
      this.#restartIdleTimer()
      this.#listener.onWelcome(data)
    } else if (event === 'close' || event === 'replaced') {
      this.#close(data.reason ?? event)
    } else {
      this.#listener.onEvent(event, data)
    }
  }

  #restartIdleTimer (): void {
    this.#lastDataAt = Date.now()
    clearTimeout(this.#idleTimer)
    this.#idleTimer = setTimer(() => { this.reconnect() }, this.#idleTimeout)
  }
}
