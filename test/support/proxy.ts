import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'

/** What a fault proxy does to a connection. */
export type Fault =
  /** Both sides are closed. */
  | 'cut'
  /** Both sides are reset. */
  | 'reset'
  /** The client's side is closed; the server is not told, and its side stays open. */
  | 'half-open'

export interface Plan {
  readonly fault: Fault
  /** After how many bytes from the server to the client. */
  readonly afterBytes: number
  /** After how many bytes from the client to the server, if that is sooner. */
  readonly afterBytesUp?: number
}

export interface FaultProxy {
  readonly url: string
  readonly port: number
  /** Connections that came, in order; `bytes` counts those from the server to the client. */
  readonly connections: Array<{ readonly client: Socket, readonly server: Socket, bytes: number, faulted: boolean }>
  /** Applies a fault to the newest connection now. */
  strike: (fault: Fault) => void
  /** Takes the network away, which resets every connection, or gives it back. */
  setDown: (down: boolean) => void
  close: () => void
}

/**
 * A TCP proxy that breaks connections at exact offsets of what the server sends. `plan` is asked for each new
 * connection, by its number from 0, what to do with it; `undefined` leaves it alone.
 */
export async function faultProxy (t: Test, targetPort: number, plan: (connection: number) => Plan | undefined = () => undefined): Promise<FaultProxy> {
  const connections: FaultProxy['connections'] = []
  const apply = (connection: FaultProxy['connections'][number], fault: Fault): void => {
    connection.faulted = true
    const { client, server } = connection
    if (fault === 'half-open') {
      client.destroy()
      server.removeAllListeners('data')
      server.resume()
    } else if (fault === 'reset') {
      reset(client)
      reset(server)
    } else {
      // What was forwarded reaches the client first.
      client.end()
      client.destroySoon()
      server.destroy()
    }
  }
  let isDown = false
  const proxy: Server = createServer({ noDelay: true }, client => {
    if (isDown) {
      client.resetAndDestroy()
      return
    }
    const planned = plan(connections.length)
    const server = connect({ port: targetPort, host: '127.0.0.1', noDelay: true })
    const connection = { client, server, bytes: 0, faulted: false }
    connections.push(connection)
    client.on('error', () => {})
    server.on('error', () => {})
    let up = 0
    client.on('data', (chunk: Buffer) => {
      if (connection.faulted) return
      const part = chunk.subarray(0, (planned?.afterBytesUp ?? Infinity) - up)
      up += part.length
      server.write(part)
      if (planned !== undefined && up === planned.afterBytesUp) apply(connection, planned.fault)
    })
    client.on('end', () => { if (!connection.faulted) server.end() })
    client.on('close', () => { if (!connection.faulted) server.destroy() })
    server.on('close', () => { if (!connection.faulted) client.destroySoon() })
    server.on('data', (chunk: Buffer) => {
      if (connection.faulted) return
      const left = planned === undefined ? Infinity : planned.afterBytes - connection.bytes
      const part = chunk.length < left ? chunk : chunk.subarray(0, left)
      connection.bytes += part.length
      const full = !client.write(part)
      if (planned !== undefined && connection.bytes >= planned.afterBytes) {
        apply(connection, planned.fault)
      } else if (full) {
        server.pause()
        client.once('drain', () => { server.resume() })
      }
    })
  })
  await new Promise<void>(resolve => { proxy.listen(0, '127.0.0.1', resolve) })
  const { port } = proxy.address() as AddressInfo
  const close = (): void => {
    proxy.close()
    for (const { client, server } of connections) {
      client.destroy()
      server.destroy()
    }
  }
  t.teardown(close)
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    connections,
    strike: fault => {
      const newest = connections.at(-1)
      if (newest !== undefined && !newest.faulted) apply(newest, fault)
    },
    setDown: down => {
      isDown = down
      if (down) for (const connection of connections) if (!connection.faulted) apply(connection, 'reset')
    },
    close
  }
}

// Node loses a handle that is reset while its end is under way, and then never exits.
function reset (socket: Socket): void {
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}
