import { ClientError, connect, type ClientSession, type ConnectOptions, type Contract, type Received, type State } from './index.js'
import { ResultPromise } from './result-promise.js'
import { resolveValue } from './send.js'

/** The values of a session that a component shows. */
export interface SessionView<C extends Contract> {
  readonly state: State
  /** The id of the session, which is a secret; `undefined` before the first `welcome` event. */
  readonly sessionId?: string | undefined
  /** The newest event that a `for await` loop over the session receives, so neither `gap` nor `part`; `undefined` before the first. */
  readonly lastEvent?: Received<C> | undefined
  /** @internal Increases whenever the component replaces or closes the session. */
  readonly generation?: number
}

/** The functions of a session that a component uses. */
export interface SessionMethods<C extends Contract> extends Pick<ClientSession<C>, 'on' | 'handle' | 'send' | 'emit' | 'request' | 'subscribe' | 'close'> {
  /** Closes the session, unless it is closed already, and opens a new one. The listeners and handlers stay. Does nothing without a URL. */
  reopen: () => void
  /** @internal Returns the newest {@link SessionView.generation}, which the component may not have rendered yet. */
  readonly getGeneration?: () => number
}

/** Options of `useSession`, or a function that returns them. */
export type SessionOptions = ConnectOptions | (() => ConnectOptions)

const STATE_EVENTS = ['open', 'resume', 'reset', 'disconnect', 'close'] as const
/** The values of a component that has no session. On a server, it never has one. */
export const INITIAL_VIEW = { state: 'connecting' } as const

/** A listener or a handler of the component, which is added to each of its sessions. */
interface Registration<C extends Contract> {
  /** Adds it to a session, and returns the function that removes it. */
  readonly addTo: (session: ClientSession<C>) => () => void
  remove?: (() => void) | undefined
}

/** Owns the session of a component of any framework. */
export class SessionManager<C extends Contract> {
  #options: SessionOptions = {}
  #setView: (view: SessionView<C>) => void = () => {}
  #url: string | undefined
  #session: ClientSession<C> | undefined
  #generation = 0
  #isRetained = false
  /** The last error that a listener of the component has received. */
  #receivedError: unknown
  readonly #registrations = new Set<Registration<C>>()

  readonly methods: SessionMethods<C> = {
    on: (event, listener) => this.#register(session => session.on(event, data => {
      if (event === 'error') this.#receivedError = data
      listener(data)
    })),
    handle: (event, handler) => this.#register(session => session.handle(event, handler)),
    send: (...payload) => this.#session?.send(...payload) ?? rejectClosed(),
    emit: (...args) => this.#session?.emit(...args) ?? rejectClosed(),
    request: (...args) => this.#session?.request(...args) ?? rejectClosed(),
    subscribe: (...args) => this.#session?.subscribe(...args) ?? throwClosed(),
    close: async () => { await this.#session?.close() },
    reopen: () => { if (this.#url !== undefined) this.#replace(this.#url) },
    getGeneration: () => this.#generation
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
    for (const { remove } of this.#registrations) remove?.()
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
    for (const registration of this.#registrations) registration.remove = registration.addTo(session)
    // The session does not print this error, because a loop throws it.
    readEvents().catch((error: unknown) => { if (error !== this.#receivedError) console.error(error) })
    updateView()
  }

  /** Adds a listener or a handler to this session and all later ones. Returns a function that removes it. */
  #register (addTo: Registration<C>['addTo']): () => void {
    const registration: Registration<C> = { addTo, remove: this.#session && addTo(this.#session) }
    this.#registrations.add(registration)
    return () => {
      this.#registrations.delete(registration)
      registration.remove?.()
    }
  }
}

async function * throwClosed (): AsyncGenerator<never, void, undefined> {
  await rejectClosed()
}

function rejectClosed<T> (): Promise<T> {
  const result = new ResultPromise<T>((_resolve, reject) => {
    reject(new ClientError('CLOSED', 'There is no session: the component is not mounted, or has no URL'))
  })
  // Nothing is reported, because there is no session whose `error` event could do it. Without this call, the rejection would be an uncaught error.
  result.onUnhandled(() => {})
  return result
}
