import type { FastifyBaseLogger } from 'fastify'
import { noop, settlesWithin } from '../awaitable.js'
import { Closing, McpSessionUnknown, McpStreamUnknown, McpTooMany } from '../errors.js'
import { now } from '../clock.js'
import { logSafely } from '../safe-log.js'
import { kInternals, type Session } from '../sessions/session.js'
import { createSessions, type Sessions } from '../sessions/sessions.js'
import type { StreamFrames } from '../sessions/session-internals.js'
import { CLOSED_ID, formatEventId } from '../wire/event-id.js'
import { REPLACED_FRAME } from '../wire/frame.js'
import type { Call } from './call.js'
import { Forwarder } from './forwarder.js'
import { Inbox } from './inbox.js'
import type { JsonRpcMessage, JsonRpcRequest } from './json-rpc.js'
import { McpSession, type McpContext } from './mcp-session.js'
import type { McpSettings } from './options.js'
import type { McpHandlerLike, McpServerLike, MessageExtra } from './transport.js'

/** Milliseconds that `close` has for the last events of the streams, even if calls have taken all of `closeTimeout`; also the maximum for failing the calls and for closing the handler. */
const FLUSH_TIMEOUT = 100

/** The `welcome` of a stream that begins with an event with empty data, from which the client gets an id. */
export const PRIMING = 'priming'

/**
 * The frames of MCP streams. They contain no messages: clients ignore events with a name, and those that know priming also
 * events with empty data. Some clients do not store the id of an event without a `data` field.
 */
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

/** The MCP sessions of an app. A session, and the stream of each call, is a session of the store. The principal of the stream of a call is the id of the MCP session, so that a client needs this id to resume it. */
export class McpRegistry {
  readonly sessions: Sessions
  readonly #settings: McpSettings
  readonly #context: McpContext
  readonly #inbox: Inbox
  /** The sessions whose server is in this process, by their ids. */
  readonly #owned = new Map<string, McpSession>()
  /** By session ids: resolves when this process has restored the server, or has found the inbox of the process that has. */
  readonly #restoring = new Map<string, Promise<McpSession | Session>>()
  readonly #forwarder: Forwarder
  readonly #renewTimer: NodeJS.Timeout
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
      openStreamSession: (session, requestIds) => this.#forwarder.openStreamSession(session, requestIds),
      onCallEnd: streamSession => {
        if (streamSession !== undefined) this.#forwarder.onCallEnd(streamSession)
        this.#resolveIfIdle()
      },
      onEnd: ({ session }) => { this.#owned.delete(session.id) }
    }
    this.#inbox = new Inbox(sessions, logger, {
      onStream: streamId => { this.#forwarder.receive(streamId).catch((error: unknown) => { logSafely(logger, 'error', { err: error }, 'a message of an MCP client could not be handled') }) },
      // Another process may continue the sessions.
      onLost: () => { this.#endAll() }
    })
    this.#forwarder = new Forwarder(sessions, this.#inbox, {
      findServer: (id, extra, hasRequests) => this.#findServer(id, extra, hasRequests),
      findOwned: async id => {
        await this.#restoring.get(id)
        return this.#owned.get(id)
      }
    })
    this.#renewTimer = setInterval(() => { for (const mcp of this.#owned.values()) mcp.renew() }, Math.max(settings.sessions.resumeTimeout / 4, 1)).unref()
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
        session[kInternals].release()
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
    const server = await this.#findServer(session.id, extra, false)
    if (server instanceof McpSession) server.receive(messages)
    else await this.#forwarder.forwardWithoutResponse(server, session, messages, extra)
  }

  /** Passes messages of a client, of which some are requests, to the server of its session. Resolves with the session of the response's stream if another process runs the server. */
  async call (session: Session, messages: readonly JsonRpcMessage[], extra: MessageExtra): Promise<Call | Session> {
    const server = await this.#findServer(session.id, extra, true)
    return server instanceof McpSession ? server.call(messages, extra) : await this.#forwarder.forward(server, session, messages, extra)
  }

  /** Finds the session whose stream a client resumes, by its id. Rejects with FST_SSE_MCP_STREAM_UNKNOWN. */
  async findStream (id: string, session: Session): Promise<Session> {
    const streamSession = id === session.id ? session : await this.sessions.findForResume(id, session.id)
    if (streamSession === undefined) throw new McpStreamUnknown()
    return streamSession
  }

  /** Checks a stream regularly. If the process that should handle its messages has failed, another one handles them, or its requests get an error. */
  watch (streamSession: Session): void {
    this.#forwarder.watch(streamSession)
  }

  /** Waits for running calls, at most for `closeTimeout`. Then ends the rest, and the streams. */
  async close (): Promise<void> {
    this.#closing = true
    const { closeTimeout } = this.#settings.sessions
    const startedAt = now()
    const idle = new Promise<void>(resolve => { this.#onIdle = resolve })
    this.#resolveIfIdle()
    this.#inbox.markClosing().catch(noop)
    if (!await settlesWithin(idle, closeTimeout)) {
      const calls = [...this.#owned.values()].flatMap(({ calls }) => [...calls])
      await settlesWithin(Promise.allSettled(calls.map(call => call.fail('The server is closing'))), FLUSH_TIMEOUT)
    }
    await settlesWithin(Promise.allSettled([this.handler?.close?.()]), FLUSH_TIMEOUT)
    await this.sessions.close(Math.max(FLUSH_TIMEOUT, closeTimeout - (now() - startedAt)))
    // Other processes may continue the sessions of a shared store, but without these servers.
    this.#endAll()
    this.#forwarder.stop()
    clearInterval(this.#renewTimer)
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

  /**
   * Finds the server of a session, or the inbox of the process that runs it. If no process does, this one does from now on. A process
   * that closes gets no requests any more, but the answers that its running calls wait for, and their cancellations.
   */
  async #findServer (id: string, extra: MessageExtra, hasRequests: boolean): Promise<McpSession | Session> {
    const mcp = this.#owned.get(id) ?? await this.#restoring.get(id)
    if (mcp !== undefined) return mcp
    const session = await this.sessions.find(id)
    if (session === undefined) throw new McpSessionUnknown()
    const { inbox } = session.data as unknown as McpData
    const owner = inbox === this.#inbox.id ? undefined : await this.#inbox.findOther(inbox)
    if (owner !== undefined && !(hasRequests && owner.data.isClosing === true)) return owner
    const restored = this.#restoring.get(id) ?? this.#restore(session, extra, hasRequests).finally(() => { this.#restoring.delete(id) })
    this.#restoring.set(id, restored)
    return await restored
  }

  /** Starts a server that continues a session. */
  async #restore (session: Session, extra: MessageExtra, hasRequests: boolean): Promise<McpSession | Session> {
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
      // Otherwise, `#findServer` would wait for this promise.
      this.#restoring.delete(session.id)
      return await this.#findServer(session.id, extra, hasRequests)
    } catch (error) {
      mcp.end()
      throw error
    }
  }
}
