import type { FastifyBaseLogger } from 'fastify'
import { settlesWithin } from '../awaitable.js'
import { Closing, McpSessionUnknown, McpTooMany } from '../errors.js'
import { now } from '../log/log.js'
import type { Session } from '../sessions/session.js'
import { createSessions, type Sessions } from '../sessions/sessions.js'
import type { StreamFrames } from '../sessions/session-stream.js'
import { CLOSED_ID, formatEventId } from '../wire/event-id.js'
import { REPLACED_FRAME } from '../wire/frame.js'
import type { Call } from './call.js'
import type { JsonRpcMessage, JsonRpcRequest } from './json-rpc.js'
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

/** The MCP sessions of an app. A session, and each of its streams, is a session of the store. The principal of a stream is the id of the MCP session, so that only this can resume it. */
export class McpRegistry {
  readonly sessions: Sessions
  readonly #settings: McpSettings
  readonly #context: McpContext
  /** The sessions whose server is in this process. */
  readonly #owned = new Map<Session, McpSession>()
  /** The calls whose response is a stream, by its session. */
  readonly #streams = new Map<Session, { readonly mcp: McpSession, readonly call: Call }>()
  #closing = false
  #onIdle: (() => void) | undefined

  static async create (settings: McpSettings, logger: FastifyBaseLogger): Promise<McpRegistry> {
    return new McpRegistry(settings, await createSessions(settings.sessions, logger, undefined, FRAMES))
  }

  private constructor (settings: McpSettings, sessions: Sessions) {
    this.#settings = settings
    this.sessions = sessions
    this.#context = {
      idleTimeout: settings.sessions.resumeTimeout,
      openStream: ({ session }) => sessions.open(session.id),
      onStream: (stream, mcp, call) => { this.#streams.set(stream, { mcp, call }) },
      onCallEnd: () => { this.#resolveIfIdle() }
    }
    sessions.addHook('onClose', (session, reason) => this.#onClose(session, reason))
  }

  get closing (): boolean {
    return this.#closing
  }

  /** Starts a session. Resolves with the response to `initialize`. If that is an error, the session is closed. */
  async start (request: JsonRpcRequest, principal: string | undefined, extra: MessageExtra): Promise<{ response: JsonRpcMessage, session: Session }> {
    if (this.#closing) throw new Closing()
    const session = await this.sessions.open(principal)
    if (session === undefined) throw new McpTooMany('sessions')
    const mcp = new McpSession(session, this.#context)
    this.#owned.set(session, mcp)
    try {
      const server = await this.#settings.server({ principal, sessionId: session.id })
      const response = await mcp.initialize(server, request, extra)
      if (response.error !== undefined) await session.close('refused')
      return { response, session }
    } catch (error) {
      await session.close('refused')
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
  }

  #resolveIfIdle (): void {
    if (this.#onIdle !== undefined && [...this.#owned.values()].every(({ calls }) => calls.size === 0)) this.#onIdle()
  }

  async #onClose (session: Session, reason: string): Promise<void> {
    const stream = this.#streams.get(session)
    if (stream !== undefined) {
      this.#streams.delete(session)
      stream.mcp.cancel(stream.call, 'the client did not reconnect in time')
    }
    const mcp = this.#owned.get(session)
    this.#owned.delete(session)
    await mcp?.end(reason)
  }
}
