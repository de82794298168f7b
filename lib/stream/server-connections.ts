import type { FastifyInstance } from 'fastify'
import type { IncomingMessage } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { now } from '../clock.js'
import { recordArrival } from './request-time.js'

type Server = FastifyInstance['server']

const kConnections = Symbol('fastify-sse-sessions connections')

/** Milliseconds between two searches for idle connections. */
const SWEEP_INTERVAL = 50
/** Minimum number of milliseconds that connections have to send their last responses before they are destroyed. */
const FLUSH_TIMEOUT = 100

/**
 * Closes the connections of a server, so that `server.close()` finishes. Node itself waits for these connections:
 * - connections without a request, which browsers open in advance: more than a minute;
 * - connections that become idle after the call of `close`: as long as they are kept alive;
 * - idle HTTP/2 connections, before Node 24;
 * - connections whose request is incomplete, whose handler does not settle, or whose peer is unreachable: forever.
 *
 * Also records when each GET arrives.
 */
export class ServerConnections {
  readonly #servers = new Set<Server>()
  readonly #sockets = new Set<Socket>()
  readonly #http2 = new Set<ServerHttp2Session>()
  /** The connections without a request, with the number of bytes that they have received in the TLS handshake. */
  readonly #unused = new Map<Socket, number>()
  readonly #closers: Array<() => Promise<void>> = []
  #timeout = 0
  #isClosing = false
  #closePromise: Promise<void> | undefined

  /** Returns the connections of an app. All registrations of the plugin share one object, so that Node does not warn about too many listeners. */
  static of ({ server }: { server: Server & { [kConnections]?: ServerConnections } }): ServerConnections {
    server[kConnections] ??= new ServerConnections(server)
    return server[kConnections]
  }

  private constructor (server: Server) {
    this.addServer(server)
  }

  /** Adds the other servers of an app that is listening. For `localhost`, Fastify creates one for each further address. */
  addServersOf (app: FastifyInstance): void {
    for (let object: unknown = app; object !== null; object = Object.getPrototypeOf(object)) {
      // There is no public API for these servers.
      const symbol = Object.getOwnPropertySymbols(object).find(({ description }) => description === 'fastify.serverBindings')
      if (symbol !== undefined) for (const server of Reflect.get(object as object, symbol) as Server[]) this.addServer(server)
    }
  }

  addServer (server: Server): void {
    if (this.#servers.has(server)) return
    this.#servers.add(server)
    const sockets = this.#sockets
    const unused = this.#unused
    // All sockets share one function, to save memory.
    const onSocketClose = function (this: Socket): void {
      sockets.delete(this)
      unused.delete(this)
    }
    server.on('connection', (socket: Socket) => {
      sockets.add(socket)
      unused.set(socket, 0)
      socket.on('close', onSocketClose)
      if (this.#isClosing) setTimeout(() => { socket.destroy() }, this.#timeout).unref()
    })
    server.on('secureConnection', (socket: Socket) => {
      unused.set(socket, socket.bytesRead)
      socket.on('close', onSocketClose)
    })
    // Before Fastify's listener, which starts the hooks of the app.
    server.prependListener('request', (request: IncomingMessage) => {
      const { method, httpVersionMajor, socket } = request
      if (method === 'GET') recordArrival(request)
      // The request can have arrived together with the end of the TLS handshake, so the number of bytes does not show it.
      if (httpVersionMajor === 1) unused.delete(socket)
    })
    let newestSocket: Socket | undefined
    // An HTTP/2 session does not expose its socket. Node creates the session in its own listener of these events, which runs later.
    for (const event of ['connection', 'secureConnection']) server.prependListener(event, (socket: Socket) => { newestSocket = socket })
    const http2 = this.#http2
    const onHttp2Close = function (this: ServerHttp2Session): void { http2.delete(this) }
    server.on('session', (http2Session: ServerHttp2Session) => {
      unused.delete(newestSocket as Socket)
      newestSocket = undefined
      http2.add(http2Session)
      http2Session.once('close', onHttp2Close)
      if (this.#isClosing) http2Session.close()
    })
  }

  /** Adds a function that ends the streams of one registration. `timeout` is the maximum number of milliseconds that it takes. */
  add (closer: () => Promise<void>, timeout: number): void {
    this.#closers.push(closer)
    this.#timeout = Math.max(this.#timeout, timeout)
  }

  /**
   * Ends the streams of all registrations in parallel. Then closes connections without a request, and others when they become
   * idle. When the longest timeout is over, destroys the rest. A connection that opens meanwhile is destroyed after that time
   * at the latest.
   */
  close (): Promise<void> {
    this.#closePromise ??= this.#close()
    return this.#closePromise
  }

  async #close (): Promise<void> {
    const startedAt = now()
    await Promise.all(this.#closers.map(closer => closer()))
    this.#isClosing = true
    for (const [socket, bytesRead] of this.#unused) if (socket.bytesRead === bytesRead) socket.destroy()
    for (const http2Session of this.#http2) http2Session.close()
    this.#sweep(now() + Math.max(FLUSH_TIMEOUT, this.#timeout - (now() - startedAt)))
  }

  /** Closes idle connections until there are none, or until a point in time, at which it destroys the rest. */
  #sweep (deadline: number): void {
    const rest = deadline - now()
    if (rest <= 0) {
      for (const socket of this.#sockets) socket.destroy()
      return
    }
    for (const server of this.#servers) if ('closeIdleConnections' in server) server.closeIdleConnections()
    if (this.#sockets.size > 0) setTimeout(() => { this.#sweep(deadline) }, Math.min(SWEEP_INTERVAL, rest)).unref()
  }
}
