import { SessionOver } from '../../errors.js'
import { Log, type EntryInput, type TrimReason } from '../../log/log.js'
import type { LogRange } from '../../log/log-range.js'
import { flushScheduler } from '../../stream/flush-scheduler.js'
import type { MessageQueue } from '../message-queue.js'
import { SessionState, type SessionData } from '../session-state.js'
import type { Store, StoreCallbacks, StoreSettings, StoreStats } from '../store.js'
import { ExpiryQueue } from './expiry-queue.js'
import { MemoryChannel } from './memory-channel.js'
import { MemoryLogs } from './memory-logs.js'
import { MemoryQueue } from './memory-queue.js'

/** Maximum number of channels that a session has left and whose entries it can still read. */
const MAX_LEFT_CHANNELS = 100

/** Creates the default store. It keeps everything in the memory of this process, for an app that runs as one process. */
export const memoryStore = (settings: StoreSettings, callbacks: StoreCallbacks): MemoryStore => new MemoryStore(settings, callbacks)

export class MemoryStore implements Store {
  readonly #logs: MemoryLogs
  readonly #settings: StoreSettings
  readonly #callbacks: StoreCallbacks
  readonly #broadcasts: Log
  /** Open sessions, and closed ones whose clients may not have received the `close` event yet. */
  readonly #sessions = new Map<string, SessionState>()
  /** The closed sessions in `#sessions`, in the order in which they were closed. */
  readonly #closed = new Set<SessionState>()
  readonly #expiryQueue: ExpiryQueue<SessionState>
  readonly #channels = new Map<string, MemoryChannel>()
  readonly #countByPrincipal = new Map<string, number>()
  #openCount = 0

  constructor (settings: StoreSettings, callbacks: StoreCallbacks, logs = new MemoryLogs()) {
    this.#logs = logs
    this.#settings = settings
    this.#callbacks = callbacks
    this.#broadcasts = new Log(settings.channelLog, { onAppend: () => { callbacks.onBroadcast() } })
    this.#expiryQueue = new ExpiryQueue(settings.resumeTimeout, state => { this.#expire(state) })
  }

  open (id: string, principal: string | undefined): SessionState | undefined {
    const { maxSessions, maxSessionsPerPrincipal } = this.#settings
    if (this.#openCount >= maxSessions) return undefined
    if (principal !== undefined && this.#principalCount(principal) >= maxSessionsPerPrincipal) return undefined
    this.#adjustCounts(principal, 1)
    const { head } = this.#logs
    // An array literal takes less memory than an array that grows by `push`.
    const state = new SessionState(id, principal, head, [{ log: this.#broadcasts, from: head, to: Infinity }])
    this.#sessions.set(id, state)
    return state
  }

  find (id: string): SessionState | undefined {
    return this.#sessions.get(id)
  }

  findCached (id: string): SessionState | undefined {
    return this.#sessions.get(id)
  }

  cancelExpiry (state: SessionState): void {
    if (state.closeReason === undefined) this.#expiryQueue.delete(state)
  }

  attach (state: SessionState): number {
    this.#dropUnreadableRanges(state)
    return this.#logs.head
  }

  detach (state: SessionState): void {
    if (state.closeReason === undefined) this.#expiryQueue.set(state)
  }

  update (state: SessionState, change: SessionData): void {
    assertOpen(state)
    state.data = { ...state.data, ...change }
  }

  join (state: SessionState, name: string): void {
    assertOpen(state)
    state.channels ??= new Set()
    if (state.channels.has(name)) return
    let channel = this.#channels.get(name)
    if (channel === undefined) {
      channel = new MemoryChannel(this.#settings.channelLog)
      this.#channels.set(name, channel)
    }
    channel.members.add(state)
    state.channels.add(name)
    state.ranges.push({ log: channel.log, from: channel.log.lastPosition, to: Infinity })
  }

  leave (state: SessionState, name: string): void {
    if (state.channels?.delete(name) !== true) return
    this.#removeMember(state, name)
    this.#dropUnreadableRanges(state)
    const leftRanges = state.ranges.filter(({ to }) => to < Infinity)
    if (leftRanges.length <= MAX_LEFT_CHANNELS) return
    // After this, a client misses entries only if its connection does not accept more.
    flushScheduler.flushAll()
    this.#dropRange(state, leftRanges.reduce((oldest, range) => range.to < oldest.to ? range : oldest), 'count')
  }

  end (state: SessionState, reason: string, keep: boolean): boolean {
    if (state.closeReason !== undefined) return false
    state.closeReason = reason
    // A closed session does not receive later broadcasts.
    for (const range of state.ranges) if (range.log === this.#broadcasts) range.to = this.#broadcasts.lastPosition
    for (const channel of state.channels ?? []) this.#removeMember(state, channel)
    state.channels = undefined
    this.#dropUnreadableRanges(state)
    this.#adjustCounts(state.principal, -1)
    if (keep) this.#keepClosed(state)
    else this.#remove(state)
    return true
  }

  send (state: SessionState, entry: EntryInput): void {
    assertOpen(state)
    this.#logs.append(this.#ownLog(state), entry)
  }

  publish (name: string, entry: EntryInput): void {
    const channel = this.#channels.get(name)
    if (channel !== undefined) this.#logs.append(channel.log, entry)
  }

  broadcast (entry: EntryInput): void {
    this.#logs.append(this.#broadcasts, entry)
  }

  /** Nothing to do: it is called only for sessions without a log, which have nothing unsent. */
  waitForDrain (): void {}

  messageQueue (): MessageQueue {
    return new MemoryQueue(this.#settings.maxWaitingMessages, this.#settings.maxIdempotencyKeys)
  }

  count (channel: string): number {
    return this.#channels.get(channel)?.members.size ?? 0
  }

  stats (): StoreStats {
    return { sessions: this.#openCount, channels: this.#channels.size }
  }

  close (reason: string): readonly SessionState[] {
    const closed = [...this.#sessions.values()].filter(state => this.end(state, reason, true))
    this.#expiryQueue.clear()
    this.#logs.close()
    return closed
  }

  #expire (state: SessionState): void {
    const wasOpen = this.end(state, 'expired', false)
    if (wasOpen) this.#callbacks.onExpire(state)
    else this.#remove(state)
  }

  /** Keeps a closed session for `resumeTimeout`, so that its client can receive the `close` event, but at most `maxSessions` closed sessions. */
  #keepClosed (state: SessionState): void {
    this.#expiryQueue.set(state)
    this.#closed.add(state)
    const [oldest] = this.#closed
    if (oldest !== undefined && this.#closed.size > this.#settings.maxSessions) this.#remove(oldest)
  }

  #remove (state: SessionState): void {
    this.#expiryQueue.delete(state)
    this.#sessions.delete(state.id)
    this.#closed.delete(state)
    if (state.log !== undefined) this.#logs.release(state.log)
    state.listener?.onRemove()
  }

  #adjustCounts (principal: string | undefined, difference: 1 | -1): void {
    this.#openCount += difference
    if (principal === undefined) return
    const count = this.#principalCount(principal) + difference
    if (count === 0) this.#countByPrincipal.delete(principal)
    else this.#countByPrincipal.set(principal, count)
  }

  #principalCount (principal: string): number {
    return this.#countByPrincipal.get(principal) ?? 0
  }

  #ownLog (state: SessionState): Log {
    if (state.log === undefined) {
      state.log = new Log(this.#settings.log, state)
      state.ranges.push({ log: state.log, from: state.startPosition, to: Infinity })
    }
    return state.log
  }

  #removeMember (state: SessionState, name: string): void {
    const channel = this.#channels.get(name) as MemoryChannel
    channel.members.delete(state)
    if (channel.members.size === 0) this.#channels.delete(name)
    for (const range of state.ranges) if (range.log === channel.log && range.to === Infinity) range.to = channel.log.lastPosition
  }

  /** Drops the ranges with a fixed `to` that contain no entries, or whose entries are all trimmed. */
  #dropUnreadableRanges (state: SessionState): void {
    for (const range of [...state.ranges]) {
      const { log, from, to } = range
      if (to === from) removeRange(state, range)
      else if (to <= log.trimmedPosition) this.#dropRange(state, range, log.trimReason)
    }
  }

  /** Drops a range that had entries. The session's own log records the loss, so that the stream reports a gap. */
  #dropRange (state: SessionState, range: LogRange, reason: TrimReason): void {
    this.#ownLog(state).markTrimmed(range.to, reason)
    removeRange(state, range)
  }
}

function removeRange ({ ranges }: SessionState, range: LogRange): void {
  ranges.splice(ranges.indexOf(range), 1)
}

function assertOpen ({ closeReason }: SessionState): void {
  if (closeReason !== undefined) throw new SessionOver()
}
