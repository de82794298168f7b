import { noop } from '../awaitable.js'
import { kStream, type Session } from '../sessions/session.js'
import { frameEvent } from '../wire/frame.js'
import { isRequest, type JsonRpcMessage, type RequestId } from './json-rpc.js'
import type { MessageExtra, RequestInfo } from './transport.js'

/** What a remote session needs from the registry. */
export interface RemoteContext {
  openStream (session: Session, data: { requestIds: readonly RequestId[], inbox: string }): Promise<Session>
  /** The requests of a stream get an error if the process that runs them fails. */
  watch (stream: Session): Promise<void>
  discard (stream: Session): Promise<void>
}

/** Messages of a client that another process has received. */
export interface ForwardedMessages {
  readonly session: string
  readonly messages: readonly JsonRpcMessage[]
  /** The stream for the responses, if some of the messages are requests. */
  readonly stream?: string
  readonly request?: RequestInfo
}

/** A session of an MCP client whose server is in another process, which receives the messages in its inbox. */
export class RemoteMcpSession {
  readonly session: Session
  readonly #inbox: Session
  readonly #context: RemoteContext

  constructor (session: Session, inbox: Session, context: RemoteContext) {
    this.session = session
    this.#inbox = inbox
    this.#context = context
  }

  /** As the method of `McpSession`. */
  async receive (messages: readonly JsonRpcMessage[]): Promise<void> {
    await this.#forward({ session: this.session.id, messages })
  }

  /** As the method of `McpSession`. The response is a stream. */
  async call (messages: readonly JsonRpcMessage[], { info }: MessageExtra): Promise<{ response: Session, onAttach (stream: Session): void }> {
    const requestIds = messages.filter(isRequest).map(({ id }) => id)
    const stream = await this.#context.openStream(this.session, { requestIds, inbox: this.#inbox.id })
    try {
      await this.#forward({ session: this.session.id, messages, stream: stream.id, request: info })
    } catch (error) {
      await this.#context.discard(stream)
      throw error
    }
    return { response: stream, onAttach: () => { this.#context.watch(stream).catch(noop) } }
  }

  async #forward (messages: ForwardedMessages): Promise<void> {
    const stream = this.session[kStream]
    // The message prolongs the session.
    stream.retainForResume()
    try {
      await this.#inbox[kStream].append(frameEvent('message', messages))
    } finally {
      stream.release()
    }
  }
}
