import { createServer } from 'node:net'

/**
 * Finds a port that is not in use, below the range of ephemeral ports. An outgoing connection could take an ephemeral port while
 * its server is restarting, and a client that reconnects could connect to itself.
 */
export async function findFreePort (): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    if (await isFreePort(port)) return port
  }
}

/** Whether a port is not in use. */
export async function isFreePort (port: number): Promise<boolean> {
  const server = createServer()
  const isFree = await new Promise<boolean>(resolve => {
    server.once('error', () => { resolve(false) }).listen(port, '127.0.0.1', () => { resolve(true) })
  })
  if (isFree) await new Promise(resolve => { server.close(resolve) })
  return isFree
}
