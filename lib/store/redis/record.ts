import { SessionState, type SessionData } from '../session-state.js'
import type { Mirror } from './mirror.js'

/** What a session that has left a channel still has to read there. */
export interface Left {
  readonly channel: string
  readonly from: number
  readonly to: number
}

/** For how long this process may be sure that no other takes it for dead. */
export interface Lease {
  readonly fenced: boolean
}

/** A session as this process knows it. */
export class RedisState extends SessionState {
  version = 0
  /** The last broadcast that is for it. */
  endedAt = Infinity
  /** The epoch of the stream that is attached here; 0 while none is. */
  attached = 0
  /** Channels it is in, and the positions from which it is. */
  members = new Map<string, number>()
  /** Of the channels that it has left, those whose rest a stream here may lack. */
  left: Left[] = []
  /** A position that all streams that are attached here, or are about to be, have. */
  readFrom = 0
  /** The mirrors of channels that its stream reads. */
  reads = new Set<Mirror<RedisState>>()
  /** How many things have to be there before it may read on, and the position up to which it may until then. */
  held = 0
  heldAt = 0
  /** Those that wait until it may read on. */
  freed: Array<() => void> = []
  /** Attaching is done one at a time; `undefined` while none is. */
  attaching: Promise<void> | undefined
  /** It has ended; resolves when its stream may read all that is left for it. */
  finished: Promise<void> | undefined
  /** The names that this node had when it began with the messages that it handles now. */
  readonly handledBy: string[] = []
  /** The epoch of the stream, on another node, by which this node's was replaced. */
  replacedBy = 0

  readonly #lease: Lease

  constructor (id: string, principal: string | undefined, openedAt: number, lease: Lease) {
    super(id, principal, openedAt)
    this.#lease = lease
  }

  override get canWrite (): boolean {
    return !this.#lease.fenced
  }

  /** Takes over a record, unless it is older than what is known. True if it has ended since. */
  apply (record: SessionRecord, node: string): boolean {
    if (record.version < this.version) return false
    this.version = record.version
    this.data = record.data
    this.members = record.members
    this.left = record.left.filter(({ to }) => to > this.readFrom)
    this.channels = record.endedBy === undefined ? new Set(record.members.keys()) : undefined
    this.attachedRemotely = record.owner !== '' && record.owner !== node
    if (this.attached === 0) this.cursor = record.cursor
    this.endedAt = record.endedAt
    return record.endedBy !== undefined && this.over(record.endedBy)
  }

  /** It has ended. False if that was known. */
  over (reason: string): boolean {
    if (this.closeReason !== undefined) return false
    this.closeReason = reason
    this.channels = undefined
    return true
  }
}

export interface SessionRecord {
  readonly principal: string | undefined
  readonly openedAt: number
  readonly version: number
  /** Raised by each stream that is attached, on whichever node. */
  readonly epoch: number
  readonly owner: string
  readonly cursor: number
  readonly endedBy: string | undefined
  readonly endedAt: number
  readonly data: SessionData
  readonly members: Map<string, number>
  readonly left: Left[]
}

/** Reads the hash of a session; `undefined` where there is none. */
export function parseRecord (hash: readonly string[]): SessionRecord | undefined {
  const plain: Record<string, string> = {}
  const data: SessionData = {}
  const members = new Map<string, number>()
  const left: Left[] = []
  for (let i = 0; i + 1 < hash.length; i += 2) {
    const field = hash[i] as string
    const value = hash[i + 1] as string
    const name = field.slice(2)
    if (field.startsWith('d:')) Object.defineProperty(data, name, { value: JSON.parse(value), writable: true, enumerable: true, configurable: true })
    else if (field.startsWith('m:')) members.set(name, Number(value))
    else if (field.startsWith('l:')) {
      const colon = name.indexOf(':')
      left.push({ channel: name.slice(colon + 1), from: Number(value), to: Number(name.slice(0, colon)) })
    } else plain[field] = value
  }
  if (plain.openedAt === undefined) return undefined
  return {
    principal: plain.principal,
    openedAt: Number(plain.openedAt),
    version: Number(plain.version),
    epoch: Number(plain.epoch),
    owner: plain.owner as string,
    cursor: Number(plain.cursor),
    endedBy: plain.endedBy,
    endedAt: plain.endedAt === undefined ? Infinity : Number(plain.endedAt),
    data,
    members,
    left
  }
}
