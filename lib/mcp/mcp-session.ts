import { noop } from '../awaitable.js'
import { McpMessageInvalid, McpTooMany } from '../errors.js'
import { kStream, type Session } from '../sessions/session.js'
import { Call, sendMessage } from './call.js'
import { isRequest, isResponse, type JsonRpcMessage, type JsonRpcRequest, type RequestId } from './json-rpc.js'
import type { McpServerLike, McpTransport, MessageExtra } from './transport.js'

/** What an MCP session needs from the registry. */
export interface McpContext {
  /** Milliseconds without a request and without a stream after which a session ends. */
  readonly idleTimeout: number
  /** Opens the session for a stream of an MCP session, and retains it. Resolves with `undefined` if there are too many. */
  openStream (mcp: McpSession): Promise<Session | undefined>
  /** The stream of a call is open: the call ends with it. */
  onStream (stream: Session, mcp: McpSession, call: Call): void
  onCallEnd (): void
}

/** The first revision in which a stream starts with an event without data, with which a client can resume it before the first message. */
const PRIMING_REVISION = '2025-11-25'

/** The session of an MCP client in the process that runs its server. It is the transport of the server. */
export class McpSession {
  readonly session: Session
  /** The negotiated revision of the protocol. */
  version = ''
  /** The running calls, by the ids of their requests. */
  readonly #calls = new Map<RequestId, Call>()
  readonly #context: McpContext
  readonly #transport: McpTransport
  readonly #idleTimer: NodeJS.Timeout
  /** The session whose stream carries the messages that belong to no call. */
  #standalone: Promise<Session> | undefined
  /** Receives the response to `initialize`, until it has arrived. */
  #onInitialize: ((response: JsonRpcMessage) => void) | undefined

  constructor (session: Session, context: McpContext) {
    this.session = session
    this.#context = context
    this.#transport = {
      sessionId: session.id,
      start: async () => {},
      send: (message, options) => this.#send(message, options?.relatedRequestId),
      close: () => this.session.close()
    }
    this.#idleTimer = setTimeout(() => { this.#closeIfIdle().catch(noop) }, context.idleTimeout).unref()
  }

  /** Whether a stream of the session starts with an event without data. */
  get primes (): boolean {
    return this.version >= PRIMING_REVISION
  }

  /** The calls that have not ended. */
  get calls (): ReadonlySet<Call> {
    return new Set(this.#calls.values())
  }

  /** Connects the server and sends `initialize` to it. Resolves with the response. */
  async initialize (server: McpServerLike, request: JsonRpcRequest, extra: MessageExtra): Promise<JsonRpcMessage> {
    await server.connect(this.#transport as never)
    const response = await new Promise<JsonRpcMessage>(resolve => {
      this.#onInitialize = resolve
      this.#transport.onmessage?.(request, extra)
    })
    this.version = String((Object(response.result) as { protocolVersion?: unknown }).protocolVersion)
    return response
  }

  /** Passes messages to the server. */
  deliver (messages: readonly JsonRpcMessage[], extra?: MessageExtra): void {
    this.#idleTimer.refresh()
    for (const message of messages) {
      this.#transport.onmessage?.(message, extra)
      if (message.method === 'notifications/cancelled') this.#end(message.params?.requestId as RequestId)
    }
  }

  /** Passes messages, of which some are requests, to the server. Throws FST_SSE_MCP_MESSAGE_INVALID if the id of a request is in use. */
  call (messages: readonly JsonRpcMessage[], extra: MessageExtra): Call {
    const ids = messages.filter(isRequest).map(({ id }) => id)
    if (new Set(ids).size < ids.length || ids.some(id => this.#calls.has(id))) throw new McpMessageInvalid('the id of a request is in use; use a new one for each request')
    const call: Call = new Call(ids, {
      openStream: () => this.#openCallStream(call),
      onEnd: () => {
        for (const id of ids) this.#calls.delete(id)
        this.#idleTimer.refresh()
        this.#context.onCallEnd()
      }
    })
    for (const id of ids) this.#calls.set(id, call)
    if (this.primes) {
      extra.closeSSEStream = () => { call.disconnect() }
      extra.closeStandaloneSSEStream = () => { this.#standalone?.then(stream => { stream[kStream].disconnect() }, noop) }
    }
    this.deliver(messages, extra)
    return call
  }

  /** Cancels the requests of a call that have no response. */
  cancel (call: Call, reason: string): void {
    this.deliver(call.pending.map(requestId => ({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId, reason } })))
  }

  /** Returns the session whose stream carries the messages that belong to no call. */
  openStandalone (): Promise<Session> {
    this.#idleTimer.refresh()
    this.#standalone ??= this.#context.openStream(this).then(stream => {
      if (stream !== undefined) return stream
      this.#standalone = undefined
      throw new McpTooMany('streams')
    })
    return this.#standalone
  }

  /** Ends the server and the streams, after the session was closed. */
  async end (reason: string): Promise<void> {
    clearTimeout(this.#idleTimer)
    this.#transport.onclose?.()
    for (const id of this.#calls.keys()) this.#end(id)
    const standalone = await this.#standalone?.catch(noop)
    await standalone?.close(reason)
    standalone?.[kStream].release()
    this.session[kStream].release()
  }

  /** Ends a request without a response. */
  #end (id: RequestId): void {
    this.#calls.get(id)?.cancel(id).catch(noop)
  }

  async #openCallStream (call: Call): Promise<Session> {
    const stream = await this.#context.openStream(this)
    if (stream !== undefined) {
      this.#context.onStream(stream, this, call)
      return stream
    }
    // In a later microtask, when the call has this promise.
    queueMicrotask(() => { this.cancel(call, 'there are too many streams') })
    throw new McpTooMany('streams')
  }

  /** The method `send` of the transport. */
  async #send (message: JsonRpcMessage, relatedRequestId: RequestId | undefined): Promise<void> {
    const isReply = isResponse(message)
    if (isReply && this.#onInitialize !== undefined) {
      this.#onInitialize(message)
      this.#onInitialize = undefined
      return
    }
    const id = isReply ? message.id : relatedRequestId
    if (id !== undefined && this.#onInitialize === undefined) {
      const call = this.#calls.get(id)
      if (call !== undefined) await call.send(message)
      // The response to a request that was canceled is not needed.
      else if (!isReply) throw new Error('The request to which this message belongs has ended')
      return
    }
    const stream = await this.openStandalone()
    await sendMessage(stream, message)
    // Without a client, the oldest messages are dropped instead.
    if (stream.connected) await stream[kStream].waitForDrain()
  }

  async #closeIfIdle (): Promise<void> {
    const standalone = await this.#standalone?.catch(noop)
    if (this.#calls.size > 0 || standalone?.connected === true) this.#idleTimer.refresh()
    else this.session.close('expired')
  }
}
