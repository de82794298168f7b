import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'

/** How a fault proxy breaks a connection. */
export type Fault =
  /** Closes both sides. */
  | 'cut'
  /** Resets both sides. */
  | 'reset'
  /** Closes the side of the client. The side of the server stays open, so the server does not detect it. */
  | 'half-open'
  /** Forwards nothing more. Both sides stay open, so neither the client nor the server detects it. */
  | 'stall'

export interface FaultPlan {
  readonly fault: Fault
  /** The number of bytes from the server to the client before the fault. */
  readonly afterBytes: number
  /** The number of bytes from the client to the server before the fault, if they are reached first. */
  readonly afterBytesUp?: number
}

export interface FaultProxy {
  readonly url: string
  readonly port: number
  /** All connections in order of arrival. `bytes` counts the bytes from the server to the client. */
  readonly connections: Array<{
    readonly client: Socket
    readonly server: Socket
    bytes: number
    faulted: boolean
    /** When it was broken, as of `performance.now()`. */
    faultedAt?: number
    /** Whether the client has ended it before it was broken. */
    endedByClient: boolean
  }>
  /** The number of connections that were refused, because the proxy was down. */
  readonly refused: () => number
  /** Breaks a connection now, by default the newest one. */
  breakConnection: (fault: Fault, connection?: FaultProxy['connections'][number]) => void
  /** With true, resets every connection and refuses new ones; with false, accepts connections again. */
  setDown: (down: boolean) => void
  close: () => void
}

/**
 * Starts a TCP proxy that breaks connections at exact byte offsets. `plan` is called with the number of each new connection,
 * from 0, and returns the fault of that connection, or `undefined` for none. With several target ports, the connections alternate
 * between them.
 */
export async function startFaultProxy (t: Test, targetPort: number | readonly number[], plan: (connection: number) => FaultPlan | undefined = () => undefined): Promise<FaultProxy> {
  const targets = [targetPort].flat()
  const connections: FaultProxy['connections'] = []
  const apply = (connection: FaultProxy['connections'][number], fault: Fault): void => {
    connection.faulted = true
    connection.faultedAt = performance.now()
    const { client, server } = connection
    if (fault === 'half-open' || fault === 'stall') {
      if (fault === 'half-open') client.destroy()
      server.removeAllListeners('data')
      server.resume()
    } else if (fault === 'reset') {
      reset(client)
      reset(server)
    } else {
      // The client receives what was forwarded before the end.
      client.end()
      client.destroySoon()
      server.destroy()
    }
  }
  let isDown = false
  let refused = 0
  const proxy: Server = createServer({ noDelay: true }, client => {
    if (isDown) {
      refused++
      client.resetAndDestroy()
      return
    }
    const planned = plan(connections.length)
    const server = connect({ port: targets[connections.length % targets.length] as number, host: '127.0.0.1', noDelay: true })
    const connection: FaultProxy['connections'][number] = { client, server, bytes: 0, faulted: false, endedByClient: false }
    connections.push(connection)
    client.on('error', () => {})
    server.on('error', () => {})
    let bytesUp = 0
    client.on('data', (chunk: Buffer) => {
      if (connection.faulted) return
      const part = chunk.subarray(0, (planned?.afterBytesUp ?? Infinity) - bytesUp)
      bytesUp += part.length
      server.write(part)
      if (planned !== undefined && bytesUp === planned.afterBytesUp) apply(connection, planned.fault)
    })
    for (const event of ['end', 'close'] as const) {
      client.on(event, () => {
        if (connection.faulted) return
        connection.endedByClient ||= !server.closed
        if (event === 'end') server.end()
        else server.destroy()
      })
    }
    server.on('close', () => { if (!connection.faulted) client.destroySoon() })
    server.on('data', (chunk: Buffer) => {
      if (connection.faulted) return
      const remaining = planned === undefined ? Infinity : planned.afterBytes - connection.bytes
      const part = chunk.length < remaining ? chunk : chunk.subarray(0, remaining)
      connection.bytes += part.length
      const isFull = !client.write(part)
      if (planned !== undefined && connection.bytes >= planned.afterBytes) {
        apply(connection, planned.fault)
      } else if (isFull) {
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
    refused: () => refused,
    breakConnection: (fault, connection = connections.at(-1)) => {
      if (connection !== undefined && !connection.faulted) apply(connection, fault)
    },
    setDown: down => {
      isDown = down
      if (down) for (const connection of connections) if (!connection.faulted) apply(connection, 'reset')
    },
    close
  }
}

// If a socket is reset after `end()`, Node leaks its handle and does not exit.
function reset (socket: Socket): void {
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}
