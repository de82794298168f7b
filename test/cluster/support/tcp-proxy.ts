import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

/** A TCP proxy that a test can slow down or redirect. */
export interface TcpProxy {
  readonly port: number
  /** Returns the delay of the next chunk in milliseconds. Called for each chunk in both directions. */
  delay: () => number
  /** The port that new connections are forwarded to. */
  targetPort: number
}

export async function startTcpProxy (t: Test, targetPort: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>()
  const forward = (from: Socket, to: Socket): void => {
    // Each action waits for the previous one, so that random delays do not reorder chunks.
    let last = Promise.resolve()
    const schedule = (action: () => void, ms: number): void => {
      const delay = new Promise(resolve => { setTimeout(resolve, ms) })
      last = last.then(() => delay).then(action)
    }
    sockets.add(from)
    from
      .on('error', () => {})
      .on('data', (chunk: Buffer) => { schedule(() => { to.write(chunk) }, proxy.delay()) })
      .on('close', () => {
        sockets.delete(from)
        schedule(() => { to.destroy() }, 0)
      })
  }
  const server = createServer({ noDelay: true }, client => {
    const upstream = connect({ port: proxy.targetPort, host: '127.0.0.1', noDelay: true })
    forward(client, upstream)
    forward(upstream, client)
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const proxy: TcpProxy = { port: (server.address() as AddressInfo).port, delay: () => 0, targetPort }
  return proxy
}
