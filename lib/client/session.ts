import type { Contract, DownData, DownEvent, Payload, Received, UpResponse, UpData, UpEvent } from '../contract.js'
import { Connection, type ConnectionListener, type Welcome } from './connection.js'
import { ClientError } from './errors.js'
import type { ConnectOptions, Resolvable } from './options.js'
import { Outbox, type RequestOptions } from './outbox.js'
import { createSend, type Send } from './send.js'

// Maximum time for which `close` waits for the response of the server, in milliseconds.
const CLOSE_TIMEOUT = 5000
// Internal event for iterators, with a name that no event of the server can have. Its data is the next event of the server,
// or `undefined` when the session is closed.
const ITERATOR_EVENT = ''

/** `connecting` before the first stream, `open` with a stream, `disconnected` between two streams, `closed` at the end. */
export type State = 'connecting' | 'open' | 'disconnected' | 'closed'

/** The client's own events, with their data. */
export interface SessionEvents {
  /** The session is open. The data is that of the `welcome` event. */
  open: Welcome & Record<string, unknown>
  /** The client has resumed the session. The missed events follow, after a `gap` event if the server no longer has all of them. */
  resume: Welcome & Record<string, unknown>
  /** The server no longer had the session and opened a new one. The missed events are lost. */
  reset: Welcome & Record<string, unknown>
  /** The stream is lost, and the client reconnects. The error is a {@link ClientError} with code `ENDED` or `SILENT`, or a network error. */
  disconnect: { readonly error: unknown }
  /** The server no longer has the events from position `after` (exclusive) to position `resumedAt` (inclusive). The reason is `count`, `bytes`, `age` or `store`. */
  gap: { readonly after: number, readonly resumedAt: number, readonly reason: string }
  /** A request for a stream failed and the client tries again, or the data of an event is not JSON. Also emitted before `close` if the session failed. */
  error: unknown
  /** The session is closed. The reason is that of the server, `replaced` if another stream replaced this one, the code of the error, or else `closed`. */
  close: { readonly reason: string }
}

/** The data of an event, either one of the client's own or one that the server sends. */
export type EventData<C extends Contract, Event> =
  Event extends keyof SessionEvents ? SessionEvents[Event] : DownData<C, Event>

/** A two-way session with the server. It continues when a connection is lost. */
export class ClientSession<C extends Contract = Contract> implements AsyncIterable<Received<C>> {
  readonly #connection: Connection
  readonly #outbox: Outbox
  readonly #send: Send
  readonly #downwardPath: string
  readonly #listeners = new Set<readonly [event: string, listener: (data: never) => void]>()
  readonly #abortController = new AbortController()
  #state: State = 'connecting'
  #sessionId: string | undefined
  #closeError: ClientError | undefined

  /** Use {@link connect} instead. */
  constructor (url: Resolvable<string | URL>, options: ConnectOptions) {
    const { paths: { downward = '/downward', upward = '/upward' } = {}, timeout = 60_000, maxQueued = 1000, maxEventSize = 2 ** 24 } = options
    const retrySettings = { retryDelay: 1000 }
    this.#downwardPath = downward
    this.#send = createSend(url, options)
    this.#outbox = new Outbox(this.#send, { path: upward, timeout, maxQueued }, retrySettings, () => {
      if (this.#state === 'open') this.#connection.reconnect()
    })
    this.#connection = new Connection(this.#send, { path: downward, maxEventSize }, retrySettings, this.#createListener())
    this.#addPageListeners()
    this.#connection.run()
  }

  /** The state of the session and its stream. */
  get state (): State {
    return this.#state
  }

  /** The id of the session, which is a secret; `undefined` before the first `open` event. */
  get sessionId (): string | undefined {
    return this.#sessionId
  }

  /** Aborts when the session is closed. */
  get signal (): AbortSignal {
    return this.#abortController.signal
  }

  /**
   * Adds a listener for an event of the server or of the client. Returns a function that removes it.
   * An error that the listener throws becomes an uncaught error; the session continues.
   */
  on<Event extends DownEvent<C> | keyof SessionEvents> (event: Event, listener: (data: EventData<C, Event>) => void): () => void {
    // A new entry for each call, so that a function that is added twice can be removed once.
    const entry = [event, listener] as const
    this.#listeners.add(entry)
    return () => { this.#listeners.delete(entry) }
  }

  /** Sends a message with the default event name, `message`. Resolves when the server has handled it. Rejects like {@link ClientSession.request}. */
  send (...payload: Payload<UpData<C, 'message'>>): Promise<void>
  send (data?: unknown): Promise<void> {
    return this.#outbox.push('message', data) as Promise<void>
  }

  /** Sends a message with this event name. Resolves when the server has handled it. Rejects like {@link ClientSession.request}. */
  emit<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>>): Promise<void>
  emit (event: string, data?: unknown): Promise<void> {
    return this.#outbox.push(event, data) as Promise<void>
  }

  /**
   * Sends a message with this event name. Resolves with what its handler returned. The client repeats the message until it
   * gets a response; the server handles it at most once.
   *
   * Rejects with a {@link ClientError}, whose code is `TIMEOUT`, `QUEUE_FULL`, `RESET`, `CLOSED`, the code of the error that
   * closed the session, or that of the response. Rejects with the reason of `signal` if that aborts, and with a `TypeError` if the data
   * cannot be converted to JSON.
   */
  request<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>, [options?: RequestOptions]>): Promise<UpResponse<C, Event>>
  request (event: string, data?: unknown, options?: RequestOptions): Promise<unknown> {
    return this.#outbox.push(event, data, options)
  }

  /** Iterates over the events of the server from now on, until the session is closed. Throws the error that closed it, if there is one. */
  async * [Symbol.asyncIterator] (): AsyncGenerator<Received<C>, void, undefined> {
    const queue: Received<C>[] = []
    let wake = (): void => {}
    const push = (received?: Received<C>): void => {
      if (received !== undefined) queue.push(received)
      wake()
    }
    const remove = this.on(ITERATOR_EVENT as never, push as never)
    try {
      for (;;) {
        yield * queue.splice(0)
        // Further events may have arrived during the `yield`.
        if (queue.length > 0) continue
        if (this.#state === 'closed') break
        await new Promise<void>(resolve => { wake = resolve })
      }
    } finally {
      remove()
    }
    if (this.#closeError) throw this.#closeError
  }

  /**
   * Closes the session: at once for the client, then on the server. Messages without a response fail with `CLOSED`.
   * Resolves when the server has responded, or after 5 seconds. Never rejects.
   */
  async close (): Promise<void> {
    if (this.#state === 'closed') return
    const sessionId = this.#sessionId
    this.#connection.stop()
    this.#onClose('closed')
    if (!sessionId) return
    // With `keepalive`, the request continues when the page is closed. If the request fails, the session expires on the server.
    const options = { method: 'DELETE', headers: { 'x-session-id': sessionId }, keepalive: true, signal: AbortSignal.timeout(CLOSE_TIMEOUT) }
    await this.#send(this.#downwardPath, options).catch(() => {})
  }

  #createListener (): ConnectionListener {
    return {
      onWelcome: welcome => {
        const event = welcome.resumed ? 'resume' : this.#sessionId ? 'reset' : 'open'
        this.#state = 'open'
        this.#sessionId = welcome.sessionId
        this.#outbox.resume(welcome.sessionId)
        this.#notify(event, welcome)
      },
      onEvent: (event, data) => {
        this.#notify(event, data)
        if (event !== 'gap') this.#notify(ITERATOR_EVENT, { event, data })
      },
      onError: error => {
        if (this.#state === 'open') {
          this.#state = 'disconnected'
          this.#notify('disconnect', { error })
        } else {
          this.#notify('error', error)
        }
      },
      onParseError: error => { this.#notify('error', error) },
      onClose: (reason, error) => { this.#onClose(reason, error) }
    }
  }

  #onClose (reason: string, error?: ClientError): void {
    this.#state = 'closed'
    this.#closeError = error
    this.#outbox.close(error ?? new ClientError('CLOSED', `The session is closed (${reason}); connect again`))
    this.#abortController.abort()
    if (error) this.#notify('error', error)
    this.#notify('close', { reason })
    this.#notify(ITERATOR_EVENT)
  }

  #notify (event: string, data?: unknown): void {
    // The copy excludes listeners that are added during the loop. Otherwise one that replaces itself would be called forever.
    for (const entry of [...this.#listeners]) {
      const [name, listener] = entry
      if (name !== event || !this.#listeners.has(entry)) continue
      try {
        listener(data as never)
      } catch (error) {
        queueMicrotask(() => { throw error })
      }
    }
  }

  // A change of the network, or a time in which the page was frozen, can leave a dead stream. So the client checks the stream then.
  #addPageListeners (): void {
    const { document } = globalThis
    const page = document?.defaultView
    const { signal } = this
    document?.addEventListener('visibilitychange', () => { if (!document.hidden) this.#connection.ensureAlive() }, { signal })
    page?.addEventListener('online', () => { this.#connection.ensureAlive() }, { signal })
    page?.addEventListener('pageshow', ({ persisted }) => { if (persisted) this.#connection.reconnect() }, { signal })
    page?.addEventListener('pagehide', ({ persisted }) => { if (!persisted) this.close() }, { signal })
  }
}

/**
 * Opens a session. `url` is the prefix of the plugin's routes, for example `/chat`, or a function that returns it, which is
 * called before each request. The client reconnects until the session is closed. It reports errors with the events
 * `error` and `close`, see {@link SessionEvents}.
 */
export function connect<C extends Contract = Contract> (url: Resolvable<string | URL>, options: ConnectOptions = {}): ClientSession<C> {
  return new ClientSession<C>(url, options)
}
