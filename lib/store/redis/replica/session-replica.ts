import { SessionState, type SessionData } from '../../session-state.js'
import type { LogReader, LogReplica } from './log-replica.js'

/** What a session reads of a channel that it has left. */
export interface LeftRange {
  readonly channel: string
  readonly from: number
  readonly to: number
}

/** What decides whether the streams of this process may write. */
export interface WriteGuard {
  /** Whether other nodes may treat this one as failed. */
  readonly isFenced: boolean
  /** Whether broadcasts may be missing, which every session reads. */
  readonly mayMissBroadcasts: boolean
}

/** The state of a session in this process, and, while its stream is in this process, what the stream reads. */
export class SessionReplica extends SessionState implements LogReader {
  /** The version of the newest record or change that was applied. */
  version = 0
  /** For each running handler of the session: the id of this node when the handler started. */
  readonly handlerNodeIds: string[] = []
  /** Number of messages in this process whose handlers have not started, with repeats, and their memory in bytes. */
  waitingMessages = 0
  waitingBytes = 0
  /** Settles when this process has handled the newest messages that are not concurrent. */
  handling: Promise<void> | undefined
  /** Whether the session has expired, and this process has run its `onClose` hooks or is running them. */
  hasExpiredHere = false
  /** Whether the app has closed the session in this process. Its reason can be any text, also `expired` or `lost`. */
  wasClosedHere = false
  /** Settles when the last call of `attach` has finished, because the calls run one after the other. */
  pendingAttach: Promise<void> | undefined

  // The following describe the stream, and change only in the order of the inbox.
  /** The epoch with which this process has acquired the stream; 0 if it has not. */
  epoch = 0
  /** The version of the record that the following are based on. */
  streamVersion = 0
  /** The lowest position that the streams in this process start from. */
  readFrom = 0
  /** The newest broadcast that the session reads; `Infinity` while it is open. */
  broadcastEndPosition = Infinity
  ownLog: LogReplica | undefined
  /** The joined channels, each with the position of the join. */
  joinPositions = new Map<string, number>()
  leftRanges: LeftRange[] = []
  /** The replicas that have this session as a reader. */
  readonly replicas = new Set<LogReplica>()
  /** How many of these are not complete. */
  incompleteLogCount = 0
  completedLogCount = 0
  /** Are called when nothing is missing any more, or the stream is not in this process any more. */
  readonly completeWaiters: Array<() => void> = []
  /** Are called when the close of the session was applied to the stream, or the stream is not in this process any more. */
  readonly closeWaiters: Array<() => void> = []
  readonly #guard: WriteGuard

  constructor (id: string, principal: string | undefined, startPosition: number, guard: WriteGuard) {
    super(id, principal, startPosition)
    this.#guard = guard
  }

  override get canWrite (): boolean {
    return this.isComplete && !this.#guard.isFenced
  }

  override get hasEnded (): boolean {
    // Without a stream in this process, nothing is known of what was sent before.
    return super.hasEnded && this.epoch !== 0 && this.broadcastEndPosition !== Infinity
  }

  /** Whether the logs in this process contain everything that the stream reads. */
  get isComplete (): boolean {
    return this.incompleteLogCount === 0 && !this.#guard.mayMissBroadcasts
  }

  /** Applies a record, unless a newer one was applied. Returns whether the session was closed by it. */
  apply (record: SessionRecord, nodeId: string): boolean {
    // Nothing changes a session that is closed, so a record that lacks the close is older, or Redis has lost the close.
    if (record.version < this.version || (this.closeReason !== undefined && record.closeReason === undefined)) return false
    // A close is applied to a stream at its place in the inbox. The version stays lower until then, so that a read returns the record again.
    if (this.epoch === 0 || record.closeReason === undefined) this.version = record.version
    this.data = record.data
    // Redis may have lost the time.
    this.authorizedUntil = record.authorizedUntil ?? this.authorizedUntil
    this.channels = record.channels
    this.attachedRemotely = record.owner !== '' && record.owner !== nodeId
    if (this.epoch !== 0) return false
    this.cursor = record.cursor
    return record.closeReason !== undefined && this.markClosed(record.closeReason)
  }

  /** Marks the session as closed, with the channels that it was in. Returns false if it was closed. */
  markClosed (reason: string, channels = this.channels): boolean {
    this.channels = channels
    if (this.closeReason !== undefined) return false
    this.closeReason = reason
    return true
  }
}

/** The hash of a session in Redis. */
export interface SessionRecord {
  readonly principal: string | undefined
  readonly startPosition: number
  /** Increases with every change. */
  readonly version: number
  /** Increases each time that a stream is attached, on any node. */
  readonly epoch: number
  /** The node with the stream; empty if there is none. */
  readonly owner: string
  readonly cursor: number
  readonly closeReason: string | undefined
  readonly broadcastEndPosition: number
  readonly data: SessionData
  readonly authorizedUntil: number | undefined
  /** The joined channels; of a closed session, those that it was in. */
  readonly channels: Set<string>
  readonly joinPositions: Map<string, number>
  readonly leftRanges: LeftRange[]
}

/** Parses the channels that a session was in when it was closed. */
export function parseLeftChannels (json: string): Set<string> {
  return new Set((JSON.parse(json) as Array<[name: string, to: string]>).map(([name]) => name))
}

/** Parses the hash of a session; `undefined` if it does not exist. */
export function parseRecord (hash: readonly string[] = []): SessionRecord | undefined {
  const fields: Record<string, string> = {}
  const data: SessionData = {}
  const joinPositions = new Map<string, number>()
  const leftRanges: LeftRange[] = []
  for (let i = 0; i + 1 < hash.length; i += 2) {
    const field = hash[i] as string
    const value = hash[i + 1] as string
    const name = field.slice(2)
    if (field.startsWith('d:')) Object.defineProperty(data, name, { value: JSON.parse(value), writable: true, enumerable: true, configurable: true })
    else if (field.startsWith('m:')) joinPositions.set(name, Number(value))
    else if (field.startsWith('l:')) {
      const colon = name.indexOf(':')
      leftRanges.push({ channel: name.slice(colon + 1), from: Number(value), to: Number(name.slice(0, colon)) })
    } else fields[field] = value
  }
  if (fields.startPosition === undefined) return undefined
  return {
    principal: fields.principal,
    startPosition: Number(fields.startPosition),
    version: Number(fields.version),
    epoch: Number(fields.epoch),
    owner: fields.owner as string,
    cursor: Number(fields.cursor),
    closeReason: fields.closeReason,
    broadcastEndPosition: fields.broadcastEndPosition === undefined ? Infinity : Number(fields.broadcastEndPosition),
    data,
    authorizedUntil: fields.authorizedUntil === undefined ? undefined : Number(fields.authorizedUntil),
    channels: fields.left === undefined ? new Set(joinPositions.keys()) : parseLeftChannels(fields.left),
    joinPositions,
    leftRanges
  }
}
