import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { until } from './wait.js'

setFlagsFromString('--expose-gc')
/** Collects garbage now. */
export const collect = runInNewContext('gc') as () => void

/** Waits until an object is garbage. */
export async function collected (reference: WeakRef<object>, what: string): Promise<void> {
  await until(() => {
    collect()
    return reference.deref() === undefined
  }, `${what} to be collected`)
}
