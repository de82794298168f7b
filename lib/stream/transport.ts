import { ServerResponse, type OutgoingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyReply } from 'fastify'
import { ignore } from '../promises.js'

/** Told what becomes of a response. */
export interface SinkListener {
  /** What was written has left; more may be. */
  drained (): void
  /** The response is over: ended, or lost. */
  closed (): void
}

/** Where a stream's bytes go. */
export interface Sink {
  listener: SinkListener | undefined
  /** Whether the client has gone. */
  readonly closed: boolean
  /** False asks the writer to wait for `drained`. */
  write (chunk: string): boolean
  end (chunk: string): void
  destroy (): void
}

/**
 * The seam to Fastify. Made when the request comes, so that a client that leaves early is noticed; begun by the last
 * onSend hook, when every hook has had its say on the headers. From then on the response is ours, and neither
 * Fastify's Request nor its Reply is held.
 */
export class ResponseSink implements Sink {
  listener: SinkListener | undefined
  closed: boolean
  readonly #response: ServerResponse
  /** What bytes are written to: the response, and its connection as soon as the response adds nothing to them. */
  #target: ServerResponse | Socket

  constructor (response: ServerResponse) {
    this.#response = response
    this.#target = response
    const { socket } = response.req
    // Before the handler ran, which hooks may have kept waiting: nothing tells it any more.
    this.closed = socket.destroyed
    response.on('close', this.#close)
    // Pipelined behind another response, this one has no socket yet, and would not be told that it never gets one.
    if (response.socket === null) {
      // Any number of them may be.
      socket.setMaxListeners(0).on('close', this.#close)
      response.on('close', () => { socket.off('close', this.#close) })
    }
    // A write that meets a connection just lost; `close` follows.
    response.on('error', ignore)
  }

  /** Takes the response over from Fastify and sends the head that it has made. */
  begin (reply: FastifyReply): void {
    if (reply.request.raw.httpVersionMajor === 1) {
      // [WHATWG HTML 9.2.7] Chunking may be left out for event streams. Then a write is one piece, not four.
      this.#response.removeHeader('transfer-encoding')
      reply.header('connection', 'close')
    }
    this.#response.writeHead(reply.statusCode, reply.getHeaders() as OutgoingHttpHeaders)
    // Not before: where a header of the app's cannot be sent Fastify answers.
    reply.hijack()
  }

  write (chunk: string): boolean {
    const target = this.#target
    // The client has ended the connection, or something else the response: it closes, and takes nothing more.
    if (!target.writable || this.#response.writableEnded) return false
    const takesMore = target.write(chunk)
    // Not before it is needed: nearly all streams wait for nothing.
    if (!takesMore) target.once('drain', () => { this.listener?.drained() })
    if (target === this.#response) this.#target = bare(this.#response)
    return takesMore
  }

  end (chunk: string): void {
    this.#response.end(chunk)
  }

  destroy (): void {
    this.#response.destroy()
  }

  readonly #close = (): void => {
    if (this.closed) return
    this.closed = true
    this.listener?.closed()
  }
}

/** The connection of a response that would pass on as they are the bytes that follow its first; else the response. */
function bare (response: ServerResponse): ServerResponse | Socket {
  const { socket, write } = response
  // HTTP/2, `inject`, and what wraps responses have a `write` of their own. Pipelined, a response has no connection yet.
  return write === ServerResponse.prototype.write && socket !== null && !response.chunkedEncoding ? socket : response
}
