import { SessionOver, TooManyChannels } from '../../errors.js'
import { now } from '../../clock.js'
import { assertFits, Log, type EntryInput, type LogBounds, type LogListener, type TrimReason } from '../../log/log.js'
import { flushScheduler } from '../../stream/flush-scheduler.js'
import type { MessageQueue } from '../message-queue.js'
import type { SessionData, SessionState } from '../session-state.js'
import type { JoinResult, Store, StoreCallbacks, StoreSettings, StoreStats } from '../store.js'
import { ExpiryQueue } from './expiry-queue.js'
import { MemoryLimit } from './memory-limit.js'
import { MemoryLogs } from './memory-logs.js'
import { MemoryQueue } from './memory-queue.js'
import { MemoryRuns } from './memory-runs.js'
import { MemoryChannel, MemoryRange, MemorySession, SessionGroup } from './memory-session.js'

/** Maximum number of channels that a session has left and whose entries it can still read. */
const MAX_LEFT_CHANNELS = 100
/** Maximum size of these entries together, in bytes. Those of the channel that the session left last are kept in any case. */
const MAX_LEFT_BYTES = 1024 * 1024
/** Maximum size, in bytes, of the log of a session after its `close` event was written, and of what it reads of left channels. Not 0, because the connection may lose what was written last. */
const MAX_CLOSED_BYTES = 64 * 1024

/** Creates the default store. It keeps everything in the memory of this process, for an app that runs as one process. */
export const memoryStore = (settings: StoreSettings, callbacks: StoreCallbacks): MemoryStore => new MemoryStore(settings, callbacks)

export class MemoryStore implements Store {
  readonly runs: MemoryRuns
  readonly #logs: MemoryLogs
  readonly #settings: StoreSettings
  readonly #callbacks: StoreCallbacks
  readonly #limit: MemoryLimit
  readonly #broadcasts: Log
  /** Open sessions, and closed ones whose clients may not have received the `close` event yet. */
  readonly #sessions = new Map<string, MemorySession>()
  readonly #all = new SessionGroup()
  /** The groups of a session without a principal. */
  readonly #onlyAll: readonly SessionGroup[] = [this.#all]
  readonly #groupByPrincipal = new Map<string, SessionGroup>()
  readonly #expiryQueue: ExpiryQueue<MemorySession>
  /** The channels that have members, or entries that are kept. */
  readonly #channels = new Map<string, MemoryChannel>()

  constructor (settings: StoreSettings, callbacks: StoreCallbacks, logs = new MemoryLogs()) {
    this.#logs = logs
    this.#settings = settings
    this.#callbacks = callbacks
    this.#limit = new MemoryLimit(settings.maxBytes)
    this.runs = new MemoryRuns(settings, logs, this.#limit, (sessionId, entry) => {
      const session = this.#sessions.get(sessionId)
      if (session === undefined || session.closeReason !== undefined) return false
      this.send(session, entry)
      return true
    })
    this.#broadcasts = this.#createLog(settings.channelLog, { onAppend: () => { callbacks.onBroadcast() } })
    this.#broadcasts.compressionScope = settings.compressionScope()
    this.#expiryQueue = new ExpiryQueue(settings.resumeTimeout, session => { this.#expire(session) })
  }

  open (id: string, principal: string | undefined): MemorySession | undefined {
    const { maxSessions, maxSessionsPerPrincipal } = this.#settings
    const groups = principal === undefined ? this.#onlyAll : [this.#all, this.#groupByPrincipal.get(principal) ?? new SessionGroup()]
    const [, ownGroup] = groups
    if (ownGroup !== undefined && !this.#makeRoom(ownGroup, maxSessionsPerPrincipal)) return undefined
    if (!this.#makeRoom(this.#all, maxSessions)) return undefined
    if (ownGroup !== undefined) this.#groupByPrincipal.set(String(principal), ownGroup)
    const session = new MemorySession(id, principal, this.#logs.newestPosition, this.#broadcasts, groups)
    for (const group of groups) group.sessions.add(session)
    this.#sessions.set(id, session)
    return session
  }

  find (id: string): SessionState | undefined {
    return this.#sessions.get(id)
  }

  findCached (id: string): SessionState | undefined {
    return this.#sessions.get(id)
  }

  findByPrincipal (principal: string): SessionState[] {
    const { sessions = [] } = this.#groupByPrincipal.get(principal) ?? {}
    return [...sessions].filter(({ closeReason }) => closeReason === undefined)
  }

  cancelExpiry (session: MemorySession): void {
    if (session.closeReason !== undefined) return
    this.#expiryQueue.delete(session)
    for (const { idle } of session.groups) idle.delete(session)
  }

  attach (session: MemorySession): number | undefined {
    if (!this.#sessions.has(session.id)) return undefined
    this.#dropUnreadable(session)
    return this.#logs.newestPosition
  }

  detach (session: MemorySession): void {
    if (session.closeReason !== undefined) {
      // Its logs are released when it is removed.
      if (this.#sessions.has(session.id)) this.#shrinkClosed(session)
      return
    }
    this.#expiryQueue.set(session)
    if (session.queue === undefined) for (const { idle } of session.groups) idle.add(session)
  }

  authorize (session: SessionState, until: number): void {
    session.authorizedUntil = Math.max(until, session.authorizedUntil ?? 0)
  }

  update (session: SessionState, change: SessionData): void {
    assertOpen(session)
    session.data = { ...session.data, ...change }
  }

  join (session: MemorySession, name: string, history: number): JoinResult {
    assertOpen(session)
    const { maxChannelsPerSession } = this.#settings
    session.channels ??= new Set()
    if (!session.channels.has(name) && session.channels.size >= maxChannelsPerSession) throw new TooManyChannels(maxChannelsPerSession)
    session.channels.add(name)
    const channel = this.#findChannel(name) ?? this.#createChannel(name)
    const isNew = !channel.members.has(session)
    const { log, from } = channel.members.get(session) ?? this.#addMember(session, channel)
    if (history > 0) log.expire(now())
    return { isNew, frames: log.framesBetween(channel.historyStart, from, history, session.id) }
  }

  leave (session: MemorySession, name: string): boolean {
    if (session.closeReason !== undefined || session.channels?.delete(name) !== true) return false
    this.#removeMember(session, name)
    for (const range of session.left as Set<MemoryRange>) this.#dropIfUnreadable(session, range)
    this.#limitLeft(session)
    return true
  }

  end (session: MemorySession, reason: string, keep: boolean, ifUnauthorizedAt = Infinity): boolean {
    if (session.closeReason !== undefined || (session.authorizedUntil ?? 0) > ifUnauthorizedAt) return false
    session.closeReason = reason
    session.queue?.close()
    // A closed session does not receive later broadcasts.
    session.broadcasts.end()
    for (const channel of session.channels ?? []) this.#removeMember(session, channel)
    for (const { idle } of session.groups) idle.delete(session)
    if (keep) this.#keepClosed(session)
    else this.#remove(session)
    return true
  }

  send (session: MemorySession, entry: EntryInput): void {
    assertOpen(session)
    this.#append(this.#ownLog(session), entry)
  }

  publish (name: string, entry: EntryInput, keep: number): void {
    const { channelLog } = this.#settings
    assertFits(entry, channelLog)
    const channel = this.#findChannel(name) ?? (keep > 0 ? this.#createChannel(name) : undefined)
    if (channel === undefined) return
    if (keep > 0) channel.keep(keep, channelLog)
    this.#append(channel.log, entry)
  }

  broadcast (entry: EntryInput): void {
    this.#append(this.#broadcasts, entry)
  }

  /** Nothing to do: it is called only for sessions without a log, which have nothing unsent. */
  waitForDrain (): void {}

  messageQueue (session: MemorySession): MessageQueue {
    // A client that sends messages is more than a connection that somebody has opened, so its session is not evicted.
    for (const { idle } of session.groups) idle.delete(session)
    session.queue ??= new MemoryQueue(this.#settings, this.#limit)
    return session.queue
  }

  count (channel: string): number {
    return this.#channels.get(channel)?.members.size ?? 0
  }

  members (channel: string): SessionState[] {
    return [...this.#channels.get(channel)?.members.keys() ?? []]
  }

  clear (name: string): void {
    const channel = this.#channels.get(name)
    if (channel === undefined) return
    channel.clear()
    if (channel.isInUse) return
    this.#channels.delete(name)
    if (channel.rangeCount === 0) this.#logs.release(channel.log)
  }

  stats (): StoreStats {
    return { sessions: this.#all.size - this.#all.closed.size, channels: this.#channels.size }
  }

  close (reason: string): readonly SessionState[] {
    const closed = [...this.#sessions.values()].filter(session => this.end(session, reason, true))
    this.#expiryQueue.clear()
    this.runs.close()
    this.#logs.close()
    return closed
  }

  #findChannel (name: string): MemoryChannel | undefined {
    const channel = this.#channels.get(name)
    if (channel === undefined || channel.members.size > 0) return channel
    // The channel is removed if its last entries are too old.
    channel.log.expire(now())
    return this.#channels.get(name)
  }

  #createChannel (name: string): MemoryChannel {
    const channel = new MemoryChannel(name, channel => new Log(this.#settings.channelLog, channel, log => {
      this.#limit.update(log)
      this.#removeIfUnused(channel)
    }))
    channel.log.compressionScope = this.#settings.compressionScope(name)
    this.#channels.set(name, channel)
    return channel
  }

  #removeIfUnused (channel: MemoryChannel): void {
    if (!channel.isInUse && this.#channels.get(channel.name) === channel) this.#channels.delete(channel.name)
  }

  #createLog (bounds: LogBounds, listener: LogListener): Log {
    return new Log(bounds, listener, log => { this.#limit.update(log) })
  }

  #append (log: Log, entry: EntryInput): void {
    this.#logs.append(log, entry)
    this.#limit.enforce()
  }

  #expire (session: MemorySession): void {
    const wasOpen = this.end(session, 'expired', false)
    if (wasOpen) this.#callbacks.onExpire(session)
    else this.#remove(session)
  }

  /** Makes room for one more session, if necessary and possible: removes the oldest closed session, or evicts the session that has waited longest for its client, among those that have never sent a message. */
  #makeRoom ({ size, closed, idle }: SessionGroup, maxSize: number): boolean {
    if (size < maxSize) return true
    const [oldestClosed] = closed
    const [longestIdle] = idle
    if (oldestClosed !== undefined) {
      this.#remove(oldestClosed)
    } else if (longestIdle !== undefined) {
      this.end(longestIdle, 'evicted', false)
      this.#callbacks.onExpire(longestIdle)
    }
    return oldestClosed !== undefined || longestIdle !== undefined
  }

  /** Keeps a closed session for `resumeTimeout`, so that its client can receive the `close` event. */
  #keepClosed (session: MemorySession): void {
    this.#dropUnreadable(session)
    this.#limitLeft(session)
    this.#expiryQueue.set(session)
    for (const { closed } of session.groups) closed.add(session)
  }

  /** Drops most of what a closed session can read, if a stream has written everything, including the `close` event. */
  #shrinkClosed (session: MemorySession): void {
    const isUnread = ({ log, to }: MemoryRange): boolean => Math.min(log.lastPosition, to) > session.cursor
    if (session.ranges.some(isUnread)) return
    session.log?.shrink(MAX_CLOSED_BYTES)
    for (const range of session.left ?? []) if (session.leftBytes > MAX_CLOSED_BYTES) this.#dropRange(session, range, 'bytes')
  }

  #remove (session: MemorySession): void {
    const { id, principal, groups, ranges, log } = session
    this.#expiryQueue.delete(session)
    this.#sessions.delete(id)
    for (const group of groups) {
      group.sessions.delete(session)
      group.closed.delete(session)
    }
    if (groups.at(-1)?.size === 0) this.#groupByPrincipal.delete(String(principal))
    for (const range of ranges.splice(0)) this.#releaseRange(range)
    if (log !== undefined) this.#logs.release(log)
    session.listener?.onAbort()
  }

  #ownLog (session: MemorySession): Log {
    if (session.log === undefined) {
      session.log = this.#createLog(this.#settings.log, session)
      session.addRange(new MemoryRange(session.log, session.startPosition))
    }
    return session.log
  }

  #addMember (session: MemorySession, channel: MemoryChannel): MemoryRange {
    const range = new MemoryRange(channel.log, channel.log.lastPosition, channel)
    channel.members.set(session, range)
    channel.rangeCount++
    session.addRange(range)
    return range
  }

  #removeMember (session: MemorySession, name: string): void {
    const channel = this.#channels.get(name) as MemoryChannel
    const range = channel.members.get(session) as MemoryRange
    channel.members.delete(session)
    this.#removeIfUnused(channel)
    range.end()
    session.addLeft(range)
    this.#dropIfUnreadable(session, range)
  }

  /** Drops the oldest ranges of channels that a session has left, above the limits. */
  #limitLeft (session: MemorySession): void {
    const { left } = session
    if (left === undefined) return
    const isOverLimit = (): boolean => left.size > MAX_LEFT_CHANNELS || (left.size > 1 && session.leftBytes > MAX_LEFT_BYTES)
    if (!isOverLimit()) return
    // After this, a client misses entries only if its connection does not accept more.
    flushScheduler.flushAll()
    for (const range of left) {
      if (!isOverLimit()) break
      this.#dropRange(session, range, left.size > MAX_LEFT_CHANNELS ? 'count' : 'bytes')
    }
  }

  #dropUnreadable (session: MemorySession): void {
    // Backwards, because a range that is dropped is replaced by the last one.
    for (let index = session.ranges.length - 1; index >= 0; index--) this.#dropIfUnreadable(session, session.ranges[index] as MemoryRange)
  }

  /** Drops a range with a fixed `to` that contains no entries, or whose entries are all trimmed. */
  #dropIfUnreadable (session: MemorySession, range: MemoryRange): void {
    const { log, from, to } = range
    if (to === from) this.#removeRange(session, range)
    else if (to <= log.trimmedPosition) this.#dropRange(session, range, log.trimReason)
  }

  /** Drops a range that had entries. The session's own log records the loss, so that the stream reports a gap. */
  #dropRange (session: MemorySession, range: MemoryRange, reason: TrimReason): void {
    this.#ownLog(session).markTrimmed(range.to, reason)
    this.#removeRange(session, range)
  }

  #removeRange (session: MemorySession, range: MemoryRange): void {
    session.removeRange(range)
    this.#releaseRange(range)
  }

  /** A channel that is not in use keeps its log only while a former member may still read it. */
  #releaseRange ({ channel }: MemoryRange): void {
    if (channel !== undefined && --channel.rangeCount === 0 && !channel.isInUse) this.#logs.release(channel.log)
  }
}

function assertOpen ({ closeReason }: SessionState): void {
  if (closeReason !== undefined) throw new SessionOver()
}
