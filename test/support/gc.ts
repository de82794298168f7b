import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { waitUntil } from './wait.js'

setFlagsFromString('--expose-gc')
/** Runs the garbage collector. */
export const collectGarbage = runInNewContext('gc') as () => void

/** Waits until an object was garbage-collected. */
export async function waitUntilCollected (reference: WeakRef<object>, what: string): Promise<void> {
  await waitUntil(() => {
    collectGarbage()
    return reference.deref() === undefined
  }, `${what} to be collected`)
}
