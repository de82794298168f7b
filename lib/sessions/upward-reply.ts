import { validateHeaderName, validateHeaderValue } from 'node:http'
import type { FastifyReply } from 'fastify'
import { ResponseInvalid } from '../errors.js'
import type { StoredResponse } from '../store/message-queue.js'
import { isStream } from '../stream/response-sink.js'

export const JSON_TYPE = 'application/json; charset=utf-8'
const ACCEPTED = '{"status":"accepted"}'

/** The reply of a handler to one message. It is not Fastify's Reply, because the response is kept for repeats of the message. */
export class UpwardReply {
  /** The status code that {@link code} has set. */
  statusCode: number | undefined
  /** Whether `send` was called. */
  sent = false
  readonly #getReply: () => FastifyReply
  /** @internal */
  readonly headers: Record<string, string> = {}
  #body: unknown
  #abortController: AbortController | undefined

  /** @internal */
  constructor (getReply: () => FastifyReply) {
    this.#getReply = getReply
  }

  /** The same as the `signal` of the context of the handler. */
  get signal (): AbortSignal {
    this.#abortController ??= new AbortController()
    return this.#abortController.signal
  }

  /** @internal Whether {@link signal} has aborted. Then other messages of the session may have been handled since. */
  get isAborted (): boolean {
    return this.#abortController?.signal.aborted === true
  }

  /** @internal Aborts {@link signal}. */
  abort (reason: Error): void {
    this.#abortController ??= new AbortController()
    this.#abortController.abort(reason)
  }

  /** Sets the status code. Default: 202 if the handler returns no value and does not call `send`, otherwise 200. If the handler throws, the status applies to the error, as in Fastify. */
  code (status: number): this {
    this.#getReply().code(status)
    this.statusCode = status
    return this
  }

  /** Sets a header of the response. A client that sent the message in a batch does not receive it. `Set-Cookie` adds a cookie, which repeats of the message do not receive. Throws if the name or the value is invalid. */
  header (name: string, value: string | number): this {
    validateHeaderName(name)
    // It accepts numbers, and refuses `undefined`.
    validateHeaderValue(name, value as string)
    const text = String(value)
    this.#getReply().header(name, text)
    const lowerCaseName = name.toLowerCase()
    // Fastify has added the cookie. Setting it again with the response would add it twice.
    if (lowerCaseName !== 'set-cookie') this.headers[lowerCaseName] = text
    return this
  }

  /** Sets the body. It takes precedence over the return value of the handler. */
  send (body?: unknown): this {
    this.sent = true
    this.#body = body
    return this
  }

  /** @internal Creates the response from the return value of the handler and from what was set here. Throws FST_SSE_RESPONSE_INVALID, or the error of the serializer. */
  toResponse (event: string, returned: unknown): StoredResponse {
    // As in Fastify, a handler may return the reply.
    const value = this.sent ? this.#body : returned === this ? undefined : returned
    const isEmpty = value === undefined && !this.sent
    const status = this.statusCode ?? (isEmpty ? 202 : 200)
    // A serializer of the app may depend on the status.
    this.#getReply().code(status)
    const body = isEmpty && status === 202 ? ACCEPTED : this.#serialize(event, value)
    const isJson = typeof value !== 'string' && typeof body === 'string'
    return { status, headers: { ...isJson && { 'content-type': JSON_TYPE }, ...this.headers }, body }
  }

  #serialize (event: string, value: unknown): StoredResponse['body'] {
    if (value === undefined || typeof value === 'string') return value
    // The response gets a copy, because the handler may reuse its buffer.
    if (ArrayBuffer.isView(value)) return Buffer.from(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
    if (isStream(value) || isAsyncIterable(value) || value instanceof Blob) throw new ResponseInvalid(JSON.stringify(event))
    // The types say `string`, but the serializer may return a buffer, or nothing for a value without a JSON form.
    return this.#getReply().serialize(value) as StoredResponse['body']
  }
}

/** Whether a value has items that are sent as parts: the result of an async generator function, or another async iterable that is not a Node.js or web stream. */
export function isAsyncValues (value: unknown): value is AsyncIterable<unknown> {
  return isAsyncIterable(value) && !isStream(value)
}

function isAsyncIterable (value: unknown): boolean {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}
