import { memoryStore, StoreUnavailable, type OpenStore, type Store } from '../../lib/index.js'

const NEVER_FAIL = new Set<PropertyKey>(['hold', 'detach', 'mailbox', 'stats', 'close'])

/** A store over a network, as it looks when that is down: written with nothing but what the package exports. */
export class FlakyStore {
  down = false

  readonly open: OpenStore = (settings, user) => new Proxy<Store>(memoryStore(settings, user), {
    get: (store, name) => {
      // Awaited, it is asked for a method that it does not have.
      if (!(name in store)) return undefined
      const method = (...args: unknown[]): unknown => Reflect.apply(Reflect.get(store, name) as () => unknown, store, args)
      if (NEVER_FAIL.has(name)) return method
      return async (...args: unknown[]) => {
        if (this.down) throw new StoreUnavailable()
        return method(...args)
      }
    }
  })
}
