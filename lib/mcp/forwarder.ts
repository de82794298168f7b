import { noop, settlesWithin } from '../awaitable.js'
import { McpServerFailed, McpTooMany, StoreUnavailable } from '../errors.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { sendErrors } from './call.js'
import type { Inbox } from './inbox.js'
import { isRequest, type JsonRpcMessage, type RequestId } from './json-rpc.js'
import { McpSession } from './mcp-session.js'
import { MessageExtra, type RequestInfo } from './transport.js'

/** Milliseconds between two checks of the watched streams. */
const CHECK_INTERVAL = 500

/** Maximum number of milliseconds that the response to messages without a request waits for the process that handles them. */
const FORWARD_TIMEOUT = 10_000

/** Finds the servers of sessions. */
export interface ServerFinder {
  /** The server of a session, or the inbox of the process that runs it. A process that closes gets no requests. */
  findServer (sessionId: string, extra: MessageExtra, hasRequests: boolean): Promise<McpSession | Session>
  /** The server of a session, if it is in this process. */
  findOwned (sessionId: string): Promise<McpSession | undefined>
}

/** The data of the stream of a call, or of messages without a request that were sent to another process. */
interface StreamData {
  /** The inbox of the process that runs the call. */
  readonly inbox: string
  readonly requestIds: readonly RequestId[]
  /** The messages, if another process has received them. The process with the inbox removes them before it handles them. */
  readonly forwarded?: { readonly messages: readonly JsonRpcMessage[], readonly info: RequestInfo } | undefined
}

const getData = ({ data }: Session): StreamData => data as unknown as StreamData

/** Passes messages to the process that runs the server of their session. If that process fails before it has begun with them, another one handles them. */
export class Forwarder {
  readonly #sessions: Sessions
  readonly #inbox: Inbox
  readonly #servers: ServerFinder
  /** The ids of the streams of calls that run, or are being started, in this process. */
  readonly #running = new Set<string>()
  /** The streams in this process of messages that other processes should handle. The value says whether a check is running. */
  readonly #watched = new Map<Session, boolean>()
  readonly #timer: NodeJS.Timeout

  constructor (sessions: Sessions, inbox: Inbox, servers: ServerFinder) {
    this.#sessions = sessions
    this.#inbox = inbox
    this.#servers = servers
    this.#timer = setInterval(() => { for (const streamSession of this.#watched.keys()) this.#check(streamSession).catch(noop) }, CHECK_INTERVAL).unref()
  }

  /** Opens and retains a session for the stream of a call that runs in this process. */
  async openStreamSession (session: Session, requestIds: readonly RequestId[]): Promise<Session> {
    const streamSession = await this.#open(session, { requestIds, inbox: this.#inbox.id })
    this.#running.add(streamSession.id)
    return streamSession
  }

  onCallEnd (streamSession: Session): void {
    this.#running.delete(streamSession.id)
  }

  /** Passes messages to the process with an inbox. Resolves with the stream for the responses. */
  async forward (inbox: Session, session: Session, messages: readonly JsonRpcMessage[], { info }: MessageExtra): Promise<Session> {
    const requestIds = messages.filter(isRequest).map(({ id }) => id)
    const streamSession = await this.#open(session, { inbox: inbox.id, requestIds, forwarded: { messages, info } })
    // The messages prolong the session.
    session[kInternals].retainForResume()
    session[kInternals].release()
    // If this fails, a check of the stream sends the id again.
    inbox.send(streamSession.id).catch(noop)
    return streamSession
  }

  /** As {@link forward}, for messages without a request. Resolves when they were handled, or after `FORWARD_TIMEOUT`. */
  async forwardWithoutResponse (inbox: Session, session: Session, messages: readonly JsonRpcMessage[], extra: MessageExtra): Promise<void> {
    const streamSession = await this.forward(inbox, session, messages, extra)
    const handled = new Promise<void>(resolve => { streamSession.signal.addEventListener('abort', () => { resolve() }) })
    this.watch(streamSession)
    await settlesWithin(handled, FORWARD_TIMEOUT)
    await this.#sessions.discard(streamSession, 'done')
  }

  /** Handles the messages of a stream that another process has passed to this one. */
  async receive (streamId: string): Promise<void> {
    const streamSession = await this.#sessions.find(streamId)
    if (streamSession === undefined) return
    // If the server of the session is being started, this waits for it.
    await this.#servers.findOwned(String(streamSession.principal))
    await this.#handle(streamSession)
  }

  /** Checks a stream regularly. If the process that should handle its messages has failed, another one handles them, or its requests get an error. */
  watch (streamSession: Session): void {
    if (!this.#watched.has(streamSession) && !this.#running.has(streamSession.id)) this.#watched.set(streamSession, false)
  }

  /** Does not watch streams any more. */
  stop (): void {
    clearInterval(this.#timer)
  }

  async #open ({ id }: Session, data: StreamData): Promise<Session> {
    const streamSession = await this.#sessions.open(id)
    if (streamSession === undefined) throw new McpTooMany('streams')
    streamSession[kInternals].preventEviction()
    try {
      await streamSession.update({ ...data })
      return streamSession
    } catch (error) {
      await this.#sessions.discard(streamSession, 'refused')
      throw error
    }
  }

  /** Handles messages that were passed to this process, unless another one has taken them over. */
  async #handle (streamSession: Session): Promise<void> {
    const { inbox, requestIds, forwarded } = getData(streamSession)
    if (inbox !== this.#inbox.id || forwarded === undefined || this.#running.has(streamSession.id)) return
    this.#running.add(streamSession.id)
    let isCalled = false
    try {
      await streamSession.update({ forwarded: undefined })
      // A process that takes over sets `inbox` before it reads `forwarded`, so that at least one of the two sees the change of the other.
      const current = await this.#sessions.find(streamSession.id)
      if (current?.data.inbox !== inbox) return
      const mcp = await this.#servers.findOwned(String(streamSession.principal))
      if (mcp === undefined) throw new McpServerFailed()
      isCalled = requestIds.length > 0
      if (isCalled) mcp.call(forwarded.messages, new MessageExtra(forwarded.info), streamSession)
      else {
        mcp.receive(forwarded.messages)
        streamSession[kInternals].retain()
        await this.#sessions.discard(streamSession, 'done')
      }
    } catch (error) {
      isCalled = false
      await sendErrors(streamSession, requestIds, (error as Error).message)
    } finally {
      if (!isCalled) this.#running.delete(streamSession.id)
    }
  }

  async #check (streamSession: Session): Promise<void> {
    if (this.#watched.get(streamSession) !== false) return
    this.#watched.set(streamSession, true)
    const { requestIds } = getData(streamSession)
    try {
      // If the client has disconnected, the process in which it resumes the stream watches it.
      const isNeeded = !streamSession.closed && (requestIds.length === 0 || streamSession[kInternals].hasStream)
      if (isNeeded && await this.#ensureHandled(streamSession)) this.#watched.set(streamSession, false)
      else {
        this.#watched.delete(streamSession)
        if (isNeeded) await sendErrors(streamSession, requestIds, 'The response is lost, because the server that ran the request has failed')
      }
    } catch (error) {
      this.#watched.set(streamSession, false)
      if (!(error instanceof StoreUnavailable)) await sendErrors(streamSession, requestIds, (error as Error).message)
    }
  }

  /** Makes sure that the messages of a stream are handled. Resolves with false if a process has begun to handle them and has failed. */
  async #ensureHandled (streamSession: Session): Promise<boolean> {
    const { inbox, requestIds, forwarded } = getData(streamSession)
    if (this.#running.has(streamSession.id)) return true
    if (inbox === this.#inbox.id) {
      await this.#handle(streamSession)
      return forwarded !== undefined
    }
    const owner = await this.#inbox.findOther(inbox)
    if (owner !== undefined) {
      // The id may have been sent before, but lost.
      if (forwarded !== undefined) await owner.send(streamSession.id)
      return true
    }
    if (forwarded === undefined) return false
    const server = await this.#servers.findServer(String(streamSession.principal), new MessageExtra(forwarded.info), requestIds.length > 0)
    await streamSession.update({ inbox: server instanceof McpSession ? this.#inbox.id : server.id })
    const current = await this.#sessions.find(streamSession.id)
    return current?.data.forwarded !== undefined && await this.#ensureHandled(streamSession)
  }
}
