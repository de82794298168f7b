import type { FastifyInstance } from 'fastify'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { now } from '../log/log.js'

type Server = FastifyInstance['server']

interface Http2Connection {
  /** `undefined` after the session has closed. Node never frees a session that it has closed because of a flood while a listener of the session still refers to the socket. */
  socket: Socket | undefined
  streamCount: number
}

const kConnections = Symbol('fastify-sse-sessions connections')

/**
 * Closes the connections of a server, so that `server.close()` finishes. Node itself waits for these connections:
 * - connections without a request, which browsers open in advance: more than a minute;
 * - idle HTTP/2 connections, before Node 24;
 * - HTTP/2 connections that were in the TLS handshake when `close` was called, or whose peer is unreachable: forever.
 */
export class ServerConnections {
  readonly #sockets = new Set<Socket>()
  readonly #http2 = new Map<ServerHttp2Session, Http2Connection>()
  readonly #closers: Array<() => Promise<void>> = []
  #timeout = 0
  #isClosing = false
  #closePromise: Promise<void> | undefined

  /** Returns the connections of a server. All registrations of the plugin share one object, so that Node does not warn about too many listeners. */
  static of (server: Server & { [kConnections]?: ServerConnections }): ServerConnections {
    server[kConnections] ??= new ServerConnections(server)
    return server[kConnections]
  }

  private constructor (server: Server) {
    const sockets = this.#sockets
    // One function for all sockets, to save memory.
    const onSocketClose = function (this: Socket): void { sockets.delete(this) }
    server.on('connection', (socket: Socket) => {
      sockets.add(socket)
      socket.on('close', onSocketClose)
    })
    let newestSocket: Socket | undefined
    // An HTTP/2 session does not expose its socket. Node creates the session in its own listener of these events, which runs later.
    for (const event of ['connection', 'secureConnection']) server.prependListener(event, (socket: Socket) => { newestSocket = socket })
    server.on('session', (http2Session: ServerHttp2Session) => {
      const connection: Http2Connection = { socket: newestSocket, streamCount: 0 }
      newestSocket = undefined
      this.#http2.set(http2Session, connection)
      http2Session.once('close', () => {
        this.#http2.delete(http2Session)
        connection.socket = undefined
      })
      http2Session.on('stream', stream => {
        connection.streamCount++
        stream.once('close', () => {
          connection.streamCount--
          if (this.#isClosing) destroyWhenIdle(connection, this.#timeout)
        })
      })
      if (this.#isClosing) closeHttp2Session(http2Session, connection, this.#timeout)
    })
  }

  /** Adds a function that ends the streams of one registration. `timeout` is the maximum number of milliseconds that it takes. */
  add (closer: () => Promise<void>, timeout: number): void {
    this.#closers.push(closer)
    this.#timeout = Math.max(this.#timeout, timeout)
  }

  /** Ends the streams of all registrations in parallel, then closes connections that Node would wait for, including those that open later. HTTP/2 peers have the rest of the longest timeout to close their connections. */
  close (): Promise<void> {
    this.#closePromise ??= this.#close()
    return this.#closePromise
  }

  async #close (): Promise<void> {
    const startedAt = now()
    await Promise.all(this.#closers.map(closer => closer()))
    this.#isClosing = true
    // Connections without a request.
    for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
    const remaining = Math.max(0, this.#timeout - (now() - startedAt))
    for (const [http2Session, connection] of this.#http2) closeHttp2Session(http2Session, connection, remaining)
  }
}

function closeHttp2Session (http2Session: ServerHttp2Session, connection: Http2Connection, timeout: number): void {
  http2Session.close()
  destroyWhenIdle(connection, timeout)
}

function destroyWhenIdle (connection: Http2Connection, timeout: number): void {
  setTimeout(() => { if (connection.streamCount === 0) connection.socket?.destroy() }, timeout).unref()
}
