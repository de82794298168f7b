import type { FastifyInstance } from 'fastify'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'

interface Connection {
  readonly socket: Socket
  streams: number
}

/**
 * A server's HTTP/2 connections, for which its close() waits: before Node 24 for idle ones, for over a minute; on every
 * Node for those that were shaking hands when it was called, and for those whose peer has vanished, for ever.
 */
export class Connections {
  readonly #open = new Map<ServerHttp2Session, Connection>()
  #grace: number | undefined

  constructor (server: FastifyInstance['server']) {
    let accepted: Socket
    // A session does not give its socket out; it is made of the newest, by Node's own listener of these events.
    for (const event of ['connection', 'secureConnection']) server.prependListener(event, (socket: Socket) => { accepted = socket })
    server.on('session', (session: ServerHttp2Session) => {
      const connection = { socket: accepted, streams: 0 }
      this.#open.set(session, connection)
      session.once('close', () => { this.#open.delete(session) })
      session.on('stream', stream => {
        connection.streams++
        stream.once('close', () => { connection.streams-- })
      })
      if (this.#grace !== undefined) release(session, connection, this.#grace)
    })
  }

  /** Ends every connection, also those to come, when its streams have ended; its peer has so many milliseconds to agree. */
  close (grace: number): void {
    this.#grace = grace
    for (const [session, connection] of this.#open) release(session, connection, grace)
  }
}

function release (session: ServerHttp2Session, connection: Connection, grace: number): void {
  session.close()
  setTimeout(() => { if (connection.streams === 0) connection.socket.destroy() }, grace).unref()
}
