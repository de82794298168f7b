import { noop, type Awaitable } from '../awaitable.js'
import { DataInvalid, EntryTooLarge } from '../errors.js'
import { kInternals, type Session } from '../sessions/session.js'
import { frameEvent } from '../wire/frame.js'
import { createInternalError, isResponse, type JsonRpcMessage, type JsonRpcRequest, type RequestId } from './json-rpc.js'

/** Milliseconds in which the responses must arrive to be sent as JSON. */
const JSON_TIMEOUT = 50

/** What a call needs from its MCP session. */
export interface CallContext {
  /** Opens and retains the session whose stream is the response. */
  openStreamSession (): Promise<Session>
  /** The client does not get the responses, so the requests have to be canceled. */
  onFailure (call: Call, reason: string): void
  /** Every request has a response that was sent, or was canceled. */
  onEnd (): void
}

/**
 * The requests of one POST. Its response is JSON if all responses arrive soon and nothing else is sent before; otherwise it is
 * a stream, which is a session of the store.
 */
export class Call {
  /** Resolves with the responses that are sent as JSON, or with the session whose stream is the response. */
  readonly response: Promise<readonly JsonRpcMessage[] | Session>
  readonly #context: CallContext
  readonly #pending: Map<RequestId, JsonRpcRequest>
  readonly #responses: JsonRpcMessage[] = []
  readonly #timer: NodeJS.Timeout
  readonly #resolveResponse: (response: readonly JsonRpcMessage[] | Promise<Session>) => void
  #streamSession: Promise<Session> | undefined
  #attachedSession: Session | undefined
  #isDisconnectRequested = false

  /** `isStream`: whether the response is a stream from the beginning. */
  constructor (requests: readonly JsonRpcRequest[], context: CallContext, isStream: boolean) {
    let resolveResponse: (response: readonly JsonRpcMessage[] | Promise<Session>) => void = noop
    this.response = new Promise(resolve => { resolveResponse = resolve })
    this.#resolveResponse = resolveResponse
    this.#pending = new Map(requests.map(request => [request.id, request]))
    this.#context = context
    this.#timer = setTimeout(() => { this.#openStreamSession().catch(noop) }, JSON_TIMEOUT)
    if (isStream) this.#openStreamSession().catch(noop)
  }

  /** The requests that have no response yet, by their ids. */
  get pending (): ReadonlyMap<RequestId, JsonRpcRequest> {
    return this.#pending
  }

  /** Sends a response, or a message that is related to one of the requests. Resolves when there is room for the next one, for which the producer should wait. */
  async send (message: JsonRpcMessage): Promise<void> {
    const isResponseMessage = isResponse(message)
    // The request was canceled meanwhile.
    if (isResponseMessage && !this.#pending.delete(message.id as RequestId)) return
    const isLast = this.#pending.size === 0
    if (isResponseMessage && this.#streamSession === undefined) {
      this.#responses.push(message)
      if (isLast) {
        this.#respondWith(this.#responses)
        this.#context.onEnd()
      }
      return
    }
    try {
      const streamSession = await this.#openStreamSession()
      await sendMessage(streamSession, message)
      if (!isLast) await streamSession[kInternals].waitForDrain()
    } finally {
      if (isLast) await this.#close('done')
    }
  }

  /** A request was canceled, so it gets no response. */
  async cancel (id: RequestId): Promise<void> {
    if (this.#pending.delete(id) && this.#pending.size === 0) await this.#close('canceled')
  }

  /** Responds with an error to all requests that have no response. */
  async fail (message: string): Promise<void> {
    await Promise.all([...this.#pending.keys()].map(id => this.send(createInternalError(id, message))))
  }

  /** Ends the response, but not the requests: the client reconnects. */
  disconnect (): void {
    this.#isDisconnectRequested = true
    this.#openStreamSession().catch(noop)
    this.#disconnectIfRequested()
  }

  /** The response has become the stream. */
  onAttach (streamSession: Session): void {
    this.#attachedSession = streamSession
    this.#disconnectIfRequested()
  }

  #disconnectIfRequested (): void {
    if (this.#attachedSession === undefined) return
    if (this.#isDisconnectRequested) this.#attachedSession[kInternals].disconnect()
    this.#isDisconnectRequested = false
  }

  #respondWith (response: readonly JsonRpcMessage[] | Promise<Session>): void {
    clearTimeout(this.#timer)
    this.#resolveResponse(response)
  }

  /** Makes the response a stream. */
  #openStreamSession (): Promise<Session> {
    if (this.#streamSession === undefined) {
      this.#streamSession = this.#context.openStreamSession().then(async streamSession => {
        streamSession.signal.addEventListener('abort', () => { this.#context.onFailure(this, 'the client did not reconnect in time') })
        for (const response of this.#responses) await sendMessage(streamSession, response)
        return streamSession
      })
      this.#streamSession.catch(() => { this.#context.onFailure(this, 'the response could not become a stream') })
      this.#respondWith(this.#streamSession)
    }
    return this.#streamSession
  }

  /** Ends the response. If the store is not available, only the connection ends: a client that reconnects receives an error. */
  async #close (reason: string): Promise<void> {
    const streamSession = await this.#openStreamSession().catch(noop)
    await streamSession?.close(reason).catch(() => { streamSession[kInternals].disconnect() })
    this.#context.onEnd()
  }
}

/** Appends a message to the stream of a session. If a response cannot be appended, its client gets an error instead. */
export async function sendMessage (session: Session, message: JsonRpcMessage): Promise<void> {
  const append = (message: JsonRpcMessage): Awaitable<void> => session[kInternals].append(frameEvent('message', message))
  try {
    await append(message)
  } catch (error) {
    if (!(error instanceof EntryTooLarge || error instanceof DataInvalid) || !isResponse(message)) throw error
    await append(createInternalError(message.id as RequestId, error.message))
  }
}

/** Ends a stream with an error for each request. */
export async function sendErrors (streamSession: Session, requestIds: readonly RequestId[], message: string): Promise<void> {
  for (const id of requestIds) await sendMessage(streamSession, createInternalError(id, message))
  await streamSession.close('failed')
}
