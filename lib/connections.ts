import type { FastifyInstance } from 'fastify'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'

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
  readonly #sockets = new Set<Socket>()
  readonly #open = new Map<ServerHttp2Session, Connection>()
  readonly #grace: number
  #closing = false

  /** `grace` is how many milliseconds a peer has to agree that a connection is over. */
  constructor (server: FastifyInstance['server'], grace: number) {
    this.#grace = grace
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
          if (this.#closing) destroyIdle(connection, grace)
        })
      })
      if (this.#closing) release(session, connection, grace)
    })
  }

  /** Ends every connection, also those to come, when its streams have ended; peers have what is left of the grace. */
  close (spent: number): void {
    this.#closing = true
    for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
    for (const [session, connection] of this.#open) release(session, connection, Math.max(0, this.#grace - spent))
  }
}

function release (session: ServerHttp2Session, connection: Connection, grace: number): void {
  session.close()
  destroyIdle(connection, grace)
}

function destroyIdle (connection: Connection, after: number): void {
  setTimeout(() => { if (connection.streams === 0) connection.socket.destroy() }, after).unref()
}
