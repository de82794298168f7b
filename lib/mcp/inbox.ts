import type { FastifyBaseLogger } from 'fastify'
import { noop } from '../awaitable.js'
import { now } from '../clock.js'
import { StoreUnavailable } from '../errors.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import type { Sink, SinkListener } from '../stream/response-sink.js'

/** Milliseconds between attempts to open an inbox. */
const RETRY_INTERVAL = 500

export interface InboxListener {
  /** Another process passes the messages of a stream to this one. It repeats that until they are handled. */
  onStream (streamId: string): void
  /** Other processes do not use the inbox any more: this one counts as failed, and opens another inbox. */
  onLost (): void
}

/**
 * Receives the ids of streams from the other processes that share the store. It is a session of the store whose stream is read here. The
 * store ends the stream if the process fails, which the other processes detect.
 */
export class Inbox {
  readonly #sessions: Sessions
  readonly #logger: FastifyBaseLogger
  readonly #listener: InboxListener
  #session: Session | undefined
  /** The searches that are still running, by the id of the inbox. */
  readonly #searches = new Map<string, Promise<Session | undefined>>()

  constructor (sessions: Sessions, logger: FastifyBaseLogger, listener: InboxListener) {
    this.#sessions = sessions
    this.#logger = logger
    this.#listener = listener
  }

  /** The id of the inbox. Throws FST_SSE_STORE_UNAVAILABLE if there is none. */
  get id (): string {
    if (this.#session === undefined) throw new StoreUnavailable()
    return this.#session.id
  }

  /** Opens an inbox. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  async open (): Promise<void> {
    const session = await this.#sessions.open(undefined)
    if (session === undefined) throw new StoreUnavailable()
    const internals = session[kInternals]
    const { cursor } = internals
    const newestPosition = await this.#acquire(session, cursor)
    const sink = new InboxSink(streamId => { this.#listener.onStream(streamId) }, () => { this.#reopen().catch(noop) })
    this.#session = session
    internals.setStream({ sink, cursor, newestPosition, welcome: '', resumed: false, requestedAt: now(), logger: this.#logger })
  }

  /** Lets other processes continue the sessions of this one. They start a server when they receive the next request of a session. */
  async markClosing (): Promise<void> {
    await this.#session?.update({ isClosing: true })
  }

  /** Finds the inbox of another process; `undefined` if that has failed. */
  findOther (id: string): Promise<Session | undefined> {
    const search = this.#searches.get(id) ?? this.#sessions.find(id).then(async inbox => {
      if (inbox?.connected === true) return inbox
      // The process may have been paused, not failed. Then this makes it open a new inbox.
      await inbox?.close('lost')
      return undefined
    }).finally(() => { this.#searches.delete(id) })
    this.#searches.set(id, search)
    return search
  }

  /** Acquires the stream of a new inbox. If that fails, releases the session, so that it expires. */
  async #acquire (session: Session, cursor: number): Promise<number> {
    try {
      const newestPosition = await this.#sessions.acquireStream(session, cursor)
      if (newestPosition === undefined) throw new StoreUnavailable()
      return newestPosition
    } catch (error) {
      session[kInternals].release()
      throw error
    }
  }

  async #reopen (): Promise<void> {
    this.#session = undefined
    this.#listener.onLost()
    while (!this.#sessions.closing) {
      try {
        return await this.open()
      } catch {
        await new Promise(resolve => { setTimeout(resolve, RETRY_INTERVAL).unref() })
      }
    }
  }
}

/** Parses the events that are written to it. */
class InboxSink implements Sink {
  listener: SinkListener | undefined
  closed = false
  readonly #onEvent: (data: string) => void
  readonly #onEnd: () => void

  constructor (onEvent: (data: string) => void, onEnd: () => void) {
    this.#onEvent = onEvent
    this.#onEnd = onEnd
  }

  write (chunk: string): boolean {
    for (const event of chunk.split('\n\n')) {
      const [, json] = /^id: .*\ndata: (.+)$/.exec(event) ?? []
      if (json !== undefined) this.#onEvent(JSON.parse(json) as string)
    }
    return true
  }

  end (): void {
    if (this.closed) return
    this.closed = true
    // The calls are deferred, because this method may be called while the stream is being attached or ended.
    setImmediate(() => {
      this.listener?.onClose()
      this.#onEnd()
    })
  }

  destroy (): void {
    this.end()
  }
}
