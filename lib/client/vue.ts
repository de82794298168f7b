import { computed, onMounted, onScopeDispose, onUnmounted, shallowRef, toValue, watch, type ComputedRef, type MaybeRefOrGetter, type ShallowRef } from 'vue'
import type { DownEvent } from '../contract.js'
import type { Contract, EventData, SessionEvents } from './index.js'
import { INITIAL_VIEW, SessionManager, type SessionMethods, type SessionOptions, type SessionView } from './session-manager.js'

export type { SessionOptions }

/**
 * What {@link useSession} returns: refs, and the functions of the session, which never change. `on` and `handle` also work before there
 * is a session: what they add is added to each session of the component. `send`, `emit` and `request` reject with a
 * `ClientError` with code `CLOSED` while the component is not mounted or has no URL.
 */
export interface SessionHandle<C extends Contract = Contract> extends SessionMethods<C> {
  readonly state: ComputedRef<SessionView<C>['state']>
  /** The id of the session, which is a secret; `undefined` before the first `welcome` event. */
  readonly sessionId: ComputedRef<SessionView<C>['sessionId']>
  /** The newest event that a `for await` loop over the session receives, so neither `gap` nor `part`; `undefined` before the first. */
  readonly lastEvent: ComputedRef<SessionView<C>['lastEvent']>
  /** @internal Increases whenever the component replaces or closes the session. */
  readonly generation: ComputedRef<SessionView<C>['generation']>
}

/**
 * Opens a session when the component is mounted, and closes it when it is unmounted. Replaces the session when the URL, a ref or
 * a getter, changes. Opens none while the URL is `null` or `undefined`. A function that returns the options is called before each
 * request, for its headers. On a server, the state is always `connecting`.
 */
export function useSession<C extends Contract = Contract> (url: MaybeRefOrGetter<string | URL | null | undefined>, options: SessionOptions = {}): SessionHandle<C> {
  const view = shallowRef<SessionView<C>>(INITIAL_VIEW)
  const manager = new SessionManager<C>()
  manager.update(options, newView => { view.value = newView })
  onMounted(() => { watch(() => toValue(url)?.toString(), key => { manager.open(key) }, { immediate: true }) })
  onUnmounted(() => { manager.open(undefined) })
  return {
    state: computed(() => view.value.state),
    sessionId: computed(() => view.value.sessionId),
    lastEvent: computed(() => view.value.lastEvent),
    generation: computed(() => view.value.generation),
    ...manager.methods
  }
}

/**
 * Returns a ref with the data of the newest event with this name, of the server or of the client; `undefined` before the first.
 * Vue may render several events at once. To process each event, call `session.on` instead.
 */
export function useSessionEvent<C extends Contract, Event extends DownEvent<C> | keyof SessionEvents> (session: SessionHandle<C>, event: Event): Readonly<ShallowRef<EventData<C, Event> | undefined>> {
  const data = shallowRef<EventData<C, Event>>()
  watch(session.generation, () => { data.value = undefined }, { flush: 'sync' })
  onScopeDispose(session.on(event, newData => { data.value = newData }))
  return data
}
