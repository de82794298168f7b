import type { FastifyBaseLogger } from 'fastify'
import { noop } from '../awaitable.js'
import { McpMessageInvalid, McpServerFailed, McpTooManyRequests } from '../errors.js'
import { logSafely } from '../safe-log.js'
import { kInternals, type Session } from '../sessions/session.js'
import { Call, sendMessage } from './call.js'
import { createInternalError, isRequest, isResponse, type JsonRpcMessage, type JsonRpcRequest, type RequestId } from './json-rpc.js'
import { ServerRequestIds } from './server-request-ids.js'
import { addSetupRequest } from './setup-requests.js'
import type { McpServerLike, McpTransport, MessageExtra } from './transport.js'

/** What an MCP session needs from the registry. */
export interface McpContext {
  readonly logger: FastifyBaseLogger
  /** Maximum number of requests that run. */
  readonly maxRequests: number
  /** Milliseconds that the server has for the response to `initialize`, and the client for its next message. */
  readonly initializeTimeout: number
  /** Opens and retains a session for the stream of a call that runs in this process. */
  openStreamSession (session: Session, requestIds: readonly RequestId[]): Promise<Session>
  onCallEnd (streamSession: Session | undefined): void
  onEnd (mcp: McpSession): void
}

/** Whether the streams of a revision start with an event with empty data. With its id, a client can resume the stream before the first message. */
export const canPrime = (version: string): boolean => version >= '2025-11-25'

/** Returns the negotiated revision of the protocol of a session. */
export const getVersion = ({ data }: Session): string => String(data.version)

/**
 * The session of an MCP client in the process that runs its server. It has the transport of the server. The stream of the session
 * of the store carries the messages that belong to no call.
 */
export class McpSession {
  readonly session: Session
  /** The running calls, by the ids of their requests. */
  readonly #calls = new Map<RequestId, Call>()
  readonly #context: McpContext
  readonly #transport: McpTransport
  readonly #requestIds = new ServerRequestIds()
  /** Closes a session that is not used. */
  #initializeTimer: NodeJS.Timeout | undefined
  /** The requests that every new server of the session gets. */
  #setupRequests: readonly JsonRpcRequest[] = []
  /** Receives the response to such a request, until it has arrived. */
  #onSetupResponse: ((response: JsonRpcMessage) => void) | undefined
  #hasEnded = false

  constructor (session: Session, context: McpContext) {
    this.session = session
    this.#context = context
    this.#transport = {
      sessionId: session.id,
      start: async () => {},
      send: (message, options) => this.#send(message, options?.relatedRequestId),
      close: () => session.close()
    }
    // The signal aborts when any process closes the session, and when it expires.
    session.signal.addEventListener('abort', () => { this.end() })
  }

  /** The calls that have not ended. */
  get calls (): ReadonlySet<Call> {
    return new Set(this.#calls.values())
  }

  /** Connects the server and sends `initialize` to it. Resolves with the response. Rejects with FST_SSE_MCP_SERVER_FAILED if the session is closed before the response, or if there is none within `initializeTimeout`. */
  async initialize (createServer: () => Promise<McpServerLike>, request: JsonRpcRequest, extra: MessageExtra): Promise<JsonRpcMessage> {
    this.#setupRequests = [request]
    const response = await this.#withTimeout(this.#connect(createServer, extra))
    this.#initializeTimer = setTimeout(() => { this.session.close('expired') }, this.#context.initializeTimeout).unref()
    return response
  }

  /** Connects a server that continues the session, and sends it the setup requests that the earlier server has received. Rejects as {@link initialize}. */
  async restore (createServer: () => Promise<McpServerLike>, extra: MessageExtra): Promise<void> {
    this.#setupRequests = this.session.data.requests as JsonRpcRequest[]
    this.#requestIds.changeOffset()
    await this.#withTimeout(this.#connect(createServer, extra).then(async () => {
      this.#deliver([{ jsonrpc: '2.0', method: 'notifications/initialized' }], extra)
      for (const request of this.#setupRequests.slice(1)) await this.#request(request, extra)
    }))
  }

  /** Prevents the session from expiring while calls run. The stream of the session may be in another process, or there may be none. */
  renew (): void {
    const { context: { store }, state } = this.session[kInternals]
    if (this.#calls.size > 0) store.cancelExpiry(state)
  }

  /** Passes messages of the client, of which none is a request, to the server. */
  receive (messages: readonly JsonRpcMessage[]): void {
    this.#retain()
    this.#deliver(messages)
    this.#release()
  }

  /** Passes messages of the client, of which some are requests, to the server. The response is sent in a stream if one is given, and otherwise as JSON or as a stream, see {@link Call}. Throws FST_SSE_MCP_MESSAGE_INVALID if the id of a request is in use, or FST_SSE_MCP_TOO_MANY_REQUESTS. */
  call (messages: readonly JsonRpcMessage[], extra: MessageExtra, givenStreamSession?: Session): Call {
    const requests = messages.filter(isRequest)
    const ids = requests.map(({ id }) => id)
    if (new Set(ids).size < ids.length || ids.some(id => this.#calls.has(id))) throw new McpMessageInvalid('the id of a request is in use; use a new one for each request')
    const { maxRequests } = this.#context
    if (this.#calls.size + ids.length > maxRequests) throw new McpTooManyRequests(maxRequests)
    this.#retain()
    let streamSession = givenStreamSession
    const call = new Call(requests, {
      openStreamSession: async () => {
        streamSession ??= await this.#context.openStreamSession(this.session, ids)
        return streamSession
      },
      onFailure: (call, reason) => { this.#deliver([...call.pending.keys()].map(requestId => ({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId, reason } }))) },
      onEnd: () => {
        for (const id of ids) this.#calls.delete(id)
        this.#release()
        this.#context.onCallEnd(streamSession)
      }
    }, givenStreamSession !== undefined)
    for (const id of ids) this.#calls.set(id, call)
    if (canPrime(getVersion(this.session)) && givenStreamSession === undefined) {
      extra.closeSSEStream = () => { call.disconnect() }
      extra.closeStandaloneSSEStream = () => { this.session[kInternals].disconnect() }
    }
    this.#deliver(messages, extra)
    return call
  }

  /** Ends the server and the calls. Is called when the session is closed, or when another process continues it. */
  end (): void {
    this.#hasEnded = true
    clearTimeout(this.#initializeTimer)
    const { onclose } = this.#transport
    delete this.#transport.onclose
    this.#try(() => onclose?.())
    for (const call of this.calls) call.fail('The session has ended').catch(noop)
    this.#context.onEnd(this)
  }

  async #withTimeout<Result> (result: Promise<Result>): Promise<Result> {
    let timer: NodeJS.Timeout | undefined
    const failed = new Promise<never>((_resolve, reject) => {
      const fail = (): void => { reject(new McpServerFailed()) }
      timer = setTimeout(fail, this.#context.initializeTimeout)
      this.session.signal.addEventListener('abort', fail)
    })
    try {
      return await Promise.race([failed, result])
    } finally {
      clearTimeout(timer)
    }
  }

  async #connect (createServer: () => Promise<McpServerLike>, extra: MessageExtra): Promise<JsonRpcMessage> {
    const server = await createServer()
    await server.connect(this.#transport as never)
    if (this.#hasEnded) {
      // The server was created too late. It gets `onclose`, so that it can free what it holds.
      this.end()
      throw new McpServerFailed()
    }
    return await this.#request(this.#setupRequests[0] as JsonRpcRequest, extra)
  }

  /** Sends one of the requests that every new server gets. */
  #request (request: JsonRpcRequest, extra: MessageExtra): Promise<JsonRpcMessage> {
    return new Promise(resolve => {
      this.#onSetupResponse = resolve
      this.#deliver([request], extra)
    })
  }

  /** Prevents the session from expiring and from being evicted. */
  #retain (): void {
    clearTimeout(this.#initializeTimer)
    this.session[kInternals].retainForResume()
  }

  #release (): void {
    this.session[kInternals].release()
  }

  /** Passes messages to the server. */
  #deliver (messages: readonly JsonRpcMessage[], extra?: MessageExtra): void {
    for (const message of messages) {
      const serverMessage = this.#requestIds.toServer(message)
      if (serverMessage === undefined) continue
      const isHandled = this.#try(() => this.#transport.onmessage?.(serverMessage, extra))
      if (!isHandled && isRequest(message)) this.#send(createInternalError(message.id, 'The server has failed')).catch(noop)
      if (message.method === 'notifications/cancelled') this.#cancelRequest(message.params?.requestId as RequestId)
    }
  }

  /** Calls a function of the server, and logs its error. Returns whether there was none. */
  #try (run: () => void): boolean {
    try {
      run()
      return true
    } catch (error) {
      this.#log(error, 'the MCP server has failed')
      return false
    }
  }

  #log (error: unknown, message: string): void {
    logSafely(this.#context.logger, 'error', { err: error, session: this.session.shortId }, message)
  }

  /** Ends a request without a response. */
  #cancelRequest (id: RequestId): void {
    this.#calls.get(id)?.cancel(id).catch(noop)
  }

  /** The method `send` of the transport. */
  async #send (serverMessage: JsonRpcMessage, relatedRequestId?: RequestId): Promise<void> {
    const message = this.#requestIds.toClient(serverMessage)
    const isResponseMessage = isResponse(message)
    if (isResponseMessage && this.#onSetupResponse !== undefined) {
      this.#onSetupResponse(message)
      this.#onSetupResponse = undefined
      return
    }
    const id = isResponseMessage ? message.id : relatedRequestId
    if (id !== undefined && this.#onSetupResponse === undefined) {
      const call = this.#calls.get(id)
      const request = call?.pending.get(id)
      // The client does not need the response to a request that was canceled, nor a late notification. A rejection would terminate the process if the tool does not await it.
      if (call === undefined || request === undefined) {
        if (!isRequest(message)) return
        throw new Error('The request to which this message belongs has ended')
      }
      const requests = isResponseMessage && message.error === undefined ? addSetupRequest(this.#setupRequests, request) : this.#setupRequests
      await this.#sendToCall(call, id, requests === this.#setupRequests ? message : await this.#storeRequests(requests, message))
      return
    }
    await sendMessage(this.session, message)
    // Without a stream, nothing drains the log: it drops the oldest messages, and the server does not wait.
    if (this.session.connected) await this.session[kInternals].waitForDrain()
  }

  /** Stores the setup requests before the client gets the response to the newest one. Returns the response, or an error if they could not be stored. */
  async #storeRequests (requests: readonly JsonRpcRequest[], response: JsonRpcMessage): Promise<JsonRpcMessage> {
    this.#setupRequests = requests
    try {
      await this.session.update({ requests })
      return response
    } catch (error) {
      return createInternalError(response.id as RequestId, (error as Error).message)
    }
  }

  /** Sends a message that is, or belongs to, the response to a request. */
  async #sendToCall (call: Call, id: RequestId, message: JsonRpcMessage): Promise<void> {
    try {
      await call.send(message)
    } catch (error) {
      // If the message is not a response, the SDK passes the error to the tool that sends it.
      if (isResponse(message)) this.#log(error, 'a response of the MCP server could not be sent')
      // A notification is dropped if its request was canceled meanwhile, for example because there are too many streams.
      else if (!isRequest(message) && !call.pending.has(id)) return
      throw error
    }
  }
}
