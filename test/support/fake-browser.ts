import { AsyncLocalStorage } from 'node:async_hooks'
import type { Test } from 'tap'
import { connect, type ClientSession, type ConnectOptions } from '../../lib/client/index.js'
import { nextEventLoopTick } from './wait.js'

type LockCallback = (lock: { name: string }) => unknown
type LockRequestOptions = { mode?: LockMode, steal?: boolean, signal?: AbortSignal }
type Clear = (timer?: ReturnType<typeof setInterval>) => void

interface LockRequest {
  readonly name: string
  readonly mode: LockMode
  readonly tab: FakeTab
  readonly grant: () => void
  readonly reject: (error: Error) => void
}

/** A tab of the fake browser. Its code runs in its own asynchronous context, by which the fake functions find the tab. */
export interface FakeTab {
  readonly connect: (url: string, options?: ConnectOptions) => ClientSession
  /** Runs a function in the tab. */
  readonly run: <T>(run: () => T) => T
  /** Runs the functions of `setInterval` `count` times. Resolves when the messages that they sent have arrived. */
  readonly tick: (count?: number) => Promise<void>
  /** Calls a function right after the given number of tasks of the tab, before the promises that they have resolved continue. */
  readonly afterTasks: (count: number, run: () => void) => void
  /** Delays all tasks of the tab until the returned function is called. */
  readonly freeze: () => () => void
  /** Puts the tab into the back/forward cache until the returned function is called. It gets no messages meanwhile. */
  readonly cache: () => () => void
  readonly setVisible: (isVisible: boolean) => void
  /** Closes the tab as a user does. */
  readonly close: () => void
  readonly crash: () => void
  /** Number of streams that the tab has requested. */
  readonly streamRequests: number
  /** The intervals of `setInterval`, in milliseconds. */
  readonly intervals: readonly number[]
}

interface InternalTab extends FakeTab {
  readonly schedule: (task: () => void) => void
  readonly document: EventTarget
  readonly window: EventTarget
  readonly intervalTimers: Map<() => void, number>
  readonly isVisible: boolean
  readonly isCached: boolean
}

/** What the tabs share. */
export interface FakeBrowser {
  readonly openTab: () => FakeTab
  /** The tab with the latest request for a stream. */
  readonly leader: () => FakeTab | undefined
  /** The names of the locks that are held. */
  readonly heldLocks: () => string[]
  /** Number of open broadcast channels. */
  readonly channelCount: () => number
  /** Resolves after every task that was scheduled before, and those that follow from them. */
  readonly settle: () => Promise<void>
}

/** Replaces the global objects that the client uses in a browser until the test ends. The tabs share the Web Locks; each tab has its own document, window, channels and intervals. */
export function fakeBrowser (t: Test): FakeBrowser {
  const tabs = new AsyncLocalStorage<InternalTab>()
  const current = (): InternalTab => {
    const tab = tabs.getStore()
    if (!tab) throw new Error('Not called in a tab of this browser')
    return tab
  }
  const channels = new Set<FakeChannel>()
  let held: LockRequest[] = []
  let queued: LockRequest[] = []
  let leader: FakeTab | undefined

  class FakeChannel {
    onmessage: ((event: { data: unknown }) => void) | undefined
    readonly #tab = current()
    readonly name: string
    constructor (name: string) {
      this.name = name
      channels.add(this)
    }

    postMessage (message: unknown): void {
      for (const channel of channels) {
        if (channel === this || channel.name !== this.name || channel.#tab.isCached) continue
        const data: unknown = structuredClone(message)
        channel.#tab.schedule(() => { if (channels.has(channel)) channel.onmessage?.({ data }) })
      }
    }

    close (): void { channels.delete(this) }
    static removeAll (tab: InternalTab): void { for (const channel of channels) if (channel.#tab === tab) channel.close() }
  }

  const grantLocks = (): void => {
    for (const request of [...queued]) {
      const ahead = [...held, ...queued.slice(0, queued.indexOf(request))].filter(({ name }) => name === request.name)
      if (ahead.some(({ mode }) => mode === 'exclusive' || request.mode === 'exclusive')) continue
      queued = queued.filter(other => other !== request)
      held.push(request)
      request.grant()
    }
  }

  const locks = {
    request: async (name: string, ...args: [LockCallback] | [LockRequestOptions, LockCallback]) => await new Promise((resolve, reject) => {
      const [{ mode = 'exclusive', steal = false, signal }, callback] = args.length === 1 ? [{} as LockRequestOptions, args[0]] : args
      const tab = current()
      const release = (): void => {
        held = held.filter(other => other !== request)
        grantLocks()
      }
      const request: LockRequest = {
        name,
        mode,
        tab,
        reject: error => { tab.schedule(() => { reject(error) }) },
        grant: () => {
          signal?.removeEventListener('abort', onAbort)
          tab.schedule(() => {
            // The callback runs even if the signal has aborted after the lock was granted, because a browser may not check it here.
            const result = Promise.resolve().then(() => callback({ name }))
            result.finally(release).catch(() => {})
            result.then(resolve, reject)
          })
        }
      }
      const abort = (): void => { reject(new DOMException('Aborted', 'AbortError')) }
      if (signal?.aborted) return abort()
      const onAbort = (): void => {
        queued = queued.filter(other => other !== request)
        grantLocks()
        abort()
      }
      signal?.addEventListener('abort', onAbort)
      if (steal) {
        for (const other of held) if (other.name === name) other.reject(new DOMException('Stolen', 'AbortError'))
        held = held.filter(other => other.name !== name)
        queued.unshift(request)
      } else {
        queued.push(request)
      }
      grantLocks()
    }),
    query: async () => await new Promise(resolve => {
      const snapshot = held.map(({ name, mode }) => ({ name, mode }))
      current().schedule(() => { resolve({ held: snapshot }) })
    })
  }

  const { setInterval, clearInterval } = globalThis
  const fakes = {
    navigator: { locks },
    location: { href: 'http://localhost/' },
    BroadcastChannel: FakeChannel,
    document: {
      get visibilityState () { return current().isVisible ? 'visible' : 'hidden' },
      get hidden () { return !current().isVisible },
      get defaultView () { return current().window },
      addEventListener: (...args: Parameters<EventTarget['addEventListener']>) => { current().document.addEventListener(...args) }
    },
    // A test calls the functions itself.
    setInterval: (run: () => void, ms: number) => {
      const tab = tabs.getStore()
      if (!tab) return setInterval(run, ms)
      tab.intervalTimers.set(run, ms)
      return run
    },
    clearInterval: (timer: () => void) => {
      if (tabs.getStore()?.intervalTimers.delete(timer) !== true) (clearInterval as unknown as Clear)(timer as unknown as ReturnType<typeof setInterval>)
    }
  }
  for (const [name, value] of Object.entries(fakes)) {
    const original = Object.getOwnPropertyDescriptor(globalThis, name)
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
    t.teardown(() => {
      if (original) Object.defineProperty(globalThis, name, original)
      else Reflect.deleteProperty(globalThis, name)
    })
  }

  const settle = async (): Promise<void> => { for (let n = 0; n < 20; n++) await nextEventLoopTick() }

  const openTab = (): FakeTab => {
    const sessions = new Set<ClientSession>()
    const dead = new AbortController()
    let delayed: Array<() => void> | undefined
    let isVisible = false
    let isCached = false
    let streamRequests = 0
    let tasksUntil = 0
    let runAfterTasks = (): void => {}

    const runTask = (task: () => void): void => {
      tabs.run(tab, task)
      if (--tasksUntil === 0) tabs.run(tab, runAfterTasks)
    }
    const schedule = (task: () => void): void => {
      setImmediate(() => {
        if (dead.signal.aborted) return
        if (delayed) delayed.push(task)
        else runTask(task)
      })
    }
    const whenRunning = (): Promise<void> => new Promise(resolve => {
      if (delayed) delayed.push(resolve)
      else runTask(resolve)
    })
    const fetchInTab = async (url: string, { signal, ...init }: RequestInit): Promise<Response> => {
      if (init.method === undefined) {
        streamRequests++
        leader = tab
      }
      // With `keepalive`, a request continues when the tab is closed.
      const signals = [...signal ? [signal] : [], ...init.keepalive ? [] : [dead.signal]]
      const response = await fetch(url, { ...init, signal: AbortSignal.any(signals) })
      await whenRunning()
      const body = response.body?.pipeThrough(new TransformStream<Uint8Array, Uint8Array>({
        async transform (chunk, controller) {
          await whenRunning()
          controller.enqueue(chunk)
        }
      }))
      return new Response(body ?? null, response)
    }
    const crash = (): void => {
      dead.abort()
      FakeChannel.removeAll(tab)
      held = held.filter(request => request.tab !== tab)
      queued = queued.filter(request => request.tab !== tab)
      grantLocks()
      // The tab is dead. This only frees what its sessions have left in this process.
      for (const session of sessions) tabs.run(tab, session.close).catch(() => {})
    }
    const tab: InternalTab = {
      schedule,
      document: new EventTarget(),
      window: new EventTarget(),
      intervalTimers: new Map(),
      get isVisible () { return isVisible },
      get isCached () { return isCached },
      get intervals () { return [...tab.intervalTimers.values()] },
      get streamRequests () { return streamRequests },
      run: run => tabs.run(tab, run),
      connect: (url, options) => {
        const session = tab.run(() => connect(url, { shared: true, fetch: fetchInTab, ...options }))
        sessions.add(session)
        return session
      },
      tick: async (count = 1) => {
        for (let n = 0; n < count; n++) {
          await settle()
          for (const run of tab.intervalTimers.keys()) tab.run(run)
        }
        await settle()
      },
      afterTasks: (count, run) => {
        tasksUntil = count
        runAfterTasks = run
      },
      freeze: () => {
        const tasks: Array<() => void> = delayed = []
        return () => {
          delayed = undefined
          for (const task of tasks) schedule(task)
        }
      },
      cache: () => {
        const unfreeze = tab.freeze()
        isCached = true
        return () => {
          isCached = false
          unfreeze()
          tab.run(() => { tab.window.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true })) })
        }
      },
      setVisible: value => {
        isVisible = value
        tab.run(() => { tab.document.dispatchEvent(new Event('visibilitychange')) })
      },
      close: () => {
        tab.run(() => { tab.window.dispatchEvent(Object.assign(new Event('pagehide'), { persisted: false })) })
        // After the requests with `keepalive`.
        setImmediate(() => { setImmediate(crash) })
      },
      crash
    }
    t.teardown(crash)
    return tab
  }

  return {
    openTab,
    settle,
    leader: () => leader,
    heldLocks: () => held.map(({ name }) => name),
    channelCount: () => channels.size
  }
}
