'use client'

import { useEffect, useLayoutEffect, useMemo, useState } from 'react'
import type { DownEvent } from '../contract.js'
import { ClientError, connect, type ClientSession, type ConnectOptions, type Contract, type EventData, type Received, type SessionEvents, type State } from './index.js'
import { ResultPromise } from './result-promise.js'
import { resolveValue } from './send.js'

interface SessionView<C extends Contract> {
  readonly state: State
  /** The id of the session, which is a secret; `undefined` before the first `open` event. */
  readonly sessionId?: string | undefined
  /** The newest event of the server; `undefined` before the first. */
  readonly lastEvent?: Received<C> | undefined
  /** @internal Number of sessions that the component has opened. */
  readonly generation?: number
}

interface SessionMethods<C extends Contract> extends Pick<ClientSession<C>, 'on' | 'send' | 'emit' | 'request' | 'subscribe' | 'close'> {
  /** Closes the session, unless it is closed already, and opens a new one. The listeners stay. Does nothing without a URL. */
  reopen: () => void
}

/**
 * What {@link useSession} returns: the same object until one of its values changes. Its functions, which are those of the
 * session, never change. Call them in effects and event handlers. `on` also works before there is a session; its listeners are
 * added to each session of the component. `send`, `emit` and `request` reject with a {@link ClientError} with code `CLOSED` while
 * the component is not mounted or has no URL.
 */
export interface SessionHandle<C extends Contract = Contract> extends SessionView<C>, SessionMethods<C> {}

/** Options of {@link useSession}, or a function that returns them. */
export type SessionOptions = ConnectOptions | (() => ConnectOptions)

const STATE_EVENTS = ['open', 'resume', 'reset', 'disconnect', 'close'] as const
const INITIAL_VIEW = { state: 'connecting' } as const

// React renders the state that a layout effect sets, and runs all other effects, before the first event can arrive. So a
// listener that is added in an effect misses no event. On a server, React 18 warns about layout effects.
const useIsomorphicLayoutEffect = typeof document === 'undefined' ? useEffect : useLayoutEffect

/**
 * Opens a session when the component is mounted, and closes it when it is unmounted. Replaces the session when the URL
 * changes. Opens none while the URL is `null` or `undefined`. The headers are those of the last render, the other
 * {@link ConnectOptions} those of the render in which the session is opened. On a server, the state is always `connecting`.
 */
export function useSession<C extends Contract = Contract> (url: string | URL | null | undefined, options: SessionOptions = {}): SessionHandle<C> {
  const [view, setView] = useState<SessionView<C>>(INITIAL_VIEW)
  const [manager] = useState(() => new SessionManager<C>())
  const key = url?.toString()
  useIsomorphicLayoutEffect(() => { manager.update(options, setView) })
  // When Suspense hides and shows the component, React cleans up and runs layout effects, but not other effects. Hence the
  // session is closed in another effect, and this one may run again with the same URL.
  useIsomorphicLayoutEffect(() => { manager.open(key) }, [key])
  useEffect(() => manager.retain(), [])
  return useMemo(() => ({ ...view, ...manager.methods }), [view])
}

/**
 * Returns the data of the newest event with this name, of the server or of the client; `undefined` before the first.
 * React may render several events at once. To process each event, call `session.on` in an effect instead.
 */
export function useSessionEvent<C extends Contract, Event extends DownEvent<C> | keyof SessionEvents> (session: SessionHandle<C>, event: Event): EventData<C, Event> | undefined {
  const { on, generation } = session
  const [data, setData] = useState<EventData<C, Event>>()
  useEffect(() => {
    setData(undefined)
    return on(event, data => { setData(() => data) })
  }, [on, event, generation])
  return data
}

/** A listener of the component, which is added to each of its sessions. */
interface Listener {
  readonly event: string
  readonly listener: (data: never) => void
  remove?: () => void
}

/** Owns the session of a component. */
class SessionManager<C extends Contract> {
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
    reopen: () => { this.#replace(this.#url) }
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
    this.#url = url
    this.#generation++
    if (url !== undefined) this.#connect(url)
    else this.#setView({ ...INITIAL_VIEW, generation: this.#generation })
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
