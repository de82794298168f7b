import { createServer } from 'node:net'

/**
 * A port that nobody listens on. It is below those that the system gives to outgoing connections: one of them could take it while
 * its server is away, and a client that connects again and again could be connected to itself.
 */
export async function freePort (): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const server = createServer()
    const isFree = await new Promise<boolean>(resolve => {
      server.once('error', () => { resolve(false) }).listen(port, '127.0.0.1', () => { resolve(true) })
    })
    if (!isFree) continue
    await new Promise(resolve => { server.close(resolve) })
    return port
  }
}
