import type { ServerResponse } from 'node:http'

/** Locks of keys, in this process. The requests get the lock of a key in the order of their calls of `acquire`. */
export class KeyLocks {
  readonly #maxLocks: number
  readonly #timeout: number
  /** For each key that is locked, the requests that wait. */
  readonly #queues = new Map<string, Set<() => void>>()

  /** `maxLocks`: maximum number of locked keys; beyond it, the oldest lock no longer blocks new requests. `timeout`: milliseconds after which a lock is released at the latest; 0 for no limit. */
  constructor (maxLocks: number, timeout: number) {
    this.#maxLocks = maxLocks
    this.#timeout = timeout
  }

  /**
   * Waits for the lock of a key. Resolves with a function that releases it, or with `undefined` if meanwhile the response of the request has
   * ended or its client has disconnected.
   */
  async acquire (key: string, response: ServerResponse): Promise<(() => void) | undefined> {
    let queue = this.#queues.get(key)
    if (queue === undefined) {
      queue = new Set()
      this.#queues.set(key, queue)
      const [oldest = key] = this.#queues.keys()
      // Otherwise handlers that never settle would fill the memory.
      if (this.#queues.size > this.#maxLocks) this.#queues.delete(oldest)
    } else if (!await waitForLock(queue, response)) {
      return undefined
    }
    let isReleased = false
    const release = (): void => {
      if (isReleased) return
      isReleased = true
      clearTimeout(timer)
      this.#release(key, queue)
    }
    const timer = this.#timeout === 0 ? undefined : setTimeout(release, this.#timeout).unref()
    return release
  }

  #release (key: string, queue: Set<() => void>): void {
    const [next] = queue
    if (next !== undefined) next()
    else if (this.#queues.get(key) === queue) this.#queues.delete(key)
  }
}

/** Resolves with true when the request has the lock, or with false when its response or its connection has closed. */
function waitForLock (queue: Set<() => void>, response: ServerResponse): Promise<boolean> {
  // A pipelined response has no socket yet. It emits no `close` event if its connection closes before it gets one.
  const connection = response.socket === null ? response.req.socket : undefined
  return new Promise(resolve => {
    const settle = (isAcquired: boolean): void => {
      queue.delete(onAcquired)
      connection?.off('close', onClose)
      response.off('close', onClose)
      resolve(isAcquired)
    }
    const onAcquired = (): void => { settle(true) }
    const onClose = (): void => { settle(false) }
    queue.add(onAcquired)
    // One connection may have any number of pipelined requests.
    connection?.setMaxListeners(0).on('close', onClose)
    response.on('close', onClose)
    if (response.req.socket.destroyed || response.writableEnded) onClose()
  })
}
