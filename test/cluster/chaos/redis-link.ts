import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

interface Connection {
  readonly node: Socket
  readonly redis: Socket
  /** Whether the node has subscribed on it. */
  isSubscription: boolean
  /** Whether nothing is forwarded any more, after `cut` or `halfOpen`. */
  isStopped: boolean
}

/** The kinds of connections that a fault applies to. */
export type ConnectionKind = 'commands' | 'subscription' | 'all'

/** A TCP proxy between one node and Redis that can delay, cut and refuse connections. */
export class RedisLink {
  /** Milliseconds by which data are delayed. */
  delay = 0
  isRefusing = false
  port = 0
  readonly #connections = new Set<Connection>()

  async start (t: Test, redisPort: number): Promise<void> {
    const server = createServer({ noDelay: true }, node => {
      if (this.isRefusing) {
        node.resetAndDestroy()
        return
      }
      const redis = connect({ port: redisPort, host: '127.0.0.1', noDelay: true })
      const connection: Connection = { node, redis, isSubscription: false, isStopped: false }
      this.#connections.add(connection)
      this.#forward(connection, node, redis)
      this.#forward(connection, redis, node)
    })
    await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
    this.port = (server.address() as AddressInfo).port
    t.teardown(() => {
      server.close()
      this.cut('all')
    })
  }

  /** Resets connections. */
  cut (kind: ConnectionKind): void {
    for (const connection of this.#find(kind)) {
      this.#connections.delete(connection)
      connection.isStopped = true
      for (const socket of [connection.node, connection.redis]) if (!socket.destroyed) socket.resetAndDestroy()
    }
  }

  /** Stops forwarding. Both sides stay open, so neither detects it. */
  halfOpen (kind: ConnectionKind): void {
    for (const connection of this.#find(kind)) connection.isStopped = true
  }

  #find (kind: ConnectionKind): Connection[] {
    return [...this.#connections].filter(({ isSubscription }) => kind === 'all' || isSubscription === (kind === 'subscription'))
  }

  #forward (connection: Connection, from: Socket, to: Socket): void {
    // Each action waits for the previous one, so that the order stays when the delay changes.
    let last = Promise.resolve()
    const schedule = (action: () => void): void => {
      const delay = this.delay === 0 ? undefined : new Promise<void>(resolve => { setTimeout(resolve, this.delay) })
      last = last.then(() => delay).then(() => { if (!connection.isStopped) action() })
    }
    from
      .on('error', () => {})
      .on('data', (chunk: Buffer) => {
        if (from === connection.node && /\r\ns?subscribe\r\n/i.test(chunk.toString('latin1'))) connection.isSubscription = true
        schedule(() => { to.write(chunk) })
      })
      .on('close', () => {
        this.#connections.delete(connection)
        schedule(() => { to.destroy() })
      })
  }
}
