import { ServerResponse, type OutgoingHttpHeaders } from 'node:http'
import { Socket } from 'node:net'
import { Readable } from 'node:stream'
import type { FastifyReply, onSendHookHandler } from 'fastify'
import { noop } from '../awaitable.js'

export interface SinkListener {
  /** After a write that returned false, the sink accepts more. */
  onDrain (): void
  /** The response has ended or its connection is lost. */
  onClose (): void
  /** A method of the response threw, for example a `write` that other code has wrapped. The connection is being closed. */
  onError? (error: unknown): void
}

/** Where a stream writes, usually a response. Its methods do not throw. */
export interface Sink {
  listener: SinkListener | undefined
  readonly closed: boolean
  /** Writes a chunk: text, or with `latin1`, one byte per character. Returns false if the next write should wait for `onDrain`. */
  write (chunk: string, encoding?: 'latin1'): boolean
  end (chunk: string, encoding?: 'latin1'): void
  /** Closes the connection before the response has ended: at once, or when everything that was written is sent. */
  destroy (afterWrites?: boolean): void
}

/** Node's `write`; `undefined` if other code had replaced it when this module was loaded. It is detected by its source text, because a wrapper differs from it in nothing else. */
const nodeWrite = [ServerResponse.prototype.write].find(write => Function.prototype.toString.call(write).includes('write_(this, '))

/**
 * The response to one request, as the target of a stream. It is created when the handler starts, so that it detects a
 * client that disconnects early. It can write after {@link takeOver} or {@link usePayload}.
 */
export class ResponseSink implements Sink {
  listener: SinkListener | undefined
  closed: boolean
  readonly #response: ServerResponse
  #isHeadSent = false
  /** The payload, if the data goes through it; see {@link StreamPayload}. */
  #payload: StreamPayload | undefined

  constructor (response: ServerResponse) {
    this.#response = response
    const { socket } = response.req
    // Over HTTP/2, a response whose client resets the stream emits `close` only after the end of the request was read.
    if (this.#isHttp2 && response.req.method === 'GET') response.req.resume()
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

  /** Takes the response over from Fastify. Sends the status and the headers that Fastify and the hooks have set, and `headers`. Neither Fastify's request nor its reply is kept in memory. */
  takeOver (reply: FastifyReply, headers: OutgoingHttpHeaders): void {
    this.#response.writeHead(reply.statusCode, { ...reply.getHeaders() as OutgoingHttpHeaders, ...headers })
    // `hijack` is called after `writeHead`, so that Fastify can still send another response if a header of the app is invalid.
    reply.hijack()
  }

  /** Writes to a payload that Fastify pipes to the response. */
  usePayload (payload: StreamPayload): void {
    this.#payload = payload
  }

  write (chunk: string, encoding?: 'latin1'): boolean {
    try {
      return this.#payload === undefined ? this.#write(chunk, encoding) : this.#payload.push(chunk)
    } catch (error) {
      this.#abort(error)
      return false
    }
  }

  end (chunk: string, encoding: 'utf8' | 'latin1' = 'utf8'): void {
    try {
      if (this.#payload === undefined) {
        this.#response.end(chunk, encoding)
      } else {
        this.#payload.push(chunk)
        this.#payload.push(null)
      }
    } catch (error) {
      this.#abort(error)
    }
  }

  destroy (afterWrites = false): void {
    try {
      if (afterWrites) this.#destroyAfterWrites()
      else this.#destroyNow()
    } catch (error) {
      this.listener?.onError?.(error)
    }
  }

  #destroyNow (): void {
    // Without an error, the client of HTTP/2 would see the end of a complete response. Fastify logs an error with this code as it logs a lost connection.
    this.#response.destroy(this.#isHttp2 ? Object.assign(new Error('The response was aborted'), { code: 'ERR_STREAM_PREMATURE_CLOSE' }) : undefined)
  }

  /** Destroys the response when what was written has passed through the hooks of the app and was sent. */
  #destroyAfterWrites (): void {
    const response = this.#response
    // Fastify calls this method at the end of the payload.
    response.end = () => {
      const { socket } = response
      // Not the socket of HTTP/2, which has other streams, and that of `inject`, which is not a real one.
      if (socket instanceof Socket && !this.#isHttp2) socket.destroySoon()
      else response.write('', () => { this.destroy() })
      return response
    }
    this.end('')
  }

  get #isHttp2 (): boolean {
    return this.#response.req.httpVersionMajor === 2
  }

  #write (chunk: string, encoding: 'latin1' | undefined): boolean {
    const response = this.#response
    const { socket } = response
    // HTTP/2, `inject` and wrapped responses have their own `write`. A pipelined response has no socket yet.
    const target = response.write === nodeWrite && socket !== null ? socket : response
    // The client has closed the connection, or other code has ended the response. A `close` event follows.
    if (!target.writable || response.writableEnded) return false
    // The result of a wrapper may be `undefined`.
    const acceptsMore = (target === socket ? this.#writeToSocket(chunk, encoding, socket) : encoding === undefined ? response.write(chunk) : response.write(chunk, encoding)) !== false
    // The listener is added only when it is needed, because most streams never block.
    if (!acceptsMore) target.once('drain', () => { this.listener?.onDrain() })
    return acceptsMore
  }

  /** Writes a chunk with one write. The response would need four: size, CRLF, data, CRLF. */
  #writeToSocket (chunk: string, encoding: 'latin1' | undefined, socket: NonNullable<ServerResponse['socket']>): boolean {
    const size = encoding === undefined ? Buffer.byteLength(chunk) : chunk.length
    // [RFC 9112 7.1]
    const data = this.#response.chunkedEncoding ? `${size.toString(16)}\r\n${chunk}\r\n` : chunk
    // ASCII, which most chunks are, is written faster as latin1.
    const dataEncoding = size === chunk.length ? 'latin1' : 'utf8'
    if (this.#isHeadSent) return socket.write(data, dataEncoding)
    this.#isHeadSent = true
    // The head and the chunk are sent in one system call, but written one by one: the response keeps the string of its head, and only a separate write makes V8 flatten it.
    socket.cork()
    this.#response.flushHeaders()
    const acceptsMore = socket.write(data, dataEncoding)
    socket.uncork()
    return acceptsMore
  }

  /** Closes the connection, because it is unknown how much was written. */
  #abort (error: unknown): void {
    this.listener?.onError?.(error)
    this.destroy()
  }

  readonly #onClose = (): void => {
    if (this.closed) return
    this.closed = true
    this.#payload?.destroy()
    if (this.#response.headersSent && !this.#response.writableFinished) this.#runOnResponse()
    this.listener?.onClose()
  }

  /**
   * Runs Fastify's `onResponse` hooks after the client has disconnected, which is how most streams end. Fastify runs them when
   * the response emits `finish`, which Node does in this case only over HTTP/2. The event cannot be emitted here, because
   * Node itself listens to it.
   */
  #runOnResponse (): void {
    for (const listener of this.#response.listeners('finish')) {
      if (listener.name === 'onResFinished') listener.call(this.#response)
    }
  }
}

const kPayload = Symbol('fastify-sse-sessions payload')

interface ReplyWithPayload {
  [kPayload]?: StreamPayload
}

/**
 * The payload of a stream, which goes through all `onSend` hooks. If no hook uses it, the stream is written to the response
 * directly, which needs half the memory. Otherwise the data goes through it.
 */
export class StreamPayload extends Readable {
  readonly #sink: ResponseSink
  readonly #onStart: () => void
  /** Set by {@link send}. */
  #createHeaders!: (reply: FastifyReply) => OutgoingHttpHeaders
  /** The reply of a route without {@link startStream}, until the stream starts. */
  #waitingReply: FastifyReply | undefined

  /** `onStart` is called when all `onSend` hooks have run and the sink can write. */
  constructor (sink: ResponseSink, onStart: () => void) {
    super()
    this.#sink = sink
    this.#onStart = onStart
  }

  override _read (): void {
    const reply = this.#waitingReply
    this.#waitingReply = undefined
    if (reply === undefined) this.#sink.listener?.onDrain()
    else this.#startPiped(reply)
  }

  /**
   * Passes the payload to the `onSend` hooks of the route, of which {@link startStream} must be the last one. If no hook uses it,
   * `createHeaders` is called before the stream starts. It returns headers in addition to those of the reply.
   */
  send (reply: FastifyReply & ReplyWithPayload, createHeaders: (reply: FastifyReply) => OutgoingHttpHeaders): void {
    this.#createHeaders = createHeaders
    reply[kPayload] = this
    reply.send(this)
  }

  /** Sends the payload in a route of the app, which does not have the hook {@link startStream}. The stream starts when Fastify or a hook reads the payload. */
  sendPiped (reply: FastifyReply): void {
    this.#waitingReply = reply
    reply.send(this)
  }

  /** Starts the stream. `payload` is the result of the hooks: this object, or a stream that reads it. */
  start (reply: FastifyReply, payload: unknown, done: (error: null, payload: unknown) => void): void {
    if (this.#sink.closed || reply.sent) {
      this.destroy()
      return
    }
    // Otherwise, the connection would stay open after the stream, and would delay the close of the server.
    if (reply.request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
    if (payload === this && !this.#isUsed) {
      this.#sink.takeOver(reply, this.#createHeaders(reply))
      // A hook may keep the payload and destroy it later.
      this.on('error', error => { this.#sink.listener?.onError?.(error) }).on('close', () => { this.#sink.destroy() })
      this.#onStart()
      return
    }
    done(null, payload)
    // If a hook has destroyed the payload, Fastify responds with an error.
    if (!this.destroyed) this.#startPiped(reply)
  }

  #startPiped (reply: FastifyReply): void {
    this.#sink.usePayload(this)
    // This turns off Fastify's handler timeout.
    reply.hijack()
    this.#onStart()
  }

  /** Whether a hook has called a method such as `pipe`, `on` or `destroy`, or functions such as `finished` that call one. */
  get #isUsed (): boolean {
    return this.readableFlowing !== null || this.destroyed || this.eventNames().length > 0
  }
}

/** The `onSend` hook that starts streams. It must be the last one of its route. */
export const startStream: onSendHookHandler<unknown> = (_request, reply: FastifyReply & ReplyWithPayload, payload, done) => {
  const stream = reply[kPayload]
  // A hook may have replaced the stream with text, and a handler timeout or a hook that failed sends an error.
  if (stream !== undefined && isStream(payload)) stream.start(reply, payload, done)
  else done(null, payload)
}

/** Whether Fastify sends a payload as a stream. */
export function isStream (payload: unknown): boolean {
  const { pipe, getReader } = Object(payload) as { pipe?: unknown, getReader?: unknown }
  return typeof pipe === 'function' || typeof getReader === 'function' || isResponse(payload)
}

/** Whether a payload is a `Response`, of any implementation. */
export function isResponse (payload: unknown): payload is Response {
  return Object.prototype.toString.call(payload) === '[object Response]'
}
