import type { FastifyBaseLogger } from 'fastify'
import type { Channels } from './channel.js'
import { SessionOver } from './errors.js'
import type { HookLists } from './hooks.js'
import type { Mailbox } from './mailbox.js'
import { begin, chain, ignore } from './promises.js'
import { now, type Log, type LogBounds } from './store/log.js'
import type { Awaitable, Store } from './store/store.js'
import { Downstream, type Source } from './stream/downstream.js'
import { pace } from './stream/pace.js'
import type { Sink } from './stream/transport.js'
import { frameClose, frameEvent, frameGap, frameWelcome, REPLACED_FRAME, type Gap } from './wire/frame.js'

/** What an app keeps with a session. Extend it by declaration merging to have it typed. */
export interface SessionData {
  [key: string]: unknown
}

/** What a session needs of the registry that holds it. */
export interface SessionHouse {
  readonly store: Store
  readonly channels: Channels
  readonly hooks: HookLists
  readonly log: FastifyBaseLogger
  readonly logBounds: LogBounds
  mailbox (): Mailbox
  retry (): number
  attached (session: Session, stream: Downstream): void
  detached (session: Session, stream: Downstream): void
  end (session: Session, reason: string): Promise<void>
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
  readonly log: FastifyBaseLogger
}

/** One client's two-way conversation. It outlives its streams, and ends by `close` or by expiry. */
export class Session {
  /** Whose it is, as option `principal` said. */
  readonly principal: string | undefined
  // Not a property: a logger that is given the session would print it.
  readonly #id: string
  readonly #house: SessionHouse
  readonly #openedAt: number
  readonly #sources: Source[]
  #data: Readonly<SessionData> = {}
  #log: Log | undefined
  #memberships: Map<string, Source> | undefined
  #mailbox: Mailbox | undefined
  #stream: Downstream | undefined
  #cursor: number
  #endedBy: string | undefined
  #abort: AbortController | undefined
  #onProgress: Set<() => void> | undefined

  /** @internal */
  constructor (id: string, principal: string | undefined, openedAt: number, broadcasts: Log, house: SessionHouse) {
    this.#id = id
    this.principal = principal
    this.#house = house
    this.#openedAt = openedAt
    this.#cursor = openedAt
    this.#sources = [{ log: broadcasts, from: openedAt, to: Infinity }]
  }

  /** A bearer secret: who knows it, and passes `principal`, is the client. Log {@link label} instead. */
  get id (): string {
    return this.#id
  }

  /** The first 6 characters of the id: enough to follow a session in logs, too little to take it over. */
  get label (): string {
    return this.id.slice(0, 6)
  }

  /** Whether a stream is there now. What is sent while none is waits in the log. */
  get connected (): boolean {
    return this.#stream !== undefined
  }

  /** Whether the session has ended. */
  get closed (): boolean {
    return this.#endedBy !== undefined
  }

  /** What {@link update} has put together. */
  get data (): Readonly<SessionData> {
    return this.#data
  }

  /** The names of the channels it is in. */
  get channels (): string[] {
    return [...this.#memberships?.keys() ?? []]
  }

  /** Aborts when the session ends; the loss of a stream does not abort it. */
  get signal (): AbortSignal {
    this.#abort ??= new AbortController()
    if (this.closed) this.#abort.abort(new SessionOver())
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
    return begin(() => this.#append(frameEvent(event, data)))
  }

  /**
   * Sends each item of an iterable as a named event, at the pace of the client: the next item is asked for when less
   * than half a log is still unsent. A lost stream is waited for. Resolves when the iterable ends; rejects with what
   * it throws, or as {@link emit}. When the session ends the iterable is told to return, and this rejects with
   * FST_SSE_SESSION_OVER.
   */
  stream (event: string, items: AsyncIterable<unknown> | Iterable<unknown>): Promise<void> {
    return begin(() => pace(items, this.signal, {
      take: item => this.#append(frameEvent(event, item)),
      ready: () => this.#ready()
    }))
  }

  /** Enters a channel, and gets what is sent to it from now on. Rejects with FST_SSE_SESSION_OVER. */
  join (channel: string): Promise<void> {
    return begin(() => this.#join(channel))
  }

  /** Leaves a channel. What was sent to it before is still delivered. */
  leave (channel: string): Promise<void> {
    return begin(() => { this.#leave(channel) })
  }

  /** Changes `data`: the given properties are set, the others stay. Rejects with FST_SSE_SESSION_OVER. */
  update (change: SessionData): Promise<void> {
    return begin(() => {
      if (this.closed) throw new SessionOver()
      this.#data = { ...this.#data, ...change }
    })
  }

  /**
   * Ends the session. A connected client gets what is in the log and then the `close` event with the reason; one that
   * comes back within `resumeTimeout` gets the same. Resolves when the `onClose` hooks have run; again is harmless.
   */
  close (reason = 'closed'): Promise<void> {
    return begin(() => this.#house.end(this, reason))
  }

  /** @internal The last position written to a stream. */
  get cursor (): number {
    return this.#stream?.cursor ?? this.#cursor
  }

  /** @internal */
  get mailbox (): Mailbox {
    this.#mailbox ??= this.#house.mailbox()
    return this.#mailbox
  }

  /** @internal Makes a response the session's one stream; one that was there is replaced. */
  attach ({ sink, cursor, head, welcome, resumed, log }: Arrival): void {
    this.#stream?.cut(REPLACED_FRAME, 'replaced')
    // A cursor ahead of the store has seen positions that the store has lost, and will give again.
    const wentBack = cursor > head ? { after: cursor, resumedAt: head, reason: 'store' } as const : undefined
    this.#forget()
    const stream = new Downstream(this.id, this.#sources, Math.min(cursor, head), sink, this, log)
    this.#stream = stream
    this.#house.attached(this, stream)
    log.info({ session: this.label, resumed }, 'event stream opened')
    let opening = frameWelcome(this.id, cursor, this.#house.retry(), welcome)
    if (wentBack !== undefined) {
      opening += frameGap(this.id, head, wentBack)
      this.gapped(wentBack)
    }
    stream.start(opening)
    if (this.#endedBy !== undefined) stream.finish(frameClose(this.#endedBy), this.#endedBy)
  }

  /** @internal Ends it for the client; the registry does the rest. False if it had ended before. */
  end (reason: string): boolean {
    if (this.#endedBy !== undefined) return false
    this.#endedBy = reason
    // What is broadcast from now on is not for it any more.
    const [broadcasts] = this.#sources
    if (broadcasts !== undefined) broadcasts.to = broadcasts.log.last
    for (const channel of this.channels) this.#leave(channel)
    this.#stream?.finish(frameClose(reason), reason)
    this.#abort?.abort(new SessionOver())
    this.advanced()
    this.#mailbox = undefined
    return true
  }

  /** @internal Ends the stream, not the session. */
  dismiss (last: string, reason: string): void {
    this.#stream?.finish(last, reason)
  }

  /** @internal Lets go of what may still hold bytes, when nobody can come back for them. */
  dispose (): void {
    this.#stream?.destroy()
    if (this.#log !== undefined) this.#house.store.release(this.#log)
  }

  /** @internal */
  wake (): void {
    this.#stream?.wake()
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
  ended (stream: Downstream): void {
    const duration = Math.round(performance.now() - stream.openedAt)
    stream.log.info({ session: this.label, reason: stream.reason, duration }, 'event stream ended')
    if (stream === this.#stream) {
      this.#cursor = stream.cursor
      this.#stream = undefined
    }
    this.#house.detached(this, stream)
  }

  #append (frame: string): Awaitable<void> {
    if (this.closed) throw new SessionOver()
    return chain(this.#house.store.append(this.#ownLog(), { frame }), ignore)
  }

  #ownLog (): Log {
    if (this.#log === undefined) {
      this.#log = this.#house.store.log(`session:${this.id}`, this.#house.logBounds, this)
      this.#sources.push({ log: this.#log, from: this.#openedAt, to: Infinity })
    }
    return this.#log
  }

  #join (name: string): void {
    if (this.closed) throw new SessionOver()
    if (this.#memberships?.has(name) === true) return
    const { log } = this.#house.channels.enter(name, this)
    // Members from now on, so that what is sent while the position is asked for is not missed.
    const source = { log, from: log.last, to: Infinity }
    this.#memberships ??= new Map()
    this.#memberships.set(name, source)
    this.#sources.push(source)
  }

  #leave (name: string): void {
    const source = this.#memberships?.get(name)
    if (source === undefined) return
    this.#memberships?.delete(name)
    this.#house.channels.exit(name, this)
    source.to = source.log.last
    this.#forget()
  }

  /**
   * Drops the sources of channels that were left: those that brought nothing, and those whose entries are all
   * trimmed, of which the own log keeps that there was something.
   */
  #forget (): void {
    const time = now()
    for (let i = this.#sources.length - 1; i >= 0; i--) {
      const { log, from, to } = this.#sources[i] as Source
      if (to === Infinity) continue
      // The store sweeps no log that its last member has left.
      log.expire(time)
      if (to > from && to <= log.trimmed) this.#ownLog().forget(to, log.trimmedBy)
      if (to === from || to <= log.trimmed) this.#sources.splice(i, 1)
    }
  }

  /** Whether, or when, so much of the own log is sent that a producer may go on. */
  #ready (): Awaitable<void> {
    const log = this.#log
    if (log === undefined || this.closed || !isHalfFull(log, this.cursor)) return
    return new Promise<void>(resolve => {
      this.#onProgress ??= new Set()
      this.#onProgress.add(resolve)
    }).then(() => this.#ready())
  }
}

/** Whether what a log has after a position takes half of what it may keep. */
function isHalfFull (log: Log, position: number): boolean {
  const first = log.indexAfter(position)
  let count = 0
  let bytes = 0
  for (let entry = log.at(first); entry !== undefined; entry = log.at(first + count)) {
    count++
    bytes += entry.bytes
    if (count * 2 >= log.bounds.entries || bytes * 2 >= log.bounds.bytes) return true
  }
  return false
}
