import type { ServerResponse } from 'node:http'

/** Locks of keys, in this process. A lock passes from request to request in the order of their arrival. */
export class KeyLocks {
  readonly #maxLocks: number
  /** For each key that is locked, the requests that wait. */
  readonly #queues = new Map<string, Set<() => void>>()

  constructor (maxLocks: number) {
    this.#maxLocks = maxLocks
  }

  /**
   * Waits for the lock of a key. Resolves with a function that releases it, which must be called once; or with `undefined` if the
   * response of the request has ended, or its client has disconnected, meanwhile.
   */
  async acquire (key: string, response: ServerResponse): Promise<(() => void) | undefined> {
    let queue = this.#queues.get(key)
    if (queue === undefined) {
      queue = new Set()
      this.#queues.set(key, queue)
      const [oldest = key] = this.#queues.keys()
      // Otherwise handlers that never settle would fill the memory.
      if (this.#queues.size > this.#maxLocks) this.#queues.delete(oldest)
    } else if (!await waitForTurn(queue, response)) {
      return undefined
    }
    return () => { this.#release(key, queue) }
  }

  #release (key: string, queue: Set<() => void>): void {
    const [next] = queue
    if (next !== undefined) next()
    else if (this.#queues.get(key) === queue) this.#queues.delete(key)
  }
}

/** Resolves with true when a request is the next one of a queue, or with false when its response or its connection has closed. */
function waitForTurn (queue: Set<() => void>, response: ServerResponse): Promise<boolean> {
  // Over HTTP/2, this is the stream. A pipelined response emits no `close` if its connection closes.
  const { socket } = response.req
  return new Promise(resolve => {
    const settle = (isNext: boolean): void => {
      queue.delete(onTurn)
      socket.off('close', onClose)
      response.off('close', onClose)
      resolve(isNext)
    }
    const onTurn = (): void => { settle(true) }
    const onClose = (): void => { settle(false) }
    queue.add(onTurn)
    // One connection may have any number of pipelined requests.
    socket.setMaxListeners(0).on('close', onClose)
    response.on('close', onClose)
    if (socket.destroyed || response.writableEnded) onClose()
  })
}
