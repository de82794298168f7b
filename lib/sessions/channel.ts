import { toPromise } from '../awaitable.js'
import type { SessionState } from '../store/session-state.js'
import type { Store } from '../store/store.js'
import { assertChannel, resolveKeep, type ChannelOptions } from './channel-options.js'
import { createSharedEntry, type SendOptions } from './event-options.js'
import { forEachSession } from './for-each-session.js'
import type { Session } from './session.js'
import type { SessionContext } from './session-internals.js'

// A store may execute calls one after the other, and reject those that wait for too long.
const MAX_LEAVES = 1000

/** What a {@link Channel} needs from the registry. */
export interface ChannelContext extends Pick<SessionContext<Session>, 'store' | 'onUnhandled'> {
  getOrCreateSession (state: SessionState): Session
}

/** A named group of sessions, its members. An event that is sent to a channel is appended once, to the log of the channel. The streams of all members read that log. */
export class Channel {
  /** The name of the channel. */
  readonly name: string
  readonly #keep: number
  readonly #context: ChannelContext

  /** @internal */
  constructor (name: string, options: ChannelOptions, context: ChannelContext) {
    assertChannel(name)
    this.name = name
    this.#keep = resolveKeep(options)
    this.#context = context
  }

  /** Resolves with the members, connected or not, in all processes. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  sessions (): Promise<Session[]> {
    const { store, getOrCreateSession } = this.#context
    return toPromise(async () => (await store.members(this.name)).map(getOrCreateSession))
  }

  /** Resolves with the number of members. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  count (): Promise<number> {
    return toPromise(() => this.#store.count(this.name))
  }

  /** Sends the default event, `message`, to every member. Resolves and rejects as {@link emit}. */
  send (data: unknown, options?: SendOptions): Promise<void> {
    return this.#emit('message', data, options, 'send')
  }

  /**
   * Sends a named event to every member. Resolves when the event is in the channel's log, even if no client is connected.
   * Rejects with FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_OPTION_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE.
   */
  emit (event: string, data: unknown, options?: SendOptions): Promise<void> {
    return this.#emit(event, data, options, 'emit')
  }

  /**
   * Removes all members, as their method `leave` does, and drops the history: sessions that join later do not get it. The former
   * members still receive what was sent before. Resolves when the `onLeave` hooks have run. A session that joins meanwhile may
   * stay a member. Rejects with FST_SSE_STORE_UNAVAILABLE; some of the sessions may then have left.
   */
  close (): Promise<void> {
    return toPromise(async () => {
      await this.#store.clear(this.name)
      await forEachSession(await this.sessions(), session => session.leave(this.name), MAX_LEAVES)
    }, error => { this.#context.onUnhandled(error, 'channel.close', { channel: this.name }) })
  }

  #emit (event: string, data: unknown, options: SendOptions | undefined, call: string): Promise<void> {
    return toPromise(() => this.#store.publish(this.name, createSharedEntry(event, data, options, call), this.#keep), error => { this.#context.onUnhandled(error, `channel.${call}`, { event, channel: this.name }) })
  }

  get #store (): Store {
    return this.#context.store
  }
}
