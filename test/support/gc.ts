import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { until } from './wait.js'

setFlagsFromString('--expose-gc')
/** Runs the garbage collector. */
export const collect = runInNewContext('gc') as () => void

/** Waits until an object was garbage-collected. */
export async function collected (reference: WeakRef<object>, what: string): Promise<void> {
  await until(() => {
    collect()
    return reference.deref() === undefined
  }, `${what} to be collected`)
}
