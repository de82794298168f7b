import type { FastifyBaseLogger } from 'fastify'
import { noop, settlesWithin } from '../awaitable.js'
import { Closing, McpServerFailed, McpSessionUnknown, McpStreamUnknown, McpTooMany } from '../errors.js'
import { now } from '../log/log.js'
import { logSafely } from '../safe-log.js'
import { kStream, type Session } from '../sessions/session.js'
import { createSessions, type Sessions } from '../sessions/sessions.js'
import type { StreamFrames } from '../sessions/session-stream.js'
import { CLOSED_ID, formatEventId } from '../wire/event-id.js'
import { REPLACED_FRAME } from '../wire/frame.js'
import { sendMessage } from './call.js'
import { Inbox } from './inbox.js'
import { createInternalError, isRequest, type JsonRpcMessage, type JsonRpcRequest, type RequestId } from './json-rpc.js'
import { McpSession, type McpContext } from './mcp-session.js'
import type { McpSettings } from './options.js'
import { RemoteMcpSession, type ForwardedMessages } from './remote-mcp-session.js'
import { MessageExtra, type McpHandlerLike, type McpServerLike } from './transport.js'

/** Milliseconds that `close` has for the last events of the streams, also if calls have taken all of `closeTimeout`. */
const FLUSH_TIMEOUT = 100

/** Milliseconds between checks of the processes that run calls whose streams are in this process. */
const CHECK_INTERVAL = 500

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

/** What the session of the store contains for an MCP session. */
interface McpData {
  /** The inbox of the process that runs the server. */
  readonly inbox: string
  readonly initialize: JsonRpcRequest
  readonly version: string
}

/** What the session of the store contains for the stream of a call. */
interface StreamData {
  readonly requestIds: readonly RequestId[]
  /** The inbox of the process that runs the call. */
  readonly inbox: string
}

/** The MCP sessions of an app. A session, and the stream of each call, is a session of the store. The principal of a stream is the id of the MCP session, so that only this can resume it. */
export class McpRegistry {
  readonly sessions: Sessions
  readonly #settings: McpSettings
  readonly #context: McpContext
  readonly #inbox: Inbox
  /** The sessions whose server is in this process, by their ids. */
  readonly #owned = new Map<string, McpSession>()
  /** The sessions whose server is being started. */
  readonly #restoring = new Map<string, Promise<McpSession | RemoteMcpSession>>()
  /** The ids of the streams of calls that run in this process. */
  readonly #running = new Set<string>()
  /** The streams in this process of calls that run in others. */
  readonly #watched = new Set<Session>()
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
      openStream: (session, requestIds) => this.openStream(session, { requestIds, inbox: this.#inbox.id }),
      onStream: ({ id }) => { this.#running.add(id) },
      onCallEnd: stream => {
        if (stream !== undefined) this.#running.delete(stream.id)
        this.#resolveIfIdle()
      },
      onEnd: ({ session }) => { this.#owned.delete(session.id) }
    }
    this.#inbox = new Inbox(sessions, logger, {
      onMessage: message => { this.#receive(message as ForwardedMessages).catch((error: unknown) => { logSafely(logger, 'error', { err: error }, 'a message of an MCP client could not be handled') }) },
      // Another process may continue the sessions.
      onLost: () => { this.#endAll() }
    })
    this.#timers = [
      setInterval(() => { this.#checkWatched().catch(noop) }, CHECK_INTERVAL).unref(),
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
        const data: McpData = { inbox: this.#inbox.id, initialize: request, version: String(protocolVersion) }
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

  /** Finds the server of a session. If no process runs it, this one does from now on. */
  async findServer ({ id }: Session, extra: MessageExtra): Promise<McpSession | RemoteMcpSession> {
    const mcp = this.#owned.get(id) ?? await this.#restoring.get(id)
    if (mcp !== undefined) return mcp
    const session = await this.sessions.find(id)
    if (session === undefined) throw new McpSessionUnknown()
    const { initialize, inbox } = session.data as unknown as McpData
    const owner = inbox === this.#inbox.id ? undefined : await this.#findInbox(inbox)
    if (owner !== undefined && owner.data.isClosing !== true) return new RemoteMcpSession(session, owner, this)
    const restored = this.#restoring.get(id) ?? this.#restore(session, initialize, extra).finally(() => { this.#restoring.delete(id) })
    this.#restoring.set(id, restored)
    return await restored
  }

  /** Finds the stream with an id, which a client resumes. If nothing continues it, its requests get an error. Rejects with FST_SSE_MCP_STREAM_UNKNOWN. */
  async findStream (id: string, session: Session): Promise<Session> {
    if (id === session.id) return session
    const stream = await this.sessions.findForResume(id, session.id)
    if (stream === undefined) throw new McpStreamUnknown()
    await this.watch(stream)
    return stream
  }

  /** If the process that runs a call fails, its requests get an error. */
  async watch (stream: Session): Promise<void> {
    if (stream.closed || this.#running.has(stream.id)) return
    const { inbox, requestIds } = stream.data as unknown as StreamData
    if (inbox !== this.#inbox.id && await this.#findInbox(inbox) !== undefined) {
      this.#watched.add(stream)
      return
    }
    this.#watched.delete(stream)
    for (const id of requestIds) await sendMessage(stream, createInternalError(id, 'The response is lost, because the server that ran the request has failed'))
    await stream.close('lost')
  }

  /** Opens and retains a session for the stream of a call. */
  async openStream ({ id }: Session, data: StreamData): Promise<Session> {
    const stream = await this.sessions.open(id)
    if (stream === undefined) throw new McpTooMany('streams')
    stream[kStream].preventEviction()
    try {
      await stream.update({ ...data })
      return stream
    } catch (error) {
      await this.discard(stream)
      throw error
    }
  }

  discard (stream: Session): Promise<void> {
    return this.sessions.discard(stream, 'refused')
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

  /** Starts a server that continues a session. */
  async #restore (session: Session, initialize: JsonRpcRequest, extra: MessageExtra): Promise<McpSession | RemoteMcpSession> {
    const mcp = new McpSession(session, this.#context)
    try {
      await mcp.restore(() => this.#createServer(session), initialize, extra)
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
      return await this.findServer(session, extra)
    } catch (error) {
      mcp.end()
      throw error
    }
  }

  /** Finds the inbox of another process; `undefined` if that has failed. */
  async #findInbox (id: string): Promise<Session | undefined> {
    const inbox = await this.sessions.find(id)
    if (inbox?.connected === true) return inbox
    // So that the process notices, if it was only paused.
    await inbox?.close('lost')
    return undefined
  }

  async #checkWatched (): Promise<void> {
    for (const stream of this.#watched) {
      if (stream.closed || !stream[kStream].hasStream) this.#watched.delete(stream)
      else await this.watch(stream)
    }
  }

  /** Handles messages that another process has received. */
  async #receive ({ session: id, messages, stream: streamId, request }: ForwardedMessages): Promise<void> {
    await this.#restoring.get(id)
    const mcp = this.#owned.get(id)
    if (streamId === undefined || request === undefined) {
      mcp?.receive(messages)
      return
    }
    const stream = await this.sessions.find(streamId)
    if (stream === undefined) return
    try {
      if (mcp === undefined) throw new McpServerFailed()
      mcp.call(messages, new MessageExtra(request), stream)
    } catch (error) {
      for (const { id } of messages.filter(isRequest)) await sendMessage(stream, createInternalError(id, (error as Error).message))
      await stream.close('refused')
    }
  }
}
