import { createParser } from 'eventsource-parser'
import { Backoff } from './backoff.js'
import { ClientError, errorOf, isPassing } from './errors.js'

/** Makes a request; the headers and the place are asked for afresh each time. */
export type Send = (path: string, init: RequestInit & { headers: Record<string, string> }) => Promise<Response>

/** Who is told what comes down. */
export interface ConnectionListener {
  welcome (data: Welcome): void
  event (name: string, data: unknown): void
  /** An attempt has failed, or a stream was lost. */
  lost (error: unknown): void
  /** The session is over; with an error where it ended badly. */
  closed (reason: string, error?: ClientError): void
}

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

/** Keeps one event stream open, and says where it stands when it comes back. One attempt is under way at a time. */
export class Connection {
  readonly #send: Send
  readonly #options: ConnectionOptions
  readonly #listener: ConnectionListener
  readonly #backoff = new Backoff()
  readonly #end = new AbortController()
  #attempt: AbortController | undefined
  #lastEventId: string | undefined
  #patience: number | undefined = PATIENCE
  #heardAt = 0
  #watchdog: ReturnType<typeof setTimeout> | undefined

  constructor (send: Send, options: ConnectionOptions, listener: ConnectionListener) {
    this.#send = send
    this.#options = options
    this.#listener = listener
  }

  /** Connects again and again until the session is over. */
  async run (): Promise<void> {
    while (!this.#end.signal.aborted) {
      let retryAfter = 0
      try {
        retryAfter = await this.#stream()
        this.#listener.lost(new ClientError('ENDED', 'The stream has ended'))
      } catch (error) {
        if (this.#end.signal.aborted) break
        if (error instanceof ClientError) this.#finish(error.code, error)
        else this.#listener.lost(error)
      }
      clearTimeout(this.#watchdog)
      await this.#backoff.wait(this.#end.signal, retryAfter)
    }
  }

  /** Gives the present stream up, if it is doubtful, and connects at once. */
  reconnect (): void {
    this.#attempt?.abort(new TypeError('The stream has died'))
    this.#backoff.reset()
    this.#backoff.wake()
  }

  /** Connects at once if nothing is to be waited for but time; a stream that has been silent for too long is given up. */
  wake (): void {
    if (this.#patience !== undefined && Date.now() - this.#heardAt > this.#patience) this.reconnect()
    else this.#backoff.wake()
  }

  stop (): void {
    this.#end.abort()
    this.#attempt?.abort()
    clearTimeout(this.#watchdog)
  }

  #finish (reason: string, error?: ClientError): void {
    if (this.#end.signal.aborted) return
    this.stop()
    this.#listener.closed(reason, error)
  }

  /** One stream, from the request to its end. Answers how many seconds the server wants to be left alone. */
  async #stream (): Promise<number> {
    const attempt = this.#attempt = new AbortController()
    this.#heard()
    const response = await this.#send(this.#options.path, {
      headers: { accept: 'text/event-stream', ...this.#lastEventId !== undefined && { 'last-event-id': this.#lastEventId } },
      cache: 'no-store',
      signal: attempt.signal
    })
    if (response.status === 204) {
      this.#finish('closed')
      return 0
    }
    if (isPassing(response.status)) {
      await response.body?.cancel()
      return Number(response.headers.get('retry-after')) || 0
    }
    if (!response.ok) throw errorOf(response.status, await response.json().catch(() => undefined))
    // [WHATWG HTML 9.2.2] Anything but an event stream fails the connection for good.
    if (!/^text\/event-stream\b/i.test(response.headers.get('content-type') ?? '') || response.body === null) {
      throw new ClientError('NOT_A_STREAM', 'The answer is no event stream', response.status)
    }
    await this.#read(response.body)
    return 0
  }

  async #read (body: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder()
    const parser = createParser({
      onEvent: ({ id, event = 'message', data }) => {
        this.#lastEventId = id ?? this.#lastEventId
        this.#receive(event, data)
      },
      onRetry: retry => { this.#backoff.floor = retry },
      onError: ({ type }) => {
        if (type === 'max-buffer-size-exceeded') this.#finish('EVENT_TOO_LARGE', new ClientError('EVENT_TOO_LARGE', 'An event is larger than maxEventSize'))
      },
      maxBufferSize: this.#options.maxEventSize
    })
    const reader = body.getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done || this.#end.signal.aborted) return
      this.#heard()
      parser.feed(decoder.decode(value, { stream: true }))
    }
  }

  #receive (event: string, text: string): void {
    const data = JSON.parse(text)
    if (event === 'close' || event === 'replaced') {
      this.#finish(data.reason ?? event)
      return
    }
    if (event !== 'welcome') {
      this.#listener.event(event, data)
      return
    }
    this.#backoff.reset()
    this.#patience = data.heartbeatInterval === undefined ? undefined : data.heartbeatInterval * SILENT_INTERVALS
    this.#heard()
    this.#listener.welcome(data)
  }

  /** The server was heard: the watchdog, which gives a silent stream up, starts anew. */
  #heard (): void {
    this.#heardAt = Date.now()
    clearTimeout(this.#watchdog)
    if (this.#patience !== undefined) this.#watchdog = setTimeout(() => { this.reconnect() }, this.#patience)
  }
}
