import { SessionOver } from '../errors.js'
import { flushNow } from '../turns.js'
import { Deadlines } from './deadlines.js'
import { Log, type Draft, type LogBounds, type LogListener, type Source, type TrimReason } from './log.js'
import { LocalMailbox, type Mailbox } from './mailbox.js'
import { MemoryLogs } from './memory-logs.js'
import { SessionState, type SessionData } from './state.js'
import type { Store, StoreSettings, StoreStats, StoreUser } from './store.js'

/** Channels of which a session may still have something to get that it has left. */
const MOST_LEFT = 100

/** The members of a channel that has members; wakes them for its log. */
class Room implements LogListener {
  readonly members = new Set<SessionState>()
  readonly log: Log

  constructor (bounds: LogBounds) {
    this.log = new Log(bounds, this)
  }

  wake (): void {
    for (const member of this.members) member.wake()
  }
}

/** The default store: everything in this process's memory, for an app that runs as one process. */
export const memoryStore = (settings: StoreSettings, user: StoreUser): MemoryStore => new MemoryStore(settings, user)

export class MemoryStore implements Store {
  readonly #logs: MemoryLogs
  readonly #settings: StoreSettings
  readonly #user: StoreUser
  readonly #broadcasts: Log
  /** Those that live, and those that have ended but whose client may come back to hear it. */
  readonly #sessions = new Map<string, SessionState>()
  /** The latter of them, in the order in which they ended. */
  readonly #ended = new Set<SessionState>()
  readonly #deadlines: Deadlines<SessionState>
  readonly #rooms = new Map<string, Room>()
  readonly #perPrincipal = new Map<string, number>()
  #live = 0

  constructor (settings: StoreSettings, user: StoreUser, logs = new MemoryLogs()) {
    this.#logs = logs
    this.#settings = settings
    this.#user = user
    this.#broadcasts = new Log(settings.channelLog, { wake: () => { user.broadcast() } })
    this.#deadlines = new Deadlines(settings.resumeTimeout, state => { this.#expire(state) })
  }

  open (id: string, principal: string | undefined): SessionState | undefined {
    const { maxSessions, maxSessionsPerPrincipal } = this.#settings
    if (this.#live >= maxSessions) return undefined
    if (principal !== undefined && this.#principalCount(principal) >= maxSessionsPerPrincipal) return undefined
    this.#tally(principal, 1)
    const { head } = this.#logs
    // Given to it: an array that something is pushed to has room for many at once.
    const state = new SessionState(id, principal, head, [{ log: this.#broadcasts, from: head, to: Infinity }])
    this.#sessions.set(id, state)
    return state
  }

  find (id: string): SessionState | undefined {
    return this.#sessions.get(id)
  }

  recall (id: string): SessionState | undefined {
    return this.#sessions.get(id)
  }

  hold (state: SessionState): void {
    if (state.endedBy === undefined) this.#deadlines.delete(state)
  }

  attach (state: SessionState): number {
    this.#forget(state)
    return this.#logs.head
  }

  detach (state: SessionState): void {
    if (state.endedBy === undefined) this.#deadlines.set(state)
  }

  update (state: SessionState, change: SessionData): void {
    demandLife(state)
    state.data = { ...state.data, ...change }
  }

  join (state: SessionState, name: string): void {
    demandLife(state)
    state.channels ??= new Set()
    if (state.channels.has(name)) return
    let room = this.#rooms.get(name)
    if (room === undefined) {
      room = new Room(this.#settings.channelLog)
      this.#rooms.set(name, room)
    }
    room.members.add(state)
    state.channels.add(name)
    state.sources.push({ log: room.log, from: room.log.last, to: Infinity })
  }

  leave (state: SessionState, name: string): void {
    if (state.channels?.delete(name) !== true) return
    this.#exit(state, name)
    this.#forget(state)
    const left = state.sources.filter(({ to }) => to < Infinity)
    if (left.length <= MOST_LEFT) return
    // A stream that keeps up loses nothing.
    flushNow()
    this.#drop(state, left.reduce((oldest, source) => source.to < oldest.to ? source : oldest), 'count')
  }

  end (state: SessionState, reason: string, keep: boolean): boolean {
    if (state.endedBy !== undefined) return false
    state.endedBy = reason
    // What is broadcast from now on is not for it any more.
    for (const source of state.sources) if (source.log === this.#broadcasts) source.to = this.#broadcasts.last
    for (const channel of state.channels ?? []) this.#exit(state, channel)
    state.channels = undefined
    this.#forget(state)
    this.#tally(state.principal, -1)
    if (keep) this.#keep(state)
    else this.#remove(state)
    return true
  }

  send (state: SessionState, draft: Draft): void {
    demandLife(state)
    this.#logs.append(this.#ownLog(state), draft)
  }

  publish (channel: string, draft: Draft): void {
    const room = this.#rooms.get(channel)
    if (room !== undefined) this.#logs.append(room.log, draft)
  }

  broadcast (draft: Draft): void {
    this.#logs.append(this.#broadcasts, draft)
  }

  /** A log that is not at hand is one to which nothing was sent. */
  drained (): void {}

  mailbox (): Mailbox {
    return new LocalMailbox(this.#settings.maxWaitingMessages, this.#settings.maxIdempotencyKeys)
  }

  count (channel: string): number {
    return this.#rooms.get(channel)?.members.size ?? 0
  }

  stats (): StoreStats {
    return { sessions: this.#live, channels: this.#rooms.size }
  }

  close (reason: string): readonly SessionState[] {
    const ended = [...this.#sessions.values()].filter(state => this.end(state, reason, true))
    this.#deadlines.clear()
    this.#logs.close()
    return ended
  }

  #expire (state: SessionState): void {
    const lived = this.end(state, 'expired', false)
    if (lived) this.#user.expired(state)
    else this.#remove(state)
  }

  // For a while, for a client that has not heard of the end; but not without number.
  #keep (state: SessionState): void {
    this.#deadlines.set(state)
    this.#ended.add(state)
    const [oldest] = this.#ended
    if (oldest !== undefined && this.#ended.size > this.#settings.maxSessions) this.#remove(oldest)
  }

  #remove (state: SessionState): void {
    this.#deadlines.delete(state)
    this.#sessions.delete(state.id)
    this.#ended.delete(state)
    if (state.log !== undefined) this.#logs.release(state.log)
    state.listener?.forgotten()
  }

  #tally (principal: string | undefined, difference: 1 | -1): void {
    this.#live += difference
    if (principal === undefined) return
    const count = this.#principalCount(principal) + difference
    if (count === 0) this.#perPrincipal.delete(principal)
    else this.#perPrincipal.set(principal, count)
  }

  #principalCount (principal: string): number {
    return this.#perPrincipal.get(principal) ?? 0
  }

  #ownLog (state: SessionState): Log {
    if (state.log === undefined) {
      state.log = new Log(this.#settings.log, state)
      state.sources.push({ log: state.log, from: state.openedAt, to: Infinity })
    }
    return state.log
  }

  #exit (state: SessionState, name: string): void {
    const room = this.#rooms.get(name) as Room
    room.members.delete(state)
    if (room.members.size === 0) this.#rooms.delete(name)
    for (const source of state.sources) if (source.log === room.log && source.to === Infinity) source.to = room.log.last
  }

  /** Drops the sources of channels that were left: those that brought nothing, and those whose entries are all trimmed. */
  #forget (state: SessionState): void {
    for (const source of [...state.sources]) {
      const { log, from, to } = source
      if (to === from) remove(state, source)
      else if (to <= log.trimmed) this.#drop(state, source, log.trimmedBy)
    }
  }

  /** Drops a source that there was something in, which the own log keeps. */
  #drop (state: SessionState, source: Source, reason: TrimReason): void {
    this.#ownLog(state).forget(source.to, reason)
    remove(state, source)
  }
}

function remove ({ sources }: SessionState, source: Source): void {
  sources.splice(sources.indexOf(source), 1)
}

function demandLife ({ endedBy }: SessionState): void {
  if (endedBy !== undefined) throw new SessionOver()
}
