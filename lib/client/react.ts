import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react'
import type { DownEvent } from '../contract.js'
import { ClientError, connect, type ClientSession, type ConnectOptions, type Contract, type EventData, type Received, type SessionEvents, type State } from './index.js'

interface SessionView<C extends Contract> {
  readonly state: State
  /** The id of the session, which is a secret; `undefined` before the first `open` event. */
  readonly sessionId?: string | undefined
  /** The newest event of the server; `undefined` before the first. */
  readonly lastEvent?: Received<C> | undefined
}

/**
 * What {@link useSession} returns. Call its functions, which are those of the session, in effects and event handlers.
 * They fail with a {@link ClientError} with code `CLOSED` while the component is not mounted.
 */
export interface SessionHandle<C extends Contract = Contract> extends SessionView<C>, Pick<ClientSession<C>, 'on' | 'send' | 'request'> {}

const STATE_EVENTS = ['open', 'resume', 'reset', 'disconnect', 'close'] as const

// React renders the state that a layout effect sets, and runs all other effects, before the first event can arrive. So a
// listener that is added in an effect misses no event. On a server, React 18 warns about layout effects.
const useIsomorphicLayoutEffect = typeof document === 'undefined' ? useEffect : useLayoutEffect

/**
 * Opens a session when the component is mounted, and closes it when it is unmounted. Replaces the session when the URL
 * changes. Uses the {@link ConnectOptions} of the first render. On a server, the state is always `connecting`.
 */
export function useSession<C extends Contract = Contract> (url: string, options?: ConnectOptions): SessionHandle<C> {
  const [view, setView] = useState<SessionView<C>>({ state: 'connecting' })
  const initialOptions = useRef(options)
  const connection = useRef<{ readonly url: string, readonly session: ClientSession<C> }>(undefined)

  useIsomorphicLayoutEffect(() => {
    // When Suspense hides and shows the component, React cleans up and runs layout effects, but not other effects. Hence the
    // session is closed in another effect, and this one may run again with the same URL.
    if (connection.current?.url === url) return
    connection.current?.session.close()
    const session = connect<C>(url, initialOptions.current)
    connection.current = { url, session }
    let lastEvent: Received<C> | undefined
    const updateView = (): void => {
      if (connection.current?.session === session) setView({ state: session.state, sessionId: session.sessionId, lastEvent })
    }
    const readEvents = async (): Promise<void> => {
      for await (lastEvent of session) updateView()
    }
    for (const event of STATE_EVENTS) session.on(event, updateView)
    // The session also reports this error with its `error` event.
    readEvents().catch(() => {})
    updateView()
  }, [url])
  useEffect(() => () => {
    const last = connection.current
    connection.current = undefined
    last?.session.close()
  }, [])

  const send: ClientSession<C>['send'] = useCallback(async (...payload) => await assertMounted(connection.current?.session).send(...payload), [])
  const request: ClientSession<C>['request'] = useCallback(async (...args) => await assertMounted(connection.current?.session).request(...args), [])
  // The function changes with the URL, so that effects that depend on it add their listeners to the new session.
  const on: ClientSession<C>['on'] = useCallback((...args) => assertMounted(connection.current?.session).on(...args), [url])
  return { ...view, on, send, request }
}

/**
 * Returns the data of the newest event with this name, of the server or of the client; `undefined` before the first.
 * React may render several events at once. To process each event, call `session.on` in an effect instead.
 */
export function useSessionEvent<C extends Contract, Event extends DownEvent<C> | keyof SessionEvents> ({ on }: SessionHandle<C>, event: Event): EventData<C, Event> | undefined {
  const [data, setData] = useState<EventData<C, Event>>()
  useEffect(() => {
    setData(undefined)
    return on(event, data => { setData(() => data) })
  }, [on, event])
  return data
}

function assertMounted<C extends Contract> (session: ClientSession<C> | undefined): ClientSession<C> {
  if (session === undefined) throw new ClientError('CLOSED', 'The component is not mounted; use the session in an effect or event handler')
  return session
}
