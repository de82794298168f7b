import type { FastifyBaseLogger } from 'fastify'
import { setMaxListeners } from 'node:events'
import { SessionOver } from './errors.js'
import type { HookLists } from './hooks.js'
import { begin } from './promises.js'
import type { Mailbox } from './store/mailbox.js'
import type { SessionData, SessionState } from './store/state.js'
import type { Awaitable, Store } from './store/store.js'
import { Downstream } from './stream/downstream.js'
import { pace } from './stream/pace.js'
import type { Sink } from './stream/transport.js'
import { frameClose, frameEvent, frameGap, frameWelcome, REPLACED_FRAME, type Gap } from './wire/frame.js'

/** What a session needs of the registry that it is in. */
export interface SessionHouse {
  readonly store: Store
  readonly hooks: HookLists
  /** Those whose end somebody waits for: they are at hand until then. */
  readonly awaited: Set<Session>
  retry (): number
  attached (stream: Downstream): void
  detached (stream: Downstream): void
  lost (session: Session): void
  end (session: Session, reason: string): Awaitable<void>
}

/** Where a client says it stands, and what it is told of its session. */
export interface Arrival {
  readonly sink: Sink
  /** The last position that the client has. */
  readonly cursor: number
  /** The newest position of the store. */
  readonly head: number
  /** The data of the welcome event, as JSON. */
  readonly welcome: string
  readonly resumed: boolean
  /** The how-manieth request for the session's stream it is; 0 for that which opened the session. */
  readonly order: number
  readonly log: FastifyBaseLogger
}

/**
 * One client's two-way conversation. It outlives its streams, and ends by `close` or by expiry. Where several processes
 * share a store, each may have the session at hand, and all of them act on the same one.
 */
export class Session {
  readonly #state: SessionState
  readonly #house: SessionHouse
  #mailbox: Mailbox | undefined
  #stream: Downstream | undefined
  /** Requests for a stream that are on their way, and the stream. */
  #claims = 0
  /** How many requests came for a stream of it, and which of them it is that has got it. */
  #asked = 0
  #served = 0
  #lost = false
  #abort: AbortController | undefined
  #onProgress: Set<() => void> | undefined

  /** @internal */
  constructor (state: SessionState, house: SessionHouse) {
    this.#state = state
    this.#house = house
    state.listener = this
  }

  /** Whose it is, as option `principal` said. */
  get principal (): string | undefined {
    return this.#state.principal
  }

  /** A bearer secret: who knows it, and passes `principal`, is the client. Log {@link label} instead. */
  get id (): string {
    return this.#state.id
  }

  /** The first 6 characters of the id: enough to follow a session in logs, too little to take it over. */
  get label (): string {
    return this.id.slice(0, 6)
  }

  /** Whether a stream is there now. What is sent while none is waits in the log. */
  get connected (): boolean {
    return this.#stream !== undefined || this.#state.elsewhere
  }

  /** Whether the session has ended. */
  get closed (): boolean {
    return this.#state.endedBy !== undefined
  }

  /** What {@link update} has put together. */
  get data (): Readonly<SessionData> {
    return this.#state.data
  }

  /** The names of the channels it is in. */
  get channels (): string[] {
    return [...this.#state.channels ?? []]
  }

  /** Aborts when the session ends; the loss of a stream does not abort it. */
  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      // A session may have any number of producers.
      setMaxListeners(0, this.#abort.signal)
      this.#house.awaited.add(this)
    }
    if (this.closed) this.#endSignal()
    return this.#abort.signal
  }

  /** Sends the default event, `message`. Resolves, and rejects, as {@link emit}. */
  send (data: unknown): Promise<void> {
    return this.emit('message', data)
  }

  /**
   * Sends a named event. Resolves when it is in the session's log, whether a stream is there or not; from then on it
   * is delivered once and in order, or told as a gap. Rejects with FST_SSE_SESSION_OVER, FST_SSE_EVENT_INVALID,
   * FST_SSE_DATA_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE. A rejection that nobody awaits is harmless.
   */
  emit (event: string, data: unknown): Promise<void> {
    return begin(() => this.#send(event, data))
  }

  /**
   * Sends each item of an iterable as a named event, at the pace of the client: the next item is asked for when less
   * than half a log is still unsent. A lost stream is waited for. Resolves when the iterable ends; rejects with what
   * it throws, or as {@link emit}. When the session ends the iterable is told to return, and this rejects with
   * FST_SSE_SESSION_OVER.
   */
  stream (event: string, items: AsyncIterable<unknown> | Iterable<unknown>): Promise<void> {
    return begin(() => pace(items, this.signal, {
      take: item => this.#send(event, item),
      ready: () => this.#ready()
    }))
  }

  /** Enters a channel, and gets what is sent to it from now on. Rejects with FST_SSE_SESSION_OVER or FST_SSE_STORE_UNAVAILABLE. */
  join (channel: string): Promise<void> {
    return begin(() => this.#house.store.join(this.#state, channel))
  }

  /**
   * Leaves a channel. What was sent to it before is still delivered: to a client that is away, that of the last 100
   * channels it has left. Rejects with FST_SSE_STORE_UNAVAILABLE.
   */
  leave (channel: string): Promise<void> {
    return begin(() => this.#house.store.leave(this.#state, channel))
  }

  /** Changes `data`: the given properties are set, the others stay. Rejects with FST_SSE_SESSION_OVER or FST_SSE_STORE_UNAVAILABLE. */
  update (change: SessionData): Promise<void> {
    return begin(() => this.#house.store.update(this.#state, change))
  }

  /**
   * Ends the session. A connected client gets what is in the log and then the `close` event with the reason; one that
   * comes back within `resumeTimeout` gets the same. Resolves when the `onClose` hooks have run; again is harmless.
   * Rejects with FST_SSE_STORE_UNAVAILABLE.
   */
  close (reason = 'closed'): Promise<void> {
    return begin(() => this.#house.end(this, reason))
  }

  /** @internal The last position written to a stream. */
  get cursor (): number {
    return this.#stream?.cursor ?? this.#state.cursor
  }

  /** @internal */
  get mailbox (): Mailbox {
    this.#mailbox ??= this.#house.store.mailbox(this.#state)
    return this.#mailbox
  }

  /** @internal */
  get state (): SessionState {
    return this.#state
  }

  /** @internal Has been opened for a request, which holds it. */
  claim (): void {
    this.#claims++
  }

  /** @internal A request for its stream is on the way: it does not expire until {@link release}, or until the stream ends. Answers with the request's order. */
  hold (): number {
    if (this.#claims++ === 0) this.#house.store.hold(this.#state)
    return ++this.#asked
  }

  /** @internal */
  release (): void {
    if (--this.#claims === 0) this.#house.store.detach(this.#state)
  }

  /** @internal The client, of which the app was told that it is back, has left before its stream began. */
  abandon (): void {
    this.release()
    this.#tellDisconnect()
  }

  /** @internal Makes a response the session's one stream; one that was there is replaced, but for one that was asked for later. */
  attach ({ sink, cursor, head, welcome, resumed, order, log }: Arrival): void {
    // One that came later was faster: its client is the one that goes on.
    if (this.#stream !== undefined && order < this.#served) {
      sink.end(REPLACED_FRAME)
      return
    }
    this.#served = order
    this.replaced()
    // A cursor ahead of the store has seen positions that the store has lost, and will give again.
    const wentBack = cursor > head ? { after: cursor, resumedAt: head, reason: 'store' } as const : undefined
    const stream = new Downstream(this.id, this.#state.sources, Math.min(cursor, head), sink, this, log)
    this.#stream = stream
    this.#house.attached(stream)
    log.info({ session: this.label, resumed }, 'event stream opened')
    let opening = frameWelcome(this.id, cursor, this.#house.retry(), welcome)
    if (wentBack !== undefined) opening += frameGap(this.id, head, wentBack)
    stream.start(opening)
    // Now that the stream has begun: a hook may send so much that it is written at once.
    if (wentBack !== undefined) this.gapped(wentBack)
    const { endedBy, elsewhere, sources } = this.#state
    if (this.#lost) this.#cut('', 'lost')
    else if (endedBy !== undefined) stream.finish(frameClose(endedBy), endedBy)
    // Another process has taken it while the response was on its way through the hooks.
    else if (elsewhere) this.replaced()
    // And has no stream of it any more: the client is to come back.
    else if (sources.length === 0) this.#cut('', 'replaced')
  }

  /** @internal Its stream ends with what is in the logs, and whoever waits for it is told. */
  ended (): void {
    const { endedBy = 'closed' } = this.#state
    this.#stream?.finish(frameClose(endedBy), endedBy)
    this.#endSignal()
    this.advanced()
    this.#mailbox = undefined
  }

  /** @internal */
  get mayWrite (): boolean {
    return this.#state.mayWrite
  }

  /** @internal */
  wake (): void {
    this.#stream?.wake()
  }

  /** @internal */
  replaced (): void {
    this.#cut(REPLACED_FRAME, 'replaced')
  }

  /** @internal */
  lost (): void {
    // Without the event that tells a client to stop: it is to come back.
    const hadStream = this.#cut('', 'lost')
    this.#lost = true
    this.ended()
    if (hadStream) this.#house.lost(this)
  }

  /** @internal */
  forgotten (): void {
    this.#stream?.destroy()
  }

  /** @internal */
  advanced (): void {
    if (this.#onProgress === undefined) return
    const waiting = this.#onProgress
    this.#onProgress = undefined
    for (const proceed of waiting) proceed()
  }

  /** @internal */
  gapped (gap: Gap): void {
    this.#house.hooks.tell('onGap', this, gap)
  }

  /** @internal */
  streamEnded (stream: Downstream): void {
    const duration = Math.round(performance.now() - stream.openedAt)
    stream.log.info({ session: this.label, reason: stream.reason, duration }, 'event stream ended')
    this.#house.detached(stream)
    if (stream !== this.#stream) return
    this.#letGo(stream)
    this.#tellDisconnect()
  }

  #endSignal (): void {
    this.#abort?.abort(new SessionOver())
    this.#house.awaited.delete(this)
  }

  /** Ends the stream now. It is the session's no more, however long its client takes to hear of it. */
  #cut (last: string, reason: string): boolean {
    const stream = this.#stream
    if (stream === undefined) return false
    stream.cut(last, reason)
    this.#letGo(stream)
    return true
  }

  #letGo (stream: Downstream): void {
    this.#state.cursor = stream.cursor
    this.#stream = undefined
    // Where the log is at hand no longer, producers have to ask the store.
    this.advanced()
    this.release()
  }

  #tellDisconnect (): void {
    if (!this.connected && !this.closed) this.#house.hooks.tell('onDisconnect', this)
  }

  #send (event: string, data: unknown): Awaitable<void> {
    return this.#house.store.send(this.#state, { frame: frameEvent(event, data) })
  }

  /** Whether, or when, so much of the own log is sent that a producer may go on. */
  #ready (): Awaitable<void> {
    const { log } = this.#state
    if (this.closed) return
    if (log === undefined) return this.#house.store.drained(this.#state)
    if (!log.isHalfFullAfter(this.cursor)) return
    return new Promise<void>(resolve => {
      this.#onProgress ??= new Set()
      this.#onProgress.add(resolve)
    }).then(() => this.#ready())
  }
}
