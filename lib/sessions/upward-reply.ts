import { andThen, type Awaitable } from '../awaitable.js'
import { asError, statusOf, StoreUnavailable } from '../errors.js'
import type { StoredResponse } from '../store/message-queue.js'

/**
 * The reply of a handler to one message. It is not Fastify's Reply, because one request may contain several messages, and
 * because the response is kept for repeats of the message.
 */
export class UpwardReply {
  statusCode: number | undefined
  /** Whether `send` was called. */
  sent = false
  #headers: Record<string, string> = {}
  #body: unknown

  /** Sets the status code. Default: 200 with a body, 202 without. */
  code (status: number): this {
    this.statusCode = status
    return this
  }

  /** Sets a header of the response. Headers are ignored if the message arrived in a batch. */
  header (name: string, value: string): this {
    this.#headers[name] = value
    return this
  }

  /** Sets the body. It takes precedence over the return value of the handler. */
  send (body?: unknown): this {
    this.sent = true
    this.#body = body
    return this
  }

  /** @internal Creates the response from the return value of the handler and from what was set here. */
  toResponse (returned: unknown): StoredResponse {
    // As in Fastify, a handler may return the reply.
    const body = this.sent ? this.#body : returned === this ? undefined : returned
    const isEmpty = body === undefined && !this.sent
    const status = this.statusCode ?? (isEmpty ? 202 : 200)
    return { status, headers: this.#headers, body: isEmpty && status === 202 ? { status: 'accepted' } : body, error: undefined }
  }
}

/** Runs a handler and creates the response from what it returns or throws. */
export function runHandler (handler: (reply: UpwardReply) => unknown): Awaitable<StoredResponse> {
  const reply = new UpwardReply()
  try {
    const response = andThen(handler(reply), returned => reply.toResponse(returned))
    return response instanceof Promise ? response.catch(errorResponse) : response
  } catch (thrown) {
    return errorResponse(thrown)
  }
}

function errorResponse (thrown: unknown): StoredResponse {
  const error = asError(thrown)
  // The client repeats the message after this error, so the error must not become the response to repeats.
  if (error instanceof StoreUnavailable) throw error
  return { status: statusOf(error), headers: {}, body: undefined, error }
}
