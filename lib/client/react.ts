import { useCallback, useEffect, useRef, useState } from 'react'
import { ClientError, connect, type ClientSession, type ConnectOptions, type Contract, type EventData, type Received, type RequestOptions, type SessionEvents, type State } from './index.js'
import type { DownEvent, UpAnswer, UpData, UpEvent } from '../contract.js'

/** What {@link useSession} gives. */
export interface SessionHandle<C extends Contract> {
  /** The session; `undefined` before the first effect. */
  readonly session: ClientSession<C> | undefined
  readonly state: State
  readonly sessionId: string | undefined
  /** The newest event of the server's. */
  readonly lastEvent: Received<C> | undefined
  readonly send: (data: UpData<C, 'message'>) => Promise<void>
  readonly request: <Event extends UpEvent<C>>(event: Event, data: UpData<C, Event>, options?: RequestOptions) => Promise<UpAnswer<C, Event>>
}

const STATE_EVENTS = ['open', 'resume', 'reset', 'disconnect', 'close'] as const

/**
 * A session that lives as long as the component: opened when it is mounted, closed when it is unmounted, opened anew
 * when the URL changes. The options are those of the first render.
 */
export function useSession<C extends Contract = Contract> (url: string, options?: ConnectOptions): SessionHandle<C> {
  const [session, setSession] = useState<ClientSession<C>>()
  const [state, setState] = useState<State>('connecting')
  const [lastEvent, setLastEvent] = useState<Received<C>>()
  const initial = useRef(options)
  const current = useRef<ClientSession<C>>(undefined)

  useEffect(() => {
    const session = current.current = connect<C>(url, initial.current)
    setSession(session)
    setState(session.state)
    for (const event of STATE_EVENTS) session.on(event, () => { if (current.current === session) setState(session.state) })
    const listen = async (): Promise<void> => {
      for await (const event of session) setLastEvent(event)
    }
    // What ends the session is told by its state, and by its `error` event.
    listen().catch(() => {})
    return () => {
      current.current = undefined
      session.close()
    }
  }, [url])

  const send = useCallback(async (data: UpData<C, 'message'>) => { await live(current.current).send(data) }, [])
  const request: SessionHandle<C>['request'] = useCallback(async (event, data, options) => await live(current.current).request(event, data, options), [])
  return { session, state, sessionId: session?.sessionId, lastEvent, send, request }
}

/** The data of the newest event of a name, of the server's or of the session's own; `undefined` before the first. */
export function useSessionEvent<C extends Contract, Event extends DownEvent<C> | keyof SessionEvents> ({ session }: Pick<SessionHandle<C>, 'session'>, event: Event): EventData<C, Event> | undefined {
  const [data, setData] = useState<EventData<C, Event>>()
  useEffect(() => session?.on(event, data => { setData(() => data) }), [session, event])
  return data
}

function live<C extends Contract> (session: ClientSession<C> | undefined): ClientSession<C> {
  if (session === undefined) throw new ClientError('CLOSED', 'The component is not mounted')
  return session
}
