import type { FastifyBaseLogger } from 'fastify'
import { settlesWithin } from '../awaitable.js'
import { Closing, McpSessionUnknown, McpStreamUnknown, McpTooMany } from '../errors.js'
import { now } from '../log/log.js'
import { kStream, type Session } from '../sessions/session.js'
import { createSessions, type Sessions } from '../sessions/sessions.js'
import type { StreamFrames } from '../sessions/session-stream.js'
import { CLOSED_ID, formatEventId } from '../wire/event-id.js'
import { REPLACED_FRAME } from '../wire/frame.js'
import { sendMessage } from './call.js'
import { createInternalError, type JsonRpcMessage, type JsonRpcRequest, type RequestId } from './json-rpc.js'
import { McpSession, type McpContext } from './mcp-session.js'
import type { McpSettings } from './options.js'
import type { MessageExtra } from './transport.js'

/** Milliseconds that `close` has for the last events of the streams, also if calls have taken all of `closeTimeout`. */
const FLUSH_TIMEOUT = 100

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

/** The MCP sessions of an app. A session, and the stream of each call, is a session of the store. The principal of a stream is the id of the MCP session, so that only this can resume it. */
export class McpRegistry {
  readonly sessions: Sessions
  readonly #settings: McpSettings
  readonly #context: McpContext
  /** The sessions whose server is in this process. */
  readonly #owned = new Map<Session, McpSession>()
  #closing = false
  #onIdle: (() => void) | undefined

  static async create (settings: McpSettings, logger: FastifyBaseLogger): Promise<McpRegistry> {
    return new McpRegistry(settings, await createSessions(settings.sessions, logger, undefined, FRAMES), logger)
  }

  private constructor (settings: McpSettings, sessions: Sessions, logger: FastifyBaseLogger) {
    this.#settings = settings
    this.sessions = sessions
    this.#context = {
      logger,
      maxRequests: settings.sessions.maxWaitingMessages,
      initializeTimeout: settings.initializeTimeout,
      openStream: ({ session }, requestIds) => this.#openStream(session, requestIds),
      onCallEnd: () => { this.#resolveIfIdle() },
      onEnd: ({ session }) => { this.#owned.delete(session) }
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
    this.#owned.set(session, mcp)
    try {
      const response = await mcp.initialize(async () => await this.#settings.server({ principal, sessionId: session.id }), request, extra)
      if (response.error === undefined) {
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
  async find (id: string, principal: string | undefined): Promise<McpSession> {
    const session = await this.sessions.findCached(id)
    const mcp = session?.principal === principal ? this.#owned.get(session as Session) : undefined
    if (mcp === undefined) throw new McpSessionUnknown()
    return mcp
  }

  /** Finds the stream with an id, which a client resumes. If nothing continues it, its requests get an error. Rejects with FST_SSE_MCP_STREAM_UNKNOWN. */
  async findStream (id: string, mcp: McpSession): Promise<Session> {
    if (id === mcp.session.id) return mcp.session
    const stream = await this.sessions.findForResume(id, mcp.session.id)
    if (stream === undefined) throw new McpStreamUnknown()
    if (!stream.closed && !mcp.hasStream(stream)) await failStream(stream)
    return stream
  }

  /** Waits for running calls, at most for `closeTimeout`. Then ends the rest, and the streams. */
  async close (): Promise<void> {
    this.#closing = true
    const { closeTimeout } = this.#settings.sessions
    const startedAt = now()
    const idle = new Promise<void>(resolve => { this.#onIdle = resolve })
    this.#resolveIfIdle()
    if (!await settlesWithin(idle, closeTimeout)) {
      const calls = [...this.#owned.values()].flatMap(({ calls }) => [...calls])
      await settlesWithin(Promise.allSettled(calls.map(call => call.fail('The server is closing'))), FLUSH_TIMEOUT)
    }
    await this.sessions.close(Math.max(FLUSH_TIMEOUT, closeTimeout - (now() - startedAt)))
    // Other processes may continue the sessions of a shared store, but without these servers.
    for (const mcp of this.#owned.values()) mcp.end()
  }

  #resolveIfIdle (): void {
    if (this.#onIdle !== undefined && [...this.#owned.values()].every(({ calls }) => calls.size === 0)) this.#onIdle()
  }

  async #openStream ({ id }: Session, requestIds: readonly RequestId[]): Promise<Session> {
    const stream = await this.sessions.open(id)
    if (stream === undefined) throw new McpTooMany('streams')
    stream[kStream].preventEviction()
    try {
      await stream.update({ requestIds })
      return stream
    } catch (error) {
      await this.sessions.discard(stream, 'refused')
      throw error
    }
  }
}

/** Ends the stream of a call that runs nowhere any more. */
async function failStream (stream: Session): Promise<void> {
  for (const id of stream.data.requestIds as readonly RequestId[]) await sendMessage(stream, createInternalError(id, 'The response is lost'))
  await stream.close('lost')
}
