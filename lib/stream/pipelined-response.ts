import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

// More would be useless: the responses on a connection are sent one after the other, and each stream may last for hours.
const MAX_WAITING = 8

/** Number of requests for streams that wait on a connection. */
const waitingByConnection = new WeakMap<Socket, number>()

/** Whether an earlier response on the same connection has not ended yet. */
export function isPipelined (response: ServerResponse): boolean {
  return response.socket === null
}

/** Resolves with true when a pipelined response can be sent, or when its connection is lost. Resolves with false, at once, if too many requests already wait on the connection. */
export async function waitForConnection (response: ServerResponse): Promise<boolean> {
  const { socket } = response.req
  if (socket.destroyed) return true
  const count = waitingByConnection.get(socket) ?? 0
  if (count >= MAX_WAITING) return false
  waitingByConnection.set(socket, count + 1)
  await new Promise<void>(resolve => {
    response.once('socket', () => {
      waitingByConnection.set(socket, (waitingByConnection.get(socket) as number) - 1)
      socket.off('close', resolve)
      resolve()
    })
    socket.once('close', resolve)
  })
  return true
}
