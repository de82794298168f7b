import { noop, type Awaitable } from '../awaitable.js'
import { EntryTooLarge } from '../errors.js'
import { kStream, type Session } from '../sessions/session.js'
import { frameEvent } from '../wire/frame.js'
import { createInternalError, isResponse, type JsonRpcMessage, type RequestId } from './json-rpc.js'

/** Milliseconds in which the responses must arrive to be sent as JSON. */
const JSON_TIMEOUT = 50

/** What a call needs from its MCP session. */
export interface CallContext {
  /** Opens the session whose stream is the response. Rejects if there are too many. */
  openStream (call: Call): Promise<Session>
  /** Every request has a response, or was canceled. */
  onEnd (call: Call): void
}

/**
 * The requests of one POST. Its response is JSON if all responses arrive soon and nothing else is sent before; otherwise it is
 * a stream, which is a session of the store.
 */
export class Call {
  /** Resolves with the responses that are sent as JSON, or with the session whose stream is the response. */
  readonly response: Promise<readonly JsonRpcMessage[] | Session>
  readonly #context: CallContext
  readonly #pending: Set<RequestId>
  readonly #responses: JsonRpcMessage[] = []
  readonly #timer: NodeJS.Timeout
  readonly #respond: (response: readonly JsonRpcMessage[] | Promise<Session>) => void
  #stream: Promise<Session> | undefined
  #attached: Session | undefined
  #isDisconnectRequested = false

  constructor (ids: readonly RequestId[], context: CallContext) {
    let respond: (response: readonly JsonRpcMessage[] | Promise<Session>) => void = noop
    this.response = new Promise(resolve => { respond = resolve })
    this.#respond = respond
    this.#pending = new Set(ids)
    this.#context = context
    this.#timer = setTimeout(() => { this.#openStream().catch(noop) }, JSON_TIMEOUT)
  }

  /** The ids of the requests that have no response yet. */
  get pending (): readonly RequestId[] {
    return [...this.#pending]
  }

  /** Sends a response, or a message that is related to one of the requests. Resolves when there is room for the next one, for which the producer should wait. */
  async send (message: JsonRpcMessage): Promise<void> {
    const isLast = isResponse(message) && this.#end(message.id)
    if (this.#stream === undefined && isResponse(message)) {
      this.#responses.push(message)
      if (isLast) this.#respondWith(this.#responses)
      return
    }
    const session = await this.#openStream()
    await sendMessage(session, message)
    if (isLast) await session.close('done')
    else await session[kStream].waitForDrain()
  }

  /** A request was canceled, so it gets no response. */
  async cancel (id: RequestId): Promise<void> {
    if (!this.#end(id)) return
    const session = await this.#openStream()
    await session.close('canceled')
  }

  /** Responds with an error to all requests that have no response. */
  async fail (message: string): Promise<void> {
    await Promise.all(this.pending.map(id => this.send(createInternalError(id, message))))
  }

  /** Ends the response, but not the requests: the client reconnects. */
  disconnect (): void {
    this.#isDisconnectRequested = true
    this.#openStream().catch(noop)
    if (this.#attached !== undefined) this.onAttach(this.#attached)
  }

  /** The response has become the stream. */
  onAttach (session: Session): void {
    this.#attached = session
    if (this.#isDisconnectRequested) session[kStream].disconnect()
    this.#isDisconnectRequested = false
  }

  /** A request gets nothing more. Returns whether it was the last one. */
  #end (id: RequestId | undefined): boolean {
    const isLast = this.#pending.delete(id as RequestId) && this.#pending.size === 0
    if (isLast) this.#context.onEnd(this)
    return isLast
  }

  #respondWith (response: readonly JsonRpcMessage[] | Promise<Session>): void {
    clearTimeout(this.#timer)
    this.#respond(response)
  }

  /** Makes the response a stream. */
  #openStream (): Promise<Session> {
    if (this.#stream === undefined) {
      this.#stream = this.#context.openStream(this).then(async session => {
        for (const response of this.#responses) await sendMessage(session, response)
        return session
      })
      this.#respondWith(this.#stream)
    }
    return this.#stream
  }
}

/** Appends a message to the stream of a session. If a response is larger than the log can be, its client gets an error instead. */
export async function sendMessage (session: Session, message: JsonRpcMessage): Promise<void> {
  const append = (message: JsonRpcMessage): Awaitable<void> => session[kStream].append(frameEvent('message', message))
  try {
    await append(message)
  } catch (error) {
    if (!(error instanceof EntryTooLarge) || !isResponse(message)) throw error
    await append(createInternalError(message.id as RequestId, error.message))
  }
}
