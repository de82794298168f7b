import { memoryStore, StoreUnavailable, type StoreFactory, type Store } from '../../lib/index.js'

const NEVER_FAIL = new Set<PropertyKey>(['cancelExpiry', 'detach', 'messageQueue', 'stats'])

/** A store over a network, as it looks when that is slow or down: written with nothing but what the package exports. */
export class FlakyStore {
  down = false
  /** Whether it has lost every session by the time that a stream of it begins. */
  forgets = false
  /** Waited for before a call is answered. */
  delay: (name: PropertyKey) => unknown = () => {}
  /** The calls that were done, in order. */
  readonly done: PropertyKey[] = []

  readonly open: StoreFactory = (settings, user) => new Proxy<Store>(memoryStore(settings, user), {
    get: (store, name) => {
      // Awaited, it is asked for a method that it does not have.
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
