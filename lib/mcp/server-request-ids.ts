import { randomInt } from 'node:crypto'
import { isRequest, isResponse, type JsonRpcMessage, type RequestId } from './json-rpc.js'

/** The size of the range of ids of one server. No server sends so many requests. */
const ID_COUNT = 2 ** 24

/**
 * The ids of the requests that a server sends to its client. The servers of the SDKs count from 0. A server that continues a session
 * must not use the ids of the earlier server again, so a random offset is added to its ids.
 */
export class ServerRequestIds {
  #offset = 0

  /** Chooses the offset. Call it before a server continues a session. */
  changeOffset (): void {
    this.#offset = randomInt(1, 2 ** 27) * ID_COUNT
  }

  /** Returns a message for the client. */
  toClient (message: JsonRpcMessage): JsonRpcMessage {
    const { id, method, params = {} } = message
    if (this.#offset === 0) return message
    if (method === 'notifications/cancelled') return { ...message, params: { ...params, requestId: this.#toClientId(params.requestId) } }
    if (!isRequest(message)) return message
    // The SDKs use the id as the progress token.
    const { _meta: meta } = params as { _meta?: { readonly progressToken?: unknown } }
    const mappedParams = meta?.progressToken === id ? { params: { ...params, _meta: { ...meta, progressToken: this.#toClientId(id) } } } : {}
    return { ...message, ...mappedParams, id: this.#toClientId(id) as RequestId }
  }

  /** Returns a message for the server; `undefined` if it belongs to a request of an earlier server. */
  toServer (message: JsonRpcMessage): JsonRpcMessage | undefined {
    const { id, method, params = {} } = message
    const { progressToken } = params
    if (isResponse(message) && typeof id === 'number') return this.#isOwn(id) ? { ...message, id: id - this.#offset } : undefined
    if (method !== 'notifications/progress' || typeof progressToken !== 'number') return message
    return this.#isOwn(progressToken) ? { ...message, params: { ...params, progressToken: progressToken - this.#offset } } : undefined
  }

  #toClientId (id: unknown): unknown {
    return typeof id === 'number' ? id + this.#offset : id
  }

  #isOwn (clientId: number): boolean {
    return clientId >= this.#offset && clientId < this.#offset + ID_COUNT
  }
}
