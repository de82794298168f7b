import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

/** A way to a server, over TCP, that a test can make slow or lead elsewhere. */
export interface Link {
  readonly port: number
  /** Milliseconds that the next piece takes, either way; asked for each. */
  delay: () => number
  /** Where new connections lead. */
  target: number
}

export async function startLink (t: Test, target: number): Promise<Link> {
  const sockets = new Set<Socket>()
  const carry = (from: Socket, to: Socket): void => {
    // None overtakes another.
    let last = Promise.resolve()
    const then = (run: () => void, ms: number): void => {
      const due = new Promise(resolve => { setTimeout(resolve, ms) })
      last = last.then(() => due).then(run)
    }
    sockets.add(from)
    from
      .on('error', () => {})
      .on('data', (chunk: Buffer) => { then(() => { to.write(chunk) }, link.delay()) })
      .on('close', () => {
        sockets.delete(from)
        then(() => { to.destroy() }, 0)
      })
  }
  const server = createServer({ noDelay: true }, client => {
    const onward = connect({ port: link.target, host: '127.0.0.1', noDelay: true })
    carry(client, onward)
    carry(onward, client)
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const link: Link = { port: (server.address() as AddressInfo).port, delay: () => 0, target }
  return link
}
