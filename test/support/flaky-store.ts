import { memoryStore, StoreUnavailable, type StoreFactory, type Store } from '../../lib/index.js'

const NEVER_FAIL = new Set<PropertyKey>(['cancelExpiry', 'detach', 'messageQueue', 'stats', 'unfollow'])

/** A store that behaves like one over a slow or broken network. It uses only exports of the package. */
export class FlakyStore {
  isDown = false
  /** Makes `attach` report that the session does not exist. */
  losesSessions = false
  /** Returns a promise that each call waits for. */
  delay: (name: PropertyKey) => unknown = () => {}
  /** The names of the methods that were executed, in order. */
  readonly calls: PropertyKey[] = []

  readonly createStore: StoreFactory = (settings, callbacks) => {
    const store = memoryStore(settings, callbacks)
    return this.#wrap<Store>(store, { runs: this.#wrap(store.runs, {}) })
  }

  #wrap<Target extends object> (target: Target, parts: Partial<Target>): Target {
    return new Proxy(target, { get: (target, name) => name in parts ? Reflect.get(parts, name) : this.#methodOf(target, name) })
  }

  #methodOf (store: object, name: PropertyKey): unknown {
    // `await` reads a method `then`, which a store does not have.
    if (!(name in store)) return undefined
    const method = (...args: unknown[]): unknown => {
      this.calls.push(name)
      return Reflect.apply(Reflect.get(store, name) as () => unknown, store, args)
    }
    if (NEVER_FAIL.has(name)) return method
    return async (...args: unknown[]) => {
      await this.delay(name)
      if (this.isDown) throw new StoreUnavailable()
      if (this.losesSessions && name === 'attach') return undefined
      return method(...args)
    }
  }
}
