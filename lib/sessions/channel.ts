import { toPromise } from '../awaitable.js'
import { ChannelInvalid, OptionInvalid, quote } from '../errors.js'
import type { Store } from '../store/store.js'
import { frameEvent } from '../wire/frame.js'
import type { SessionContext } from './session-stream.js'

/** Options of the methods that send an event to several sessions. */
export interface SendOptions {
  /** The one session that does not receive the event, usually that of the sender. Default: none. */
  readonly except?: { readonly id: string } | undefined
}

/** Returns the id of the session that does not receive an event. Throws FST_SSE_OPTION_INVALID if the options are not an object with `except`. */
export function getExcludedId (options: SendOptions = {}): string | undefined {
  const { except } = options
  // `id` shows that a session was passed in place of the options. It would have no effect.
  const isValid = except === undefined ? !('id' in options) : typeof except?.id === 'string'
  if (!isValid) throw new OptionInvalid('Option "except" must be one session, or an object with its id: { except: session }')
  return except?.id
}

/** Throws FST_SSE_CHANNEL_INVALID if a value cannot be the name of a channel. */
export function assertChannel (name: unknown): void {
  if (typeof name !== 'string' || name === '' || !name.isWellFormed()) throw new ChannelInvalid(quote(name))
}

/** A named group of sessions, its members. An event that is sent to a channel is appended once, to the log of the channel. The streams of all members read that log. */
export class Channel {
  /** The name of the channel. */
  readonly name: string
  readonly #store: Store
  readonly #onUnhandled: SessionContext<unknown>['onUnhandled']

  /** @internal */
  constructor (name: string, store: Store, onUnhandled: SessionContext<unknown>['onUnhandled']) {
    assertChannel(name)
    this.name = name
    this.#store = store
    this.#onUnhandled = onUnhandled
  }

  /** Resolves with the number of members. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  count (): Promise<number> {
    return toPromise(() => this.#store.count(this.name))
  }

  /** Sends the default event, `message`, to every member. Resolves and rejects as {@link emit}. */
  send (data: unknown, options?: SendOptions): Promise<void> {
    return this.emit('message', data, options)
  }

  /**
   * Sends a named event to every member. Resolves when the event is in the channel's log, even if no client is connected.
   * Rejects with FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_OPTION_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE.
   */
  emit (event: string, data: unknown, options?: SendOptions): Promise<void> {
    return toPromise(() => this.#store.publish(this.name, { frame: frameEvent(event, data), except: getExcludedId(options) }), error => { this.#onUnhandled(error, 'channel.emit', { event, channel: this.name }) })
  }
}
