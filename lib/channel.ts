import { begin, chain, ignore } from './promises.js'
import type { Session } from './session.js'
import type { Draft, Log, LogBounds, LogListener } from './store/log.js'
import type { Awaitable, Store } from './store/store.js'
import { frameEvent } from './wire/frame.js'

export interface SendOptions {
  /** The one session that does not get it: the sender's, mostly. */
  readonly except?: Pick<Session, 'id'> | undefined
}

/** A named group of sessions. What is sent to it is appended to its log once, and every member's stream reads it there. */
export class Channel {
  readonly name: string
  readonly #channels: Channels

  /** @internal */
  constructor (name: string, channels: Channels) {
    this.name = name
    this.#channels = channels
  }

  /** How many sessions are in it. */
  get size (): number {
    return this.#channels.room(this.name)?.members.size ?? 0
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
    return begin(() => this.#channels.append(this.name, { frame: frameEvent(event, data), except: except?.id }))
  }
}

/** The log and the members of a channel that has members. */
export class Room implements LogListener {
  readonly members = new Set<Session>()
  readonly log: Log

  constructor (name: string, bounds: LogBounds, store: Store) {
    this.log = store.log(`channel:${name}`, bounds, this)
  }

  wake (): void {
    for (const member of this.members) member.wake()
  }
}

/** The channels that have members. */
export class Channels {
  readonly #rooms = new Map<string, Room>()
  readonly #bounds: LogBounds
  readonly #store: Store

  constructor (bounds: LogBounds, store: Store) {
    this.#bounds = bounds
    this.#store = store
  }

  get size (): number {
    return this.#rooms.size
  }

  room (name: string): Room | undefined {
    return this.#rooms.get(name)
  }

  enter (name: string, session: Session): Room {
    let room = this.#rooms.get(name)
    if (room === undefined) {
      room = new Room(name, this.#bounds, this.#store)
      this.#rooms.set(name, room)
    }
    room.members.add(session)
    return room
  }

  exit (name: string, session: Session): void {
    const room = this.#rooms.get(name)
    if (room?.members.delete(session) !== true || room.members.size > 0) return
    this.#rooms.delete(name)
    this.#store.release(room.log)
  }

  /** Appends to a channel's log; what is sent to no members is gone. */
  append (name: string, draft: Draft): Awaitable<void> {
    const room = this.#rooms.get(name)
    if (room !== undefined) return chain(this.#store.append(room.log, draft), ignore)
  }
}
