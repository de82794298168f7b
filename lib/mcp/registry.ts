import type { FastifyBaseLogger } from 'fastify'
import { noop, settlesWithin } from '../awaitable.js'
import { Closing, McpServerFailed, McpSessionUnknown, McpStreamUnknown, McpTooMany, StoreUnavailable } from '../errors.js'
import { now } from '../log/log.js'
import { logSafely } from '../safe-log.js'
import { kStream, type Session } from '../sessions/session.js'
import { createSessions, type Sessions } from '../sessions/sessions.js'
import type { StreamFrames } from '../sessions/session-stream.js'
import { CLOSED_ID, formatEventId } from '../wire/event-id.js'
import { REPLACED_FRAME } from '../wire/frame.js'
import { sendErrors, type Call } from './call.js'
import { Inbox } from './inbox.js'
import { isRequest, type JsonRpcMessage, type JsonRpcRequest, type RequestId } from './json-rpc.js'
import { McpSession, type McpContext } from './mcp-session.js'
import type { McpSettings } from './options.js'
import { MessageExtra, type McpHandlerLike, type McpServerLike, type RequestInfo } from './transport.js'

/** Milliseconds that `close` has for the last events of the streams, also if calls have taken all of `closeTimeout`. */
const FLUSH_TIMEOUT = 100

/** Milliseconds between checks of the processes that run calls whose streams are in this process. */
const CHECK_INTERVAL = 500

/** Milliseconds that the response to messages without a request waits until another process has handled them. */
const FORWARD_TIMEOUT = 10_000

/** The data of the first event of a stream whose client can handle an event without data. */
export const PRIMING = 'priming'

/** Clients ignore events with a name. An id without data would not be stored by some of them. */
const FRAMES: StreamFrames = {
  // The id resumes the stream, also if the connection is lost before the first message.
  welcome: (id, cursor, retry, data) => `retry: ${retry}\nid: ${formatEventId(id, cursor)}\n${data === PRIMING ? 'data: \n' : ''}\n`,
  // The response to a client that reconnects with this id is 204, so that it stops.
  close: () => `event: close\nid: ${CLOSED_ID}\ndata: \n\n`,
  replaced: REPLACED_FRAME
}

/** The data of an MCP session. */
interface McpData {
  /** The inbox of the process that runs the server. */
  readonly inbox: string
  readonly version: string
  /** What every new server of the session gets, first `initialize`. */
  readonly requests: readonly JsonRpcRequest[]
}

/** The data of the stream of a call, or of messages without a request that were sent to another process. */
interface StreamData {
  /** The inbox of the process that runs the call. */
  readonly inbox: string
  readonly requestIds: readonly RequestId[]
  /** The messages for that process, if it is not the one that has received them. It removes them before it handles them. */
  readonly forwarded?: { readonly messages: readonly JsonRpcMessage[], readonly info: RequestInfo } | undefined
}

const getData = <Data extends StreamData | McpData>({ data }: Session): Data => data as unknown as Data

/** The MCP sessions of an app. A session, and the stream of each call, is a session of the store. The principal of a stream is the id of the MCP session, so that only this can resume it. */
export class McpRegistry {
  readonly sessions: Sessions
  readonly #settings: McpSettings
  readonly #context: McpContext
  readonly #inbox: Inbox
  /** The sessions whose server is in this process, by their ids. */
  readonly #owned = new Map<string, McpSession>()
  /** The sessions whose server is being started. */
  readonly #restoring = new Map<string, Promise<McpSession | Session>>()
  /** The ids of the streams of calls that run, or are being started, in this process. */
  readonly #running = new Set<string>()
  /** The streams in this process of calls that run in others, and messages for others: whether they are being checked. */
  readonly #watched = new Map<Session, boolean>()
  /** The searches for inboxes that have not finished. */
  readonly #searches = new Map<string, Promise<Session | undefined>>()
  readonly #timers: readonly NodeJS.Timeout[]
  #statelessCount = 0
  #closing = false
  #onIdle: (() => void) | undefined

  static async create (settings: McpSettings, logger: FastifyBaseLogger): Promise<McpRegistry> {
    const registry = new McpRegistry(settings, await createSessions(settings.sessions, logger, undefined, FRAMES), logger)
    await registry.#inbox.open()
    return registry
  }

  private constructor (settings: McpSettings, sessions: Sessions, logger: FastifyBaseLogger) {
    this.#settings = settings
    this.sessions = sessions
    this.#context = {
      logger,
      maxRequests: settings.sessions.maxWaitingMessages,
      initializeTimeout: settings.initializeTimeout,
      openStream: async (session, requestIds) => {
        const stream = await this.#openStream(session, { requestIds, inbox: this.#inbox.id })
        this.#running.add(stream.id)
        return stream
      },
      onCallEnd: stream => {
        if (stream !== undefined) this.#running.delete(stream.id)
        this.#resolveIfIdle()
      },
      onEnd: ({ session }) => { this.#owned.delete(session.id) }
    }
    this.#inbox = new Inbox(sessions, logger, {
      onStream: streamId => { this.#onForwarded(streamId).catch((error: unknown) => { logSafely(logger, 'error', { err: error }, 'a message of an MCP client could not be handled') }) },
      // Another process may continue the sessions.
      onLost: () => { this.#endAll() }
    })
    this.#timers = [
      setInterval(() => { for (const stream of this.#watched.keys()) this.#check(stream).catch(noop) }, CHECK_INTERVAL).unref(),
      setInterval(() => { for (const mcp of this.#owned.values()) mcp.renew() }, Math.max(settings.sessions.resumeTimeout / 4, 1)).unref()
    ]
  }

  get handler (): McpHandlerLike | undefined {
    return this.#settings.handler
  }

  /** The handler for requests without a session is called. Returns a function to call when the response has ended. */
  onStatelessRequest (): () => void {
    this.#statelessCount++
    return () => {
      this.#statelessCount--
      this.#resolveIfIdle()
    }
  }

  get closing (): boolean {
    return this.#closing
  }

  /** Starts a session. Resolves with the response to `initialize`, and with the session, unless the response is an error. */
  async start (request: JsonRpcRequest, principal: string | undefined, extra: MessageExtra): Promise<{ response: JsonRpcMessage, session?: Session }> {
    if (this.#closing) throw new Closing()
    const session = await this.sessions.open(principal)
    if (session === undefined) throw new McpTooMany('sessions')
    const mcp = new McpSession(session, this.#context)
    this.#owned.set(session.id, mcp)
    try {
      const response = await mcp.initialize(() => this.#createServer(session), request, extra)
      if (response.error === undefined) {
        const { protocolVersion } = Object(response.result) as { protocolVersion?: unknown }
        const data: McpData = { inbox: this.#inbox.id, requests: [request], version: String(protocolVersion) }
        await session.update({ ...data })
        session[kStream].release()
        return { response, session }
      }
      await this.sessions.discard(session, 'refused')
      return { response }
    } catch (error) {
      await this.sessions.discard(session, 'refused')
      throw error
    }
  }

  /** Finds the session with an id. Rejects with FST_SSE_MCP_SESSION_UNKNOWN; also for the session of another principal, or one that has ended. */
  async findSession (id: string, principal: string | undefined): Promise<Session> {
    const session = await this.sessions.findCached(id)
    // The id may be that of a stream or of an inbox, which have no server.
    if (session === undefined || session.principal !== principal || session.data.version === undefined) throw new McpSessionUnknown()
    return session
  }

  /** Passes messages of a client, of which none is a request, to the server of its session. */
  async receive (session: Session, messages: readonly JsonRpcMessage[], extra: MessageExtra): Promise<void> {
    const server = await this.#findServer(session.id, extra)
    if (server instanceof McpSession) {
      server.receive(messages)
      return
    }
    const forwarded = await this.#forward(server, session, messages, extra)
    const handled = new Promise<void>(resolve => { forwarded.signal.addEventListener('abort', () => { resolve() }) })
    this.watch(forwarded)
    await settlesWithin(handled, FORWARD_TIMEOUT)
    await this.sessions.discard(forwarded, 'done')
  }

  /** Passes messages of a client, of which some are requests, to the server of its session. Resolves with the stream of the response if another process runs the server. */
  async call (session: Session, messages: readonly JsonRpcMessage[], extra: MessageExtra): Promise<Call | Session> {
    const server = await this.#findServer(session.id, extra)
    return server instanceof McpSession ? server.call(messages, extra) : await this.#forward(server, session, messages, extra)
  }

  /** Finds the stream with an id, which a client resumes. Rejects with FST_SSE_MCP_STREAM_UNKNOWN. */
  async findStream (id: string, session: Session): Promise<Session> {
    const stream = id === session.id ? session : await this.sessions.findForResume(id, session.id)
    if (stream === undefined) throw new McpStreamUnknown()
    return stream
  }

  /** While a client receives a stream: if the process that should handle its messages fails, another one does, or its requests get an error. */
  watch (stream: Session): void {
    if (!this.#watched.has(stream) && !this.#running.has(stream.id)) this.#watched.set(stream, false)
  }

  /** Waits for running calls, at most for `closeTimeout`. Then ends the rest, and the streams. */
  async close (): Promise<void> {
    this.#closing = true
    const { closeTimeout } = this.#settings.sessions
    const startedAt = now()
    const idle = new Promise<void>(resolve => { this.#onIdle = resolve })
    this.#resolveIfIdle()
    this.#inbox.refuse().catch(noop)
    if (!await settlesWithin(idle, closeTimeout)) {
      const calls = [...this.#owned.values()].flatMap(({ calls }) => [...calls])
      await settlesWithin(Promise.allSettled(calls.map(call => call.fail('The server is closing'))), FLUSH_TIMEOUT)
    }
    await settlesWithin(Promise.allSettled([this.handler?.close?.()]), FLUSH_TIMEOUT)
    await this.sessions.close(Math.max(FLUSH_TIMEOUT, closeTimeout - (now() - startedAt)))
    // Other processes may continue the sessions of a shared store, but without these servers.
    this.#endAll()
    for (const timer of this.#timers) clearInterval(timer)
  }

  #endAll (): void {
    for (const mcp of this.#owned.values()) mcp.end()
  }

  #resolveIfIdle (): void {
    if (this.#onIdle !== undefined && this.#statelessCount === 0 && [...this.#owned.values()].every(({ calls }) => calls.size === 0)) this.#onIdle()
  }

  async #createServer ({ id, principal }: Session): Promise<McpServerLike> {
    return await this.#settings.server({ principal, sessionId: id })
  }

  /** Finds the server of a session, or the inbox of the process that runs it. If no process does, this one does from now on. */
  async #findServer (id: string, extra: MessageExtra): Promise<McpSession | Session> {
    const mcp = this.#owned.get(id) ?? await this.#restoring.get(id)
    if (mcp !== undefined) return mcp
    const session = await this.sessions.find(id)
    if (session === undefined) throw new McpSessionUnknown()
    const { inbox } = getData<McpData>(session)
    const owner = inbox === this.#inbox.id ? undefined : await this.#findInbox(inbox)
    if (owner !== undefined && owner.data.isClosing !== true) return owner
    const restored = this.#restoring.get(id) ?? this.#restore(session, extra).finally(() => { this.#restoring.delete(id) })
    this.#restoring.set(id, restored)
    return await restored
  }

  /** Starts a server that continues a session. */
  async #restore (session: Session, extra: MessageExtra): Promise<McpSession | Session> {
    const mcp = new McpSession(session, this.#context)
    try {
      await mcp.restore(() => this.#createServer(session), extra)
      const inbox = this.#inbox.id
      await session.update({ inbox })
      // Another process may have restored the session at the same time. The last one continues it.
      const current = await this.sessions.find(session.id)
      if (current?.data.inbox === inbox) {
        this.#owned.set(session.id, mcp)
        return mcp
      }
      mcp.end()
      this.#restoring.delete(session.id)
      return await this.#findServer(session.id, extra)
    } catch (error) {
      mcp.end()
      throw error
    }
  }

  /** Finds the inbox of another process; `undefined` if that has failed. */
  #findInbox (id: string): Promise<Session | undefined> {
    const search = this.#searches.get(id) ?? this.sessions.find(id).then(async inbox => {
      if (inbox?.connected === true) return inbox
      // So that the process notices, if it was only paused.
      await inbox?.close('lost')
      return undefined
    }).finally(() => { this.#searches.delete(id) })
    this.#searches.set(id, search)
    return search
  }

  /** Opens and retains a session for the stream of a call. */
  async #openStream ({ id }: Session, data: StreamData): Promise<Session> {
    const stream = await this.sessions.open(id)
    if (stream === undefined) throw new McpTooMany('streams')
    stream[kStream].preventEviction()
    try {
      await stream.update({ ...data })
      return stream
    } catch (error) {
      await this.sessions.discard(stream, 'refused')
      throw error
    }
  }

  /** Passes messages of a client to the process that runs the server of its session. Resolves with the stream for the responses. */
  async #forward (inbox: Session, session: Session, messages: readonly JsonRpcMessage[], { info }: MessageExtra): Promise<Session> {
    const requestIds = messages.filter(isRequest).map(({ id }) => id)
    const stream = await this.#openStream(session, { inbox: inbox.id, requestIds, forwarded: { messages, info } })
    // The messages prolong the session.
    session[kStream].retainForResume()
    session[kStream].release()
    // If that fails, it is repeated.
    inbox.send(stream.id).catch(noop)
    return stream
  }

  /** Another process has passed messages to this one. */
  async #onForwarded (streamId: string): Promise<void> {
    const stream = await this.sessions.find(streamId)
    if (stream === undefined) return
    await this.#restoring.get(String(stream.principal))
    await this.#handle(stream)
  }

  /** Handles messages that were passed to this process, unless another one has taken them over. */
  async #handle (stream: Session): Promise<void> {
    const { inbox, requestIds, forwarded } = getData<StreamData>(stream)
    if (inbox !== this.#inbox.id || forwarded === undefined || this.#running.has(stream.id)) return
    this.#running.add(stream.id)
    let isCalled = false
    try {
      await stream.update({ forwarded: undefined })
      // A process that takes over sets `inbox` before it reads `forwarded`, so that one of both sees the change of the other.
      const current = await this.sessions.find(stream.id)
      if (current?.data.inbox !== inbox) return
      const mcp = this.#owned.get(String(stream.principal))
      if (mcp === undefined) throw new McpServerFailed()
      isCalled = requestIds.length > 0
      if (isCalled) mcp.call(forwarded.messages, new MessageExtra(forwarded.info), stream)
      else {
        mcp.receive(forwarded.messages)
        stream[kStream].retain()
        await this.sessions.discard(stream, 'done')
      }
    } catch (error) {
      isCalled = false
      await sendErrors(stream, requestIds, (error as Error).message)
    } finally {
      if (!isCalled) this.#running.delete(stream.id)
    }
  }

  async #check (stream: Session): Promise<void> {
    if (this.#watched.get(stream) !== false) return
    this.#watched.set(stream, true)
    const { requestIds } = getData<StreamData>(stream)
    try {
      // A client that has disconnected resumes the stream, perhaps in another process.
      const isNeeded = !stream.closed && (requestIds.length === 0 || stream[kStream].hasStream)
      if (isNeeded && await this.#isHandled(stream)) this.#watched.set(stream, false)
      else {
        this.#watched.delete(stream)
        if (isNeeded) await sendErrors(stream, requestIds, 'The response is lost, because the server that ran the request has failed')
      }
    } catch (error) {
      this.#watched.set(stream, false)
      if (!(error instanceof StoreUnavailable)) await sendErrors(stream, requestIds, (error as Error).message)
    }
  }

  /** Lets the messages of a stream be handled if that has not begun. Resolves with false if it has begun in a process that has failed. */
  async #isHandled (stream: Session): Promise<boolean> {
    const { inbox, forwarded } = getData<StreamData>(stream)
    if (this.#running.has(stream.id)) return true
    if (inbox === this.#inbox.id) {
      await this.#handle(stream)
      return forwarded !== undefined
    }
    const owner = await this.#findInbox(inbox)
    if (owner !== undefined) {
      // The message before may be lost.
      if (forwarded !== undefined) await owner.send(stream.id)
      return true
    }
    if (forwarded === undefined) return false
    const server = await this.#findServer(String(stream.principal), new MessageExtra(forwarded.info))
    await stream.update({ inbox: server instanceof McpSession ? this.#inbox.id : server.id })
    const current = await this.sessions.find(stream.id)
    return current?.data.forwarded !== undefined && await this.#isHandled(stream)
  }
}
