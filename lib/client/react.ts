import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'react'
import type { DownEvent } from '../contract.js'
import { ClientError, connect, type ClientSession, type ConnectOptions, type Contract, type EventData, type Received, type SessionEvents, type State } from './index.js'

interface View<C extends Contract> {
  readonly state: State
  /** A secret; `undefined` before the first welcome. */
  readonly sessionId?: string | undefined
  /** The newest event of the server's; `undefined` before the first. */
  readonly lastEvent?: Received<C> | undefined
}

/**
 * What {@link useSession} gives. The functions are those of the session, to be called in effects and handlers: while the
 * component is not mounted they fail with a {@link ClientError} of code `CLOSED`.
 */
export interface SessionHandle<C extends Contract = Contract> extends View<C>, Pick<ClientSession<C>, 'on' | 'send' | 'request'> {}

const STATE_EVENTS = ['open', 'resume', 'reset', 'disconnect', 'close'] as const

// What a layout effect sets is rendered, and all other effects are run, before anything can come down: who listens in
// an effect misses nothing. On a server React 18 warns of layout effects.
const useConnectEffect = typeof document === 'undefined' ? useEffect : useLayoutEffect

/**
 * A session that lives as long as the component: opened when it is mounted, closed when it is unmounted, opened anew
 * when the URL changes. The options, see {@link ConnectOptions}, are those of the first render. Rendered by a server, it
 * is `connecting`.
 */
export function useSession<C extends Contract = Contract> (url: string, options?: ConnectOptions): SessionHandle<C> {
  const [view, setView] = useState<View<C>>({ state: 'connecting' })
  const initial = useRef(options)
  const current = useRef<{ readonly url: string, readonly session: ClientSession<C> }>(undefined)

  useConnectEffect(() => {
    // Again, behind Suspense: while that hides the component it undoes effects of this kind, and none of the other.
    if (current.current?.url === url) return
    current.current?.session.close()
    const session = connect<C>(url, initial.current)
    current.current = { url, session }
    let lastEvent: Received<C> | undefined
    const show = (): void => {
      if (current.current?.session === session) setView({ state: session.state, sessionId: session.sessionId, lastEvent })
    }
    const listen = async (): Promise<void> => {
      for await (lastEvent of session) show()
    }
    for (const event of STATE_EVENTS) session.on(event, show)
    // What the session ends by is told by its `error` event.
    listen().catch(() => {})
    show()
  }, [url])
  useEffect(() => () => {
    const last = current.current
    current.current = undefined
    last?.session.close()
  }, [])

  const send: ClientSession<C>['send'] = useCallback(async (...payload) => await mounted(current.current?.session).send(...payload), [])
  const request: ClientSession<C>['request'] = useCallback(async (...args) => await mounted(current.current?.session).request(...args), [])
  // Another function for another URL, so that effects listen to its session.
  const on: ClientSession<C>['on'] = useCallback((...args) => mounted(current.current?.session).on(...args), [url])
  return { ...view, on, send, request }
}

/**
 * The data of the newest event of a name, of the server's or of the session's own; `undefined` before the first.
 * Events that come together are rendered once: to hear each, call `session.on` in an effect.
 */
export function useSessionEvent<C extends Contract, Event extends DownEvent<C> | keyof SessionEvents> ({ on }: SessionHandle<C>, event: Event): EventData<C, Event> | undefined {
  const [data, setData] = useState<EventData<C, Event>>()
  useEffect(() => {
    setData(undefined)
    return on(event, data => { setData(() => data) })
  }, [on, event])
  return data
}

function mounted<C extends Contract> (session: ClientSession<C> | undefined): ClientSession<C> {
  if (session === undefined) throw new ClientError('CLOSED', 'The component is not mounted')
  return session
}
