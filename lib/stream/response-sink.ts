import { ServerResponse, type OutgoingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyReply, onSendHookHandler } from 'fastify'
import { noop } from '../awaitable.js'

export interface SinkListener {
  /** After a write that returned false, the sink accepts more. */
  onDrain (): void
  /** The response has ended or its connection is lost. */
  onClose (): void
}

/** Where a stream writes: a response, or a substitute in tests. */
export interface Sink {
  listener: SinkListener | undefined
  readonly closed: boolean
  /** Writes a chunk. Returns false if the next write should wait for `onDrain`. */
  write (chunk: string): boolean
  end (chunk: string): void
  destroy (): void
}

/**
 * The response to one request, taken over from Fastify. It is created when the handler starts, so that it detects a client
 * that disconnects early. It can write after `takeOver`, which the last `onSend` hook calls when all other hooks have set
 * their headers. It keeps neither Fastify's request nor its reply in memory.
 */
export class ResponseSink implements Sink {
  listener: SinkListener | undefined
  closed: boolean
  readonly #response: ServerResponse
  /** The response at first; its socket as soon as the response would write chunks to the socket unchanged. */
  #target: ServerResponse | Socket

  constructor (response: ServerResponse) {
    this.#response = response
    this.#target = response
    const { socket } = response.req
    // If the client disconnected while earlier hooks ran, no `close` event follows.
    this.closed = socket.destroyed
    response.on('close', this.#onClose)
    // A pipelined response has no socket yet. If the connection closes first, the response emits no `close` event.
    if (response.socket === null) {
      // One connection may have any number of pipelined requests.
      socket.setMaxListeners(0).on('close', this.#onClose)
      response.on('close', () => { socket.off('close', this.#onClose) })
    }
    // A write to a connection that was just lost emits an error, and then `close`.
    response.on('error', noop)
  }

  /** Takes the response over from Fastify and sends the status and the headers that Fastify and the hooks have set. */
  takeOver (reply: FastifyReply): void {
    if (reply.request.raw.httpVersionMajor === 1) {
      // [WHATWG HTML 9.2.7] An event stream may be sent without chunked encoding. A chunk would cost four writes (size, CRLF, data, CRLF).
      this.#response.removeHeader('transfer-encoding')
      reply.header('connection', 'close')
    }
    this.#response.writeHead(reply.statusCode, reply.getHeaders() as OutgoingHttpHeaders)
    // After `writeHead`, so that Fastify can still send another response if a header of the app is invalid.
    reply.hijack()
  }

  write (chunk: string): boolean {
    const target = this.#target
    // The client has closed the connection, or other code has ended the response. A `close` event follows.
    if (!target.writable || this.#response.writableEnded) return false
    const acceptsMore = target.write(chunk)
    // The listener is added only when it is needed, because most streams never block.
    if (!acceptsMore) target.once('drain', () => { this.listener?.onDrain() })
    if (target === this.#response) this.#target = rawWritable(this.#response)
    return acceptsMore
  }

  end (chunk: string): void {
    this.#response.end(chunk)
  }

  destroy (): void {
    this.#response.destroy()
  }

  readonly #onClose = (): void => {
    if (this.closed) return
    this.closed = true
    this.listener?.onClose()
  }
}

/** Returns the socket of a response that would write all further chunks to the socket unchanged, otherwise the response. */
function rawWritable (response: ServerResponse): ServerResponse | Socket {
  const { socket, write } = response
  // HTTP/2, `inject` and wrapped responses have their own `write`. A pipelined response has no socket yet.
  return write === ServerResponse.prototype.write && socket !== null && !response.chunkedEncoding ? socket : response
}

/**
 * Is passed to `reply.send` instead of a body. It goes through all `onSend` hooks. The last of them, `takeOverStream`,
 * recognizes it and starts the stream.
 */
export class StreamPayload {
  /** Because of `pipe`, Fastify treats the payload as a stream, which it neither serializes nor measures. */
  readonly pipe = noop
  readonly #sink: ResponseSink
  readonly #onStart: () => void

  /** `onStart` is called when the headers are sent and the sink can write. */
  constructor (sink: ResponseSink, onStart: () => void) {
    this.#sink = sink
    this.#onStart = onStart
  }

  start (reply: FastifyReply): void {
    if (this.#sink.closed || reply.sent) return
    this.#sink.takeOver(reply)
    this.#onStart()
  }
}

/** The `onSend` hook that starts streams. It must be the last one of its route. */
export const takeOverStream: onSendHookHandler<unknown> = (_request, reply, payload, done) => {
  if (payload instanceof StreamPayload) payload.start(reply)
  else done(null, payload)
}
