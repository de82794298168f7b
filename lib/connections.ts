import type { FastifyInstance } from 'fastify'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { now } from './store/log.js'

interface Connection {
  readonly socket: Socket
  streams: number
}

/**
 * A server's connections, for which its close() waits: for those over which nothing was asked, as browsers keep in
 * store, for over a minute; for idle ones of HTTP/2 likewise, before Node 24; on every Node for those of HTTP/2 that
 * were shaking hands when it was called, and for those whose peer has vanished, for ever.
 */
export class Connections {
  static readonly #ofServers = new WeakMap<FastifyInstance['server'], Connections>()
  readonly #sockets = new Set<Socket>()
  readonly #open = new Map<ServerHttp2Session, Connection>()
  readonly #endings: Array<() => Promise<void>> = []
  #grace = 0
  #closing = false
  #closed: Promise<void> | undefined

  /** A server's connections: one object for all registrations of the plugin, whose listeners Node would take for a leak. */
  static of (server: FastifyInstance['server']): Connections {
    let connections = this.#ofServers.get(server)
    if (connections === undefined) this.#ofServers.set(server, connections = new Connections(server))
    return connections
  }

  /** @internal Use {@link Connections.of}. */
  private constructor (server: FastifyInstance['server']) {
    const sockets = this.#sockets
    // One for all connections.
    const forget = function (this: Socket): void { sockets.delete(this) }
    server.on('connection', (socket: Socket) => {
      sockets.add(socket)
      socket.on('close', forget)
    })
    let accepted: Socket
    // A session does not give its socket out; it is made of the newest, by Node's own listener of these events.
    for (const event of ['connection', 'secureConnection']) server.prependListener(event, (socket: Socket) => { accepted = socket })
    server.on('session', (session: ServerHttp2Session) => {
      const connection = { socket: accepted, streams: 0 }
      this.#open.set(session, connection)
      session.once('close', () => { this.#open.delete(session) })
      session.on('stream', stream => {
        connection.streams++
        stream.once('close', () => {
          connection.streams--
          if (this.#closing) destroyIdle(connection, this.#grace)
        })
      })
      if (this.#closing) release(session, connection, this.#grace)
    })
  }

  /** Adds what ends a registration's streams; `grace` is how many milliseconds that takes, and a peer has to agree that a connection is over. */
  add (endStreams: () => Promise<void>, grace: number): void {
    this.#endings.push(endStreams)
    this.#grace = Math.max(this.#grace, grace)
  }

  /** Ends all streams, of all registrations at once, then every connection, also those to come; peers have what is left of the grace. */
  close (): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close (): Promise<void> {
    const begun = now()
    await Promise.all(this.#endings.map(endStreams => endStreams()))
    this.#closing = true
    for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
    const left = Math.max(0, this.#grace - (now() - begun))
    for (const [session, connection] of this.#open) release(session, connection, left)
  }
}

function release (session: ServerHttp2Session, connection: Connection, grace: number): void {
  session.close()
  destroyIdle(connection, grace)
}

function destroyIdle (connection: Connection, after: number): void {
  setTimeout(() => { if (connection.streams === 0) connection.socket.destroy() }, after).unref()
}
