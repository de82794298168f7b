import { Connection, type Welcome } from './connection.js'
import type { Contract, DownData, DownEvent, Payload, Received, UpAnswer, UpData, UpEvent } from '../contract.js'
import { ClientError } from './errors.js'
import type { ConnectOptions, Source } from './options.js'
import { Outbox, type RequestOptions } from './outbox.js'
import { sender, type Send } from './send.js'

export type { Contract, Received } from '../contract.js'
export type { ConnectOptions } from './options.js'
export type { RequestOptions } from './outbox.js'
export { ClientError } from './errors.js'

// Milliseconds for which `close` waits for the server's answer.
const GOODBYE = 5000

/** `connecting` before the first welcome, `open`, `disconnected` while a lost stream is awaited, `closed` for good. */
export type State = 'connecting' | 'open' | 'disconnected' | 'closed'

/** Events of the session's own, with their data. */
export interface SessionEvents {
  /** The session has begun, with the data of the welcome. */
  open: Welcome & Record<string, unknown>
  /** A lost stream is back. What was missed follows; first a `gap`, where some of it can no longer be had. */
  resume: Welcome & Record<string, unknown>
  /** The server no longer knew the session: a new one has begun, and what was missed is lost. */
  reset: Welcome & Record<string, unknown>
  /** The stream is lost; it is being replaced. The error is a {@link ClientError}, `ENDED` or `SILENT`, or that of the network. */
  disconnect: { readonly error: unknown }
  /** Of what was sent, that after the one position, up to and including the other, can no longer be had. */
  gap: { readonly after: number, readonly resumedAt: number, readonly reason: string }
  /** An attempt to connect has failed, and there will be another; or an event was no JSON. Just before `close`: what the session ended by. */
  error: unknown
  /** The session is over. The reason is the server's, `replaced` (by another stream), the code of the error, or else `closed`. */
  close: { readonly reason: string }
}

/** The data of an event, be it the session's own or the server's. */
export type EventData<C extends Contract, Event> =
  Event extends keyof SessionEvents ? SessionEvents[Event] : DownData<C, Event>

/** One two-way conversation, seen from the client. It outlives its connection. */
export class ClientSession<C extends Contract = Contract> implements AsyncIterable<Received<C>> {
  readonly #connection: Connection
  readonly #outbox: Outbox
  readonly #send: Send
  readonly #downward: string
  readonly #listeners = new Map<string, Set<(data: never) => void>>()
  readonly #iterations = new Set<(received: Received<C> | undefined) => void>()
  readonly #abort = new AbortController()
  #state: State = 'connecting'
  #sessionId: string | undefined
  #ended: unknown

  /** Use {@link connect}. */
  constructor (url: Source<string | URL>, options: ConnectOptions) {
    const { paths: { downward = '/downward', upward = '/upward' } = {}, timeout = 60_000, maxQueued = 1000, maxEventSize = 2 ** 24 } = options
    const pace = { floor: 1000 }
    this.#downward = downward
    this.#send = sender(url, options)
    this.#outbox = new Outbox(this.#send, { path: upward, timeout, maxQueued }, pace, () => {
      if (this.#state === 'open') this.#connection.reconnect()
    })
    this.#connection = new Connection(this.#send, { path: downward, maxEventSize }, pace, {
      welcome: data => { this.#welcome(data) },
      event: (name, data) => { this.#receive(name, data) },
      lost: error => { this.#lost(error) },
      unreadable: error => { this.#tell('error', error) },
      closed: (reason, error) => { this.#close(reason, error) }
    })
    this.#listenToPage()
    this.#connection.run()
  }

  /** How it stands with the stream. */
  get state (): State {
    return this.#state
  }

  /** A secret, known from the first welcome on. */
  get sessionId (): string | undefined {
    return this.#sessionId
  }

  /** Aborts when the session is over. */
  get signal (): AbortSignal {
    return this.#abort.signal
  }

  /**
   * Listens to an event of the server's, or of the session's own. Answers a function that ends it.
   * What a listener throws is an uncaught error, as with any emitter of events; the session goes on.
   */
  on<Event extends DownEvent<C> | keyof SessionEvents> (event: Event, listener: (data: EventData<C, Event>) => void): () => void {
    let listeners = this.#listeners.get(event)
    if (listeners === undefined) this.#listeners.set(event, listeners = new Set())
    // Of its own: who listens twice with one function may end the one, and not the other.
    const hear: typeof listener = data => { listener(data) }
    listeners.add(hear)
    return () => { listeners.delete(hear) }
  }

  /** Sends the default event, `message`. Resolves when it was handled; rejects as {@link ClientSession.request}. */
  send (...payload: Payload<UpData<C, 'message'>>): Promise<void>
  send (data?: unknown): Promise<void> {
    return this.#outbox.push('message', data) as Promise<void>
  }

  /** Sends a named event. Resolves when it was handled; rejects as {@link ClientSession.request}. */
  emit<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>>): Promise<void>
  emit (event: string, data?: unknown): Promise<void> {
    return this.#outbox.push(event, data) as Promise<void>
  }

  /**
   * Sends a named event and resolves with what its handler returned. It is repeated until answered, and handled once at most.
   * Rejects with a {@link ClientError}: `TIMEOUT`, `QUEUE_FULL`, `RESET`, `CLOSED` or what else the session ended by, or
   * the answer's own code; with the reason of `signal`; or with a `TypeError` where the data is no JSON.
   */
  request<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>, [options?: RequestOptions]>): Promise<UpAnswer<C, Event>>
  request (event: string, data?: unknown, options?: RequestOptions): Promise<unknown> {
    return this.#outbox.push(event, data, options)
  }

  /** The events of the server from now on, until the session is over; throws what it ended by, if that was an error. */
  async * [Symbol.asyncIterator] (): AsyncGenerator<Received<C>, void, undefined> {
    const received: Received<C>[] = []
    let proceed = (): void => {}
    const take = (item: Received<C> | undefined): void => {
      if (item !== undefined) received.push(item)
      proceed()
    }
    this.#iterations.add(take)
    try {
      for (;;) {
        yield * received.splice(0)
        if (received.length > 0) continue
        if (this.#state === 'closed') break
        await new Promise<void>(resolve => { proceed = resolve })
      }
    } finally {
      this.#iterations.delete(take)
    }
    if (this.#ended !== undefined) throw this.#ended
  }

  /**
   * Ends the session, here at once, and at the server. What waits for its answer fails with `CLOSED`.
   * Resolves when the server has answered, after 5 seconds at most, and never rejects.
   */
  async close (): Promise<void> {
    if (this.#state === 'closed') return
    const sessionId = this.#sessionId
    this.#connection.stop()
    this.#close('closed')
    if (sessionId === undefined) return
    // keepalive: the page may be going. Where the server cannot be reached the session expires.
    const init = { method: 'DELETE', headers: { 'x-session-id': sessionId }, keepalive: true, signal: AbortSignal.timeout(GOODBYE) }
    await this.#send(this.#downward, init).catch(() => {})
  }

  #welcome (data: Welcome): void {
    const event = data.resumed ? 'resume' : this.#sessionId === undefined ? 'open' : 'reset'
    this.#state = 'open'
    this.#sessionId = data.sessionId
    this.#outbox.open(data.sessionId)
    this.#tell(event, data)
  }

  #receive (event: string, data: unknown): void {
    this.#tell(event, data)
    if (event === 'gap') return
    for (const take of this.#iterations) take({ event, data } as Received<C>)
  }

  #lost (error: unknown): void {
    if (this.#state === 'open') {
      this.#state = 'disconnected'
      this.#tell('disconnect', { error })
    } else {
      this.#tell('error', error)
    }
  }

  #close (reason: string, error?: ClientError): void {
    this.#state = 'closed'
    this.#ended = error
    this.#outbox.close(error ?? new ClientError('CLOSED', `The session is over: ${reason}`))
    this.#abort.abort()
    if (error !== undefined) this.#tell('error', error)
    this.#tell('close', { reason })
    for (const take of this.#iterations) take(undefined)
  }

  #tell (event: string, data: unknown): void {
    const listeners = this.#listeners.get(event) ?? new Set()
    // Not those that come meanwhile: one that listens anew each time would hear this event for ever.
    for (const listener of [...listeners]) {
      if (!listeners.has(listener)) continue
      try {
        listener(data as never)
      } catch (error) {
        queueMicrotask(() => { throw error })
      }
    }
  }

  // In a browser, what may have changed the network, or frozen the page, is a reason to look after the stream at once.
  #listenToPage (): void {
    if (typeof document === 'undefined') return
    const page = document.defaultView
    const { signal } = this.#abort
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.#connection.wake() }, { signal })
    page?.addEventListener('online', () => { this.#connection.wake() }, { signal })
    page?.addEventListener('pageshow', ({ persisted }) => { if (persisted) this.#connection.reconnect() }, { signal })
    page?.addEventListener('pagehide', ({ persisted }) => { if (!persisted) this.close() }, { signal })
  }
}

/**
 * Opens a session at the URL under which the server has registered the plugin: `connect('/chat')`. The URL may be a
 * function, asked before each request. Connects, and connects again, by itself, until the session is over. What goes
 * wrong is told by the session's events `error` and `close`, see {@link SessionEvents}; for the options see {@link ConnectOptions}.
 */
export function connect<C extends Contract = Contract> (url: Source<string | URL>, options: ConnectOptions = {}): ClientSession<C> {
  return new ClientSession<C>(url, options)
}
