/** Acquires a lock, which is released when the signal aborts. Rejects if the signal aborts before. */
export function acquireLock (name: string, signal: AbortSignal, mode: LockMode = 'exclusive'): Promise<void> {
  return new Promise((resolve, reject) => {
    navigator.locks.request(name, { mode, signal }, () => {
      signal.throwIfAborted()
      resolve()
      return waitForAbort(signal)
    }).catch(reject)
  })
}

/** Returns the names of the locks that any tab has acquired and that start with a prefix, without the prefix. */
export async function queryLocks (prefix: string): Promise<string[]> {
  const { held = [] } = await navigator.locks.query()
  return held.flatMap(({ name = '' }) => name.startsWith(prefix) ? [name.slice(prefix.length)] : [])
}

/** Resolves when the signal aborts. */
export function waitForAbort (signal: AbortSignal): Promise<void> {
  return new Promise(resolve => { signal.addEventListener('abort', () => { resolve() }) })
}
