import { memoryStore, StoreUnavailable, type StoreFactory, type Store } from '../../lib/index.js'

const NEVER_FAIL = new Set<PropertyKey>(['cancelExpiry', 'detach', 'messageQueue', 'stats'])

/** A store that behaves like one over a slow or broken network. It uses only exports of the package. */
export class FlakyStore {
  down = false
  /** Makes `attach` report that the session does not exist. */
  forgets = false
  /** Returns a promise that each call waits for. */
  delay: (name: PropertyKey) => unknown = () => {}
  /** The names of the methods that were executed, in order. */
  readonly done: PropertyKey[] = []

  readonly open: StoreFactory = (settings, callbacks) => new Proxy<Store>(memoryStore(settings, callbacks), {
    get: (store, name) => {
      // `await` reads a method `then`, which a store does not have.
      if (!(name in store)) return undefined
      const method = (...args: unknown[]): unknown => {
        this.done.push(name)
        return Reflect.apply(Reflect.get(store, name) as () => unknown, store, args)
      }
      if (NEVER_FAIL.has(name)) return method
      return async (...args: unknown[]) => {
        await this.delay(name)
        if (this.down) throw new StoreUnavailable()
        if (this.forgets && name === 'attach') return undefined
        return method(...args)
      }
    }
  })
}
