import { ClientError, connect, type ClientSession, type ConnectOptions, type Contract, type Received, type State } from './index.js'
import { ResultPromise } from './result-promise.js'
import { resolveValue } from './send.js'

/** The values of a session that a component shows. */
export interface SessionView<C extends Contract> {
  readonly state: State
  /** The id of the session, which is a secret; `undefined` before the first `welcome` event. */
  readonly sessionId?: string | undefined
  /** The newest event of the server; `undefined` before the first. */
  readonly lastEvent?: Received<C> | undefined
  /** @internal Increases whenever the component replaces or closes the session. */
  readonly generation?: number
}

/** The functions of a session that a component uses. */
export interface SessionMethods<C extends Contract> extends Pick<ClientSession<C>, 'on' | 'send' | 'emit' | 'request' | 'subscribe' | 'close'> {
  /** Closes the session, unless it is closed already, and opens a new one. The listeners stay. Does nothing without a URL. */
  reopen: () => void
}

/** Options of `useSession`, or a function that returns them. */
export type SessionOptions = ConnectOptions | (() => ConnectOptions)

const STATE_EVENTS = ['open', 'resume', 'reset', 'disconnect', 'close'] as const
/** The values of a component that has no session. On a server, it never has one. */
export const INITIAL_VIEW = { state: 'connecting' } as const

/** A listener of the component, which is added to each of its sessions. */
interface Listener {
  readonly event: string
  readonly listener: (data: never) => void
  remove?: () => void
}

/** Owns the session of a component of any framework. */
export class SessionManager<C extends Contract> {
  #options: SessionOptions = {}
  #setView: (view: SessionView<C>) => void = () => {}
  #url: string | undefined
  #session: ClientSession<C> | undefined
  #generation = 0
  #isRetained = false
  readonly #listeners = new Set<Listener>()

  readonly methods: SessionMethods<C> = {
    on: (event, listener) => {
      const entry: Listener = { event, listener }
      this.#listeners.add(entry)
      this.#addTo(this.#session, entry)
      return () => {
        this.#listeners.delete(entry)
        entry.remove?.()
      }
    },
    send: (...payload) => this.#session?.send(...payload) ?? rejectClosed(),
    emit: (...args) => this.#session?.emit(...args) ?? rejectClosed(),
    request: (...args) => this.#session?.request(...args) ?? rejectClosed(),
    subscribe: (...args) => this.#session?.subscribe(...args) ?? throwClosed(),
    close: async () => { await this.#session?.close() },
    reopen: () => { if (this.#url !== undefined) this.#replace(this.#url) }
  }

  /** Stores the values of the newest render. */
  update (options: SessionOptions, setView: (view: SessionView<C>) => void): void {
    this.#options = options
    this.#setView = setView
  }

  /** Opens a session, unless there is one for this URL. Without a URL, closes the session. */
  open (url: string | undefined): void {
    if (url !== this.#url) this.#replace(url)
  }

  /** Keeps the session until the returned function is called. */
  retain (): () => void {
    this.#isRetained = true
    return () => {
      this.#isRetained = false
      // StrictMode and Fast Refresh clean up the effects of a mounted component and run them again in the same task.
      queueMicrotask(() => { if (!this.#isRetained) this.#replace(undefined) })
    }
  }

  #replace (url: string | undefined): void {
    // The listeners of the component get no `close` event for a session that the component itself replaces.
    for (const { remove } of this.#listeners) remove?.()
    this.#session?.close()
    this.#session = undefined
    this.#url = undefined
    this.#generation++
    this.#setView({ ...INITIAL_VIEW, generation: this.#generation })
    if (url === undefined) return
    this.#connect(url)
    // Afterwards, because an invalid option throws. Then the next call with this URL tries again.
    this.#url = url
  }

  #connect (url: string): void {
    const getOptions = (): ConnectOptions => typeof this.#options === 'function' ? this.#options() : this.#options
    const session = connect<C>(url, { ...getOptions(), headers: () => resolveValue(getOptions().headers) })
    this.#session = session
    let lastEvent: Received<C> | undefined
    const updateView = (): void => {
      if (this.#session === session) this.#setView({ state: session.state, sessionId: session.sessionId, lastEvent, generation: this.#generation })
    }
    const readEvents = async (): Promise<void> => {
      for await (lastEvent of session) updateView()
    }
    for (const event of STATE_EVENTS) session.on(event, updateView)
    for (const entry of this.#listeners) this.#addTo(session, entry)
    // The session also reports this error with its `error` event.
    readEvents().catch(() => {})
    updateView()
  }

  #addTo (session: ClientSession<C> | undefined, entry: Listener): void {
    entry.remove = session?.on(entry.event as never, entry.listener as never) ?? (() => {})
  }
}

async function * throwClosed (): AsyncGenerator<never, void, undefined> {
  await rejectClosed()
}

function rejectClosed<T> (): Promise<T> {
  const result = new ResultPromise<T>((_resolve, reject) => {
    reject(new ClientError('CLOSED', 'There is no session: the component is not mounted, or has no URL'))
  })
  // A component that is not mounted has nobody to report to. Without this call, the rejection would be an uncaught error.
  result.onUnhandled(() => {})
  return result
}
