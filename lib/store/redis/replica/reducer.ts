import { noop } from '../../../awaitable.js'
import { now } from '../../../clock.js'
import type { StoreSettings } from '../../store.js'
import { flushScheduler } from '../../../stream/flush-scheduler.js'
import { LogReducer, runAll, splitFirst, type LogReducerListener } from './log-reducer.js'
import { LogReplica, parseEntry, type LogPart } from './log-replica.js'
import { RunReducer, type KnownRuns } from './run-reducer.js'
import { RunReplica } from './run-replica.js'
import { parseRecord, SessionReplica, type LeftRange, type SessionRecord } from './session-replica.js'

/** What the reducer causes outside of its state. */
export interface ReducerListener extends LogReducerListener {
  onBroadcast (): void
  /** The store was restored to an earlier state, so the newest changes of sessions may be lost. */
  onRollback (): void
  /** The messages of a ticket are next. */
  onTurn (ticketName: string): void
  /** A message with an idempotency key was handled or refused. */
  onResponse (sessionId: string, key: string): void
  /** Messages that wait for one of another node may be next. */
  onQueuesChanged (): void
  onSessionClosed (sessionId: string): void
  /** A session was closed that this process does not know, or not yet. */
  onUnknownClose (): void
  /** According to Redis, the stream of a session is in this process, but it is not. */
  onNoStream (sessionId: string): void
  /** Another node needs to know how far a stream has written. */
  onCursorRequest (state: SessionReplica): void
  /** A session has changed, and its record has to be read to find out what has changed. */
  onStale (state: SessionReplica): void
}

/** The sessions that are in use in this process. */
export interface KnownSessions {
  get (id: string): SessionReplica | undefined
}

/** What is read: a log, or a session or a run that this process uses without reading its log. */
export type ReadItem = LogItem | { readonly unverified: SessionReplica | RunReplica }

/** The range of a log, and for the log of a session also the epoch of the stream and the version of the record. */
export interface LogItem {
  readonly replica: LogReplica
  readonly after: number
  readonly through: number
  readonly epoch: number
  readonly version: number
}

export type ReadValue = LogPart | string

type Settings = Pick<StoreSettings, 'log' | 'channelLog' | 'runLog' | 'compressionScope'>

/** Maximum number of channels that a session has left and whose entries it can still read, as in `leave.lua`. */
const MAX_LEFT_CHANNELS = 100

/** The notifications of changes of the record of a session. Nodes with a newer version of this package may send others. */
const RECORD_CHANGES: ReadonlySet<string> = new Set(['joined', 'left', 'left_all', 'updated'])

/**
 * Applies everything that happens to sessions and logs, in one order: publications, and the replies of commands at their markers
 * in the inbox. It does nothing but change this state and call its listener.
 */
export class Reducer extends LogReducer {
  readonly broadcasts: LogReplica
  readonly channels = new Map<string, LogReplica>()
  /** The sessions with a stream in this process. */
  readonly attached = new Map<string, SessionReplica>()
  readonly runs: RunReducer
  nodeId = ''
  readonly #settings: Settings
  readonly #known: KnownSessions
  readonly #listener: ReducerListener

  constructor (settings: Settings, known: KnownSessions, knownRuns: KnownRuns, listener: ReducerListener) {
    super(listener)
    this.#settings = settings
    this.#known = known
    this.#listener = listener
    this.runs = new RunReducer(this, knownRuns, settings.runLog, listener)
    this.broadcasts = new LogReplica('broadcasts', '', settings.channelLog, { onAppend: () => { listener.onBroadcast() } })
    this.broadcasts.log.compressionScope = settings.compressionScope()
    this.broadcasts.neededFrom = 0
    this.incomplete.add(this.broadcasts)
  }

  /** Applies a publication that all nodes receive. */
  applyPublication (text: string): void {
    if (text.startsWith('entry ')) this.append(this.broadcasts, parseEntry(text, 'entry '.length))
    else if (text.startsWith('rollback ')) this.rollback(Number(text.slice('rollback '.length)))
    else if (text === 'queues_changed') this.#listener.onQueuesChanged()
  }

  /** Applies the publication of an entry of a channel. */
  applyChannelPublication (name: string, text: string): void {
    const replica = this.channels.get(name)
    if (replica === undefined) return
    const [keep] = splitFirst(text)
    this.#setKeep(replica, keep)
    this.append(replica, parseEntry(text, keep.length + 1))
  }

  /** Applies a notification of the inbox. */
  applyNotification (kind: string, text: string): void {
    const [id, rest] = splitFirst(text)
    if (kind === 'turn') this.#listener.onTurn(text)
    else if (kind === 'response') this.#listener.onResponse(id, rest)
    else if (kind === 'closed') this.#applyClose(id, rest)
    else if (kind.startsWith('run_')) this.runs.applyNotification(id, kind, rest)
    else {
      const state = this.attached.get(id)
      if (state !== undefined) this.#applyStreamNotification(state, kind, rest)
      else if (kind === 'stream_check') this.#listener.onNoStream(id)
    }
  }

  /** The reply of `acquire`: the record of a session, and its log after a cursor. */
  applyAcquire (state: SessionReplica, cursor: number, part: LogPart): void {
    const record = parseRecord(part[5]) as SessionRecord
    this.#startStream(state, cursor, record)
    const ownLog = state.ownLog as LogReplica
    // If the replica exists already, the loader reads what it lacks before `completeFrom`.
    if (ownLog.completeFrom === Infinity) ownLog.add(part, cursor, this.clockOffset)
    if (ownLog.isLive) this.#applyStreamRecord(state, record)
    this.releaseReaders(ownLog)
  }

  /** The reply of `acquire` if its place among the publications is lost: it may be out of date, so the session has to be read. */
  applyOutdatedAcquire (state: SessionReplica, cursor: number, part: LogPart): void {
    const record = parseRecord(part[5]) as SessionRecord
    this.#startStream(state, cursor, record)
    state.streamVersion = 0
  }

  /** The reply of `read`. There may be fewer values than items. */
  applyRead (items: readonly ReadItem[], values: readonly ReadValue[]): void {
    for (const [index, value] of values.entries()) {
      const item = items[index] as ReadItem
      if ('unverified' in item) this.#verify(item.unverified, value)
      // While the command was in progress, the replica became live or was invalidated, so this range is outdated.
      else if (item.replica.isLive !== (item.through !== Infinity)) continue
      else if (item.replica.kind === 'session') this.#readSession(item, value as LogPart | string)
      else if (item.replica.kind === 'run') this.runs.applyRead(item.replica, item.after, value as LogPart)
      else {
        const part = value as LogPart
        if (item.replica.kind === 'channel') this.#setKeep(item.replica, part[5]?.[0])
        item.replica.add(part, item.after, this.clockOffset)
        this.releaseReaders(item.replica)
        if (item.replica === this.broadcasts) this.#continueAll()
      }
    }
    this.trimGuard.reset()
  }

  /** Applies the positions of a reply. */
  advance (position: number, rollbackPosition: number): void {
    this.advanceTo(position)
    this.rollback(rollbackPosition)
  }

  /** The store may have lost what was appended up to a position. */
  rollback (position: number): void {
    if (position <= this.rollbackPosition) return
    this.rollbackPosition = position
    this.advanceTo(position)
    for (const { log } of this.#replicas()) log.markTrimmed(position, 'store')
    for (const state of this.attached.values()) state.streamVersion = 0
    this.#listener.onRollback()
    this.#listener.onMissedPublication()
  }

  /** Publications may be missing: nothing is known to be complete until it has been read. */
  invalidate (sessions: Iterable<SessionReplica>, runs: Iterable<RunReplica>): void {
    for (const replica of this.#replicas()) {
      replica.invalidate()
      this.incomplete.add(replica)
    }
    for (const state of sessions) if (state.epoch === 0) this.unverified.add(state)
    for (const run of runs) if (run.replica === undefined) this.unverified.add(run)
  }

  /** The stream of a session may be out of date: its log has to be read before it continues. */
  invalidateStream ({ ownLog }: SessionReplica): void {
    if (ownLog === undefined) return
    ownLog.invalidate()
    this.incomplete.add(ownLog)
    this.#listener.onIncomplete()
  }

  /** Removes the stream of a session from this process. */
  detach (state: SessionReplica): void {
    const { ownLog } = state
    // While the log is not live, a close is ignored, because the next read of the log shows it. This log is not read any more, so the
    // session itself is checked.
    if (ownLog?.isLive === false && state.closeReason === undefined) {
      this.unverified.add(state)
      this.#listener.onIncomplete()
    }
    state.epoch = state.streamVersion = 0
    state.broadcastEndPosition = Infinity
    state.log = undefined
    state.ranges.length = 0
    state.leftRanges = []
    state.joinPositions.clear()
    for (const replica of state.replicas) replica.removeReader(state)
    state.replicas.clear()
    if (ownLog !== undefined) this.incomplete.delete(ownLog)
    state.ownLog = undefined
    this.attached.delete(state.id)
    runAll(state.completeWaiters)
    runAll(state.closeWaiters)
  }

  /** Removes a session that the store does not have any more. */
  removeSession (state: SessionReplica): void {
    const { listener } = state
    this.#listener.onSessionClosed(state.id)
    // After a rollback, the version is 0 until the record is read, which shows that the session has survived.
    const isLost = this.rollbackPosition > state.startPosition && state.version === 0
    const isNew = state.markClosed(isLost ? 'lost' : 'expired')
    this.detach(state)
    if (isNew && isLost) listener?.onLost()
    else {
      listener?.onAbort()
      // Later, because the aborted stream must not write a `close` event: its client may reconnect to another session.
      if (isNew) setImmediate(() => { listener?.onEnd() })
    }
  }

  /** Drops the replicas of channels that no stream reads. Returns their names. */
  prune (): string[] {
    const pruned: string[] = []
    for (const [name, replica] of this.channels) {
      if (replica.readers.size > 0) continue
      this.channels.delete(name)
      this.incomplete.delete(replica)
      pruned.push(name)
    }
    return pruned
  }

  /** Stops reading the channels that sessions have left, if all their entries are trimmed. */
  releaseLeftChannels (): void {
    for (const state of this.attached.values()) if (state.leftRanges.length > 0) this.#rebuild(state)
  }

  /** Drops entries that are too old. */
  expireEntries (): void {
    const time = now()
    for (const { log } of this.#replicas()) log.expire(time)
  }

  #applyStreamNotification (state: SessionReplica, kind: string, text: string): void {
    const { ownLog } = state
    if (kind === 'replaced') {
      const [epoch, isNewer] = splitFirst(text)
      if (Number(epoch) > state.epoch) this.#detachReplaced(state, isNewer === '1')
    } else if (kind === 'cursor_request') this.#listener.onCursorRequest(state)
    // Otherwise, the log and the record will be read.
    else if (ownLog?.isLive === true) {
      if (kind === 'entry') this.append(ownLog, parseEntry(text, 0))
      else if (RECORD_CHANGES.has(kind)) this.#applyRecordChange(state, kind, text)
    }
  }

  #applyRecordChange (state: SessionReplica, kind: string, text: string): void {
    const [version, rest] = splitFirst(text)
    state.streamVersion = Number(version)
    if (kind === 'left_all') {
      this.#applyLeaveAll(state, Number(version), JSON.parse(rest) as Array<[name: string, to: string]>)
      return
    }
    const [position, name] = splitFirst(rest)
    if (kind === 'joined') this.#applyJoin(state, Number(version), name, Number(position))
    else if (kind === 'left') this.#applyLeave(state, Number(version), name, Number(position))
    else if (Number(version) > state.version) this.#listener.onStale(state)
  }

  #applyJoin (state: SessionReplica, version: number, name: string, from: number): void {
    state.joinPositions.set(name, from)
    const replica = this.#addChannelReader(state, name, from)
    state.ranges.push({ log: replica.log, from, to: Infinity })
    this.applyChange(state, version, () => { (state.channels ??= new Set()).add(name) })
  }

  #applyLeave (state: SessionReplica, version: number, name: string, to: number): void {
    this.#endMembership(state, name, to)
    this.#rebuild(state)
    this.applyChange(state, version, () => { state.channels?.delete(name) })
  }

  /** Applies the leaves of a session that is about to be closed. */
  #applyLeaveAll (state: SessionReplica, version: number, left: ReadonlyArray<readonly [name: string, to: string]>): void {
    for (const [name, to] of left) this.#endMembership(state, name, Number(to))
    this.#rebuild(state)
    // `channels` stay, for the hooks.
    this.applyChange(state, version, noop)
  }

  /** Ends the membership in a channel, of which the session still reads the rest up to a position. */
  #endMembership (state: SessionReplica, channel: string, to: number): void {
    const from = state.joinPositions.get(channel) ?? to
    state.joinPositions.delete(channel)
    if (to <= Math.max(from, state.readFrom)) return
    state.leftRanges.push({ channel, from, to })
    if (state.leftRanges.length <= MAX_LEFT_CHANNELS) return
    // So that only clients whose connections do not accept more lose entries of the oldest range.
    flushScheduler.flushAll()
    const oldest = state.leftRanges.shift() as LeftRange
    const { log } = state.ownLog as LogReplica
    log.markTrimmed(oldest.to, 'count')
  }

  /** Applies a change of a session that leads to a version, if nothing else has changed since the known version. */
  applyChange (state: SessionReplica, version: number, apply: () => void): void {
    if (version <= state.version) return
    if (version === state.version + 1) {
      state.version = version
      // A reply can show a close earlier than the inbox shows the changes before it.
      if (state.closeReason === undefined) apply()
    } else this.#listener.onStale(state)
  }

  #applyClose (id: string, text: string): void {
    const state = this.#known.get(id)
    if (state === undefined) {
      this.#listener.onUnknownClose()
      return
    }
    this.#listener.onSessionClosed(id)
    const [position, reason] = splitFirst(text)
    if (state.epoch !== 0) {
      // Otherwise the session is read again, which shows the close.
      if (state.ownLog?.isLive !== true) return
      state.broadcastEndPosition = Number(position)
      this.#rebuild(state)
      runAll(state.closeWaiters)
    }
    // Also if the session was closed by this process: its stream may have been attached since.
    if (state.markClosed(reason) || state.epoch !== 0) state.listener?.onEnd()
  }

  /** Starts the stream that was acquired. */
  #startStream (state: SessionReplica, cursor: number, record: SessionRecord): void {
    const { id } = state
    // Now, because the stream may be replaced before its log is complete.
    if (state.apply(record, this.nodeId)) state.listener?.onEnd()
    // `apply` may have ignored the record, or compared it with an earlier id of this node. If another node has acquired the stream
    // since, a notification or the next `read` shows it.
    state.attachedRemotely = false
    state.readFrom = state.epoch === 0 ? cursor : Math.min(state.readFrom, cursor)
    state.epoch = record.epoch
    state.ownLog ??= new LogReplica('session', id, this.#settings.log)
    state.log = state.ownLog.log
    state.log.markTrimmed(this.rollbackPosition, 'store')
    this.attached.set(id, state)
    state.replicas.add(state.ownLog)
    this.addReader(state.ownLog, state, state.readFrom)
  }

  #readSession ({ replica, after, epoch }: LogItem, value: LogPart | string): void {
    const state = this.attached.get(replica.name)
    // The stream was acquired again meanwhile, and is read again.
    if (state === undefined || state.ownLog !== replica || state.epoch !== epoch) return
    if (value === 'gone') this.removeSession(state)
    else if (typeof value === 'string') this.#detachReplaced(state, value === 'replaced 1')
    else {
      const wasLive = replica.isLive
      replica.add(value, after, this.clockOffset)
      const record = wasLive || !replica.isLive ? undefined : parseRecord(value[5])
      if (record !== undefined) this.#applyStreamRecord(state, record)
      // The ranges of the stream are complete only after `#applyStreamRecord`.
      this.releaseReaders(replica)
    }
  }

  #verify (state: SessionReplica | RunReplica, value: ReadValue): void {
    this.unverified.delete(state)
    if (state instanceof RunReplica) {
      this.runs.applyRecord(state, value)
      return
    }
    if (state.epoch !== 0) return
    if (value === 'gone') this.removeSession(state)
    else if (Number(value) !== state.version) this.#listener.onStale(state)
  }

  /** Sets what the stream of a session reads. */
  #applyStreamRecord (state: SessionReplica, record: SessionRecord): void {
    state.apply(record, this.nodeId)
    state.streamVersion = record.version
    state.joinPositions = record.joinPositions
    state.leftRanges = record.leftRanges.filter(({ to }) => to > state.readFrom)
    state.broadcastEndPosition = record.broadcastEndPosition
    const replicas = new Set<LogReplica | undefined>([state.ownLog])
    for (const [name, from] of state.joinPositions) replicas.add(this.#addChannelReader(state, name, from))
    for (const { channel, from } of state.leftRanges) replicas.add(this.#addChannelReader(state, channel, from))
    this.#removeOtherReplicas(state, replicas)
    this.#rebuild(state)
    this.continueIfComplete(state)
    if (record.closeReason === undefined) return
    runAll(state.closeWaiters)
    state.markClosed(record.closeReason)
    state.listener?.onEnd()
  }

  /** Lets a session read a channel after a position. */
  #addChannelReader (state: SessionReplica, name: string, from: number): LogReplica {
    let replica = this.channels.get(name)
    if (replica === undefined) {
      replica = new LogReplica('channel', name, this.#settings.channelLog)
      replica.log.compressionScope = this.#settings.compressionScope(name)
      replica.log.markTrimmed(this.rollbackPosition, 'store')
      this.channels.set(name, replica)
    }
    state.replicas.add(replica)
    this.addReader(replica, state, Math.max(from, state.readFrom))
    return replica
  }

  /** Removes a session from the readers of other replicas. */
  #removeOtherReplicas (state: SessionReplica, replicas: ReadonlySet<LogReplica | undefined>): void {
    for (const replica of state.replicas) {
      if (replicas.has(replica)) continue
      replica.removeReader(state)
      state.replicas.delete(replica)
    }
  }

  /** Sets how long the entries of a channel are kept, in milliseconds, if that is longer than other logs. */
  #setKeep ({ log }: LogReplica, keep: string | null | undefined): void {
    const { channelLog } = this.#settings
    const age = Math.max(channelLog.age, Number(keep ?? 0))
    if (age !== log.bounds.age) log.bounds = { ...channelLog, age }
  }

  /** The streams that waited only for broadcasts continue. */
  #continueAll (): void {
    if (!this.broadcasts.isLive) return
    for (const state of this.attached.values()) this.continueIfComplete(state)
    this.#listener.onBroadcast()
  }

  protected override continueIfComplete (reader: SessionReplica | RunReplica): void {
    // The entries of channels that the session has left may be trimmed meanwhile.
    if (reader instanceof SessionReplica && reader.isComplete && reader.leftRanges.length > 0) this.#rebuild(reader)
    super.continueIfComplete(reader)
  }

  /** Another node has the stream of a session. `isNewer`: whether its request is known to be newer. */
  #detachReplaced (state: SessionReplica, isNewer: boolean): void {
    state.attachedRemotely = true
    state.listener?.onReplaced(isNewer)
    this.detach(state)
  }

  /** Rebuilds the ranges of logs that the stream of a session reads. */
  #rebuild (state: SessionReplica): void {
    const { ranges, startPosition, broadcastEndPosition, readFrom } = state
    const ownLog = state.ownLog as LogReplica
    ranges.length = 0
    ranges.push({ log: this.broadcasts.log, from: startPosition, to: broadcastEndPosition }, { log: ownLog.log, from: startPosition, to: Infinity })
    const replicas = new Set<LogReplica>([ownLog])
    for (const [name, joinedAt] of state.joinPositions) {
      const replica = this.channels.get(name) as LogReplica
      replicas.add(replica)
      ranges.push({ log: replica.log, from: joinedAt, to: Infinity })
    }
    const time = now()
    state.leftRanges = state.leftRanges.filter(range => {
      const replica = this.channels.get(range.channel) as LogReplica
      const { log } = replica
      const start = Math.max(range.from, readFrom)
      log.expire(time)
      if (replica.isLive && replica.covers(start) && log.nextPosition(start) > range.to) {
        // All entries are trimmed or replaced. The stream reports the gap because of the trimmed position of the own log.
        if (log.trimmedPosition > start) ownLog.log.markTrimmed(Math.min(log.trimmedPosition, range.to), log.trimReason)
        else if (log.lastPosition < range.to) ownLog.log.markTrimmed(range.to, 'age')
        return false
      }
      replicas.add(replica)
      ranges.push({ log, from: range.from, to: range.to })
      return true
    })
    const wasWaiting = state.incompleteLogCount > 0
    this.#removeOtherReplicas(state, replicas)
    // The stream may have waited only for a channel that the session has left.
    if (wasWaiting) this.continueIfComplete(state)
  }

  * #replicas (): Iterable<LogReplica> {
    yield this.broadcasts
    yield * this.channels.values()
    for (const { ownLog } of this.attached.values()) if (ownLog !== undefined) yield ownLog
    for (const { replica } of this.runs.followed.values()) yield replica as LogReplica
  }
}
