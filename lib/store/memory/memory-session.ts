import type { Log, LogBounds, LogListener } from '../../log/log.js'
import type { LogRange } from '../../log/log-range.js'
import { SessionState } from '../session-state.js'
import type { MemoryQueue } from './memory-queue.js'

/** Sessions whose number is limited: all of a store, or those of one principal. */
export class SessionGroup {
  /** All sessions of the group, open and closed. */
  readonly sessions = new Set<MemorySession>()
  /** The closed sessions, in the order in which they were closed. */
  readonly closed = new Set<MemorySession>()
  /** The open sessions without a stream that have never sent a message, in the order in which they lost their stream. */
  readonly idle = new Set<MemorySession>()

  get size (): number {
    return this.sessions.size
  }
}

/** A channel. After an append to its log, the streams of all members are notified. */
export class MemoryChannel implements LogListener {
  readonly name: string
  /** The members, and the ranges in which they read the log. */
  readonly members = new Map<MemorySession, MemoryRange>()
  readonly log: Log
  /** Number of ranges of the log: those of the members, and those of former members. */
  rangeCount = 0
  /** The position of the newest entry that is not part of the history. */
  historyStart = 0
  #isKept = false

  constructor (name: string, createLog: (channel: MemoryChannel) => Log) {
    this.name = name
    this.log = createLog(this)
  }

  /** Whether the channel exists: it has members, or entries that are kept. */
  get isInUse (): boolean {
    return this.members.size > 0 || (this.#isKept && this.log.length > 0)
  }

  /** Keeps the entries for a time in milliseconds, also without members. */
  keep (time: number, bounds: LogBounds): void {
    this.#isKept = true
    this.log.bounds = { ...bounds, age: Math.max(bounds.age, time) }
  }

  /** Drops the history, and does not keep the entries without members any more. */
  clear (): void {
    this.#isKept = false
    this.historyStart = this.log.lastPosition
  }

  onAppend (): void {
    for (const member of this.members.keys()) member.onAppend()
  }
}

/** A range of a session in the memory store. */
export class MemoryRange implements LogRange {
  readonly log: Log
  readonly from: number
  to = Infinity
  /** The channel of the log; `undefined` if it is not the log of a channel. */
  readonly channel: MemoryChannel | undefined
  /** Index in the ranges of the session, so that removing the range takes the same time for any number of them. */
  index = 0
  /** Size of the entries in the range, in bytes; 0 until the session has left the channel. */
  bytes = 0
  readonly #bytesBefore: number

  constructor (log: Log, from: number, channel?: MemoryChannel) {
    this.log = log
    this.from = from
    this.channel = channel
    this.#bytesBefore = log.appendedBytes
  }

  /** Excludes everything that is appended from now on. */
  end (): void {
    this.to = this.log.lastPosition
    this.bytes = Math.min(this.log.appendedBytes - this.#bytesBefore, this.log.bytes)
  }
}

/** A session in the memory store. */
export class MemorySession extends SessionState {
  declare readonly ranges: MemoryRange[]
  /** The range of the log of broadcasts. */
  readonly broadcasts: MemoryRange
  /** The ranges of channels that the session has left, the oldest first. */
  left: Set<MemoryRange> | undefined
  /** Size of the entries in these ranges, in bytes. */
  leftBytes = 0
  /** The groups that the session counts for. */
  readonly groups: readonly SessionGroup[]
  /** The queue of the session's messages, from the first one on. */
  queue: MemoryQueue | undefined

  constructor (id: string, principal: string | undefined, startPosition: number, broadcasts: Log, groups: readonly SessionGroup[]) {
    const range = new MemoryRange(broadcasts, startPosition)
    // An array literal takes less memory than an array that grows by `push`.
    super(id, principal, startPosition, [range])
    this.broadcasts = range
    this.groups = groups
  }

  addRange (range: MemoryRange): void {
    range.index = this.ranges.length
    this.ranges.push(range)
  }

  removeRange (range: MemoryRange): void {
    const last = this.ranges.pop() as MemoryRange
    if (last !== range) {
      this.ranges[range.index] = last
      last.index = range.index
    }
    if (this.left?.delete(range) === true) this.leftBytes -= range.bytes
  }

  /** Keeps the range of a channel that the session has left. */
  addLeft (range: MemoryRange): void {
    this.left ??= new Set()
    this.left.add(range)
    this.leftBytes += range.bytes
  }
}
