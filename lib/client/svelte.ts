import { onMount } from 'svelte'
import { createSubscriber } from 'svelte/reactivity'
import { toStore } from 'svelte/store'
import type { DownEvent } from '../contract.js'
import type { Contract, EventData, SessionEvents } from './index.js'
import { INITIAL_VIEW, SessionManager, type SessionMethods, type SessionOptions, type SessionView } from './session-manager.js'

export type { SessionOptions }

/** A URL of a session. There is no session while it is `null` or `undefined`. */
export type SessionUrl = string | URL | null | undefined

/**
 * What {@link useSession} returns. Its values are reactive, so read them as properties, without destructuring. Its functions,
 * which are those of the session, never change. `on` and `handle` also work before there is a session: what they add is added
 * to each session of the component. `send`, `emit` and `request` reject with a `ClientError` with code `CLOSED` while the component
 * is not mounted or has no URL.
 */
export interface SessionHandle<C extends Contract = Contract> extends SessionView<C>, SessionMethods<C> {}

/**
 * Opens a session when the component is mounted, and closes it when it is destroyed. Replaces the session when the URL, which a
 * function can return, changes. Opens none while the URL is `null` or `undefined`. A function that returns the options is called
 * before each request, for its headers. On a server, the state is always `connecting`.
 */
export function useSession<C extends Contract = Contract> (url: SessionUrl | (() => SessionUrl), options: SessionOptions = {}): SessionHandle<C> {
  let view: SessionView<C> = INITIAL_VIEW
  const { track, notify } = createSignal()
  const manager = new SessionManager<C>()
  manager.update(options, newView => {
    view = newView
    notify()
  })
  const getView = (): SessionView<C> => {
    track()
    return view
  }
  onMount(() => {
    const unsubscribe = toStore(() => (typeof url === 'function' ? url() : url)?.toString()).subscribe(key => { manager.open(key) })
    return () => {
      unsubscribe()
      manager.open(undefined)
    }
  })
  return {
    get state () { return getView().state },
    get sessionId () { return getView().sessionId },
    get lastEvent () { return getView().lastEvent },
    get generation () { return getView().generation ?? 0 },
    ...manager.methods
  }
}

/**
 * Returns an object whose property `current` is the data of the newest event with this name, of the server or of the client;
 * `undefined` before the first. Svelte may render several events at once. To process each event, call `session.on` instead.
 */
export function useSessionEvent<C extends Contract, Event extends DownEvent<C> | keyof SessionEvents> (session: SessionHandle<C>, event: Event): { readonly current: EventData<C, Event> | undefined } {
  let newest: { readonly data: EventData<C, Event>, readonly generation: number | undefined } | undefined
  const { track, notify } = createSignal()
  onMount(() => session.on(event, data => {
    newest = { data, generation: session.generation }
    notify()
  }))
  return {
    get current () {
      track()
      return session.generation === newest?.generation ? newest?.data : undefined
    }
  }
}

/** Connects a value to the reactivity of Svelte: call `track` when it is read, and `notify` when it has changed. */
function createSignal (): { track: () => void, notify: () => void } {
  let update = (): void => {}
  return { track: createSubscriber(newUpdate => { update = newUpdate }), notify: () => { update() } }
}
