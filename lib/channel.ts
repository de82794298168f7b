import { begin } from './promises.js'
import type { Session } from './session.js'
import type { Store } from './store/store.js'
import { frameEvent } from './wire/frame.js'

export interface SendOptions {
  /** The one session that does not get it: the sender's, mostly. */
  readonly except?: Pick<Session, 'id'> | undefined
}

/** A named group of sessions. What is sent to it is appended to its log once, and every member's stream reads it there. */
export class Channel {
  readonly name: string
  readonly #store: Store

  /** @internal */
  constructor (name: string, store: Store) {
    this.name = name
    this.#store = store
  }

  /** How many sessions are in it. Rejects with FST_SSE_STORE_UNAVAILABLE. */
  count (): Promise<number> {
    return begin(() => this.#store.count(this.name))
  }

  /** Sends the default event, `message`, to every member. Resolves, and rejects, as {@link emit}. */
  send (data: unknown, options?: SendOptions): Promise<void> {
    return this.emit('message', data, options)
  }

  /**
   * Sends a named event to every member. Resolves when it is in the channel's log, whoever is connected.
   * Rejects with FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, FST_SSE_ENTRY_TOO_LARGE or FST_SSE_STORE_UNAVAILABLE.
   */
  emit (event: string, data: unknown, { except }: SendOptions = {}): Promise<void> {
    return begin(() => this.#store.publish(this.name, { frame: frameEvent(event, data), except: except?.id }))
  }
}
