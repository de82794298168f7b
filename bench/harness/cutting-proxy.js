import { once } from 'node:events'
import { connect, createServer } from 'node:net'

/** A TCP proxy in front of a server, whose connections can be cut. Each client has a proxy of its own. */
export class CuttingProxy {
  /** How many times a connection was cut. */
  cutCount = 0
  #listener
  #connections = new Set()

  static async start (serverPort) {
    const proxy = new CuttingProxy(serverPort)
    await once(proxy.#listener, 'listening')
    return proxy
  }

  constructor (serverPort) {
    this.#listener = createServer({ noDelay: true }, client => {
      const server = connect({ port: serverPort, host: '127.0.0.1', noDelay: true })
      const connection = { client, server }
      this.#connections.add(connection)
      const close = () => {
        this.#connections.delete(connection)
        client.destroy()
        server.destroy()
      }
      for (const socket of [client, server]) socket.on('close', close).on('error', close)
      client.pipe(server).pipe(client)
    }).listen(0, '127.0.0.1')
  }

  get port () {
    return this.#listener.address().port
  }

  /** Resets all connections in both directions. What has not arrived is lost. */
  cut () {
    this.cutCount += this.#connections.size
    for (const { client, server } of this.#connections) {
      client.resetAndDestroy()
      server.resetAndDestroy()
    }
  }

  close () {
    this.#listener.close()
    this.cut()
  }
}
