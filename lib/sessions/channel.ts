import { toPromise } from '../awaitable.js'
import { ChannelInvalid, OptionInvalid, quote } from '../errors.js'
import { assertKeep, assertOptions } from '../runs/run-options.js'
import type { Store } from '../store/store.js'
import { frameEvent } from '../wire/frame.js'
import type { SessionContext } from './session-stream.js'

/** Options of the methods that send an event to several sessions. */
export interface SendOptions {
  /** The one session that does not receive the event, usually that of the sender. Default: none. */
  readonly except?: { readonly id: string } | undefined
}

/** Options of `channel`. */
export interface ChannelOptions {
  /**
   * Milliseconds for which the channel keeps each event that is sent to it, also while it has no members, so that sessions that
   * join later can read it as history. The bounds of the option `channelLog` apply, too; of its `age` and of `keep`, the longer one.
   * It takes effect with the next event, for all nodes, and applies to all events of the channel. Default: 0, which changes nothing: a channel that is kept stays so.
   */
  readonly keep?: number
}

/** Options of `session.join`. */
export interface JoinOptions {
  /** Maximum number of events to return that were sent to the channel before. `Infinity` returns all that its log contains. */
  readonly history: number
}

/** Returns the number of milliseconds for which a channel is kept. Throws FST_SSE_OPTION_INVALID. */
function getKeep (options: ChannelOptions): number {
  assertOptions(options, ['keep'], 'a channel', OptionInvalid)
  const { keep = 0 } = options
  assertKeep(keep, 'a channel', OptionInvalid)
  return keep
}

/** Returns the maximum number of events that `join` returns. Throws FST_SSE_OPTION_INVALID. */
export function getHistory (options: JoinOptions): number {
  assertOptions(options, ['history'], 'join', OptionInvalid)
  const { history } = options
  if (!(Number.isInteger(history) || history === Infinity) || history < 0) throw new OptionInvalid(`Option "history" of join must be a whole number from 0, or Infinity; it is ${String(history)}`)
  return history
}

/** Returns the id of the session that does not receive an event. Throws FST_SSE_OPTION_INVALID if the options of `call` are not an object with `except`. */
export function getExcludedId (options: SendOptions | undefined, call: string): string | undefined {
  if (options === undefined) return undefined
  assertOptions(options, ['except'], call, OptionInvalid)
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
  readonly #keep: number
  readonly #store: Store
  readonly #onUnhandled: SessionContext<unknown>['onUnhandled']

  /** @internal */
  constructor (name: string, options: ChannelOptions, store: Store, onUnhandled: SessionContext<unknown>['onUnhandled']) {
    assertChannel(name)
    this.name = name
    this.#keep = getKeep(options)
    this.#store = store
    this.#onUnhandled = onUnhandled
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

  #emit (event: string, data: unknown, options: SendOptions | undefined, call: string): Promise<void> {
    return toPromise(() => this.#store.publish(this.name, { frame: frameEvent(event, data), except: getExcludedId(options, call) }, this.#keep), error => { this.#onUnhandled(error, `channel.${call}`, { event, channel: this.name }) })
  }
}
