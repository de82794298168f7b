'use client'

import { useEffect, useLayoutEffect, useMemo, useState } from 'react'
import type { DownEvent } from '../contract.js'
import type { Contract, EventData, SessionEvents } from './index.js'
import { INITIAL_VIEW, SessionManager, type SessionMethods, type SessionOptions, type SessionView } from './session-manager.js'

export type { SessionOptions }

/**
 * What {@link useSession} returns: the same object until one of its values changes. Its functions, which are those of the
 * session, never change. Call them in effects and event handlers. `on` and `handle` also work before there is a session: what they
 * add is added to each session of the component. `send`, `emit` and `request` reject with a {@link ClientError} with code `CLOSED` while
 * the component is not mounted or has no URL.
 */
export interface SessionHandle<C extends Contract = Contract> extends SessionView<C>, SessionMethods<C> {}

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
  const { on, generation, getGeneration } = session
  const [newest, setNewest] = useState<{ event: Event, generation: number | undefined, data: EventData<C, Event> }>()
  // An event of a new session can arrive before the component renders for the first time with this session.
  useEffect(() => on(event, data => { setNewest({ event, generation: getGeneration?.(), data }) }), [on, event])
  return newest?.event === event && newest.generation === generation ? newest.data : undefined
}
