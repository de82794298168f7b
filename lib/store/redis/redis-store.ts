import { noop } from '../../awaitable.js'
import { SessionOver, StoreUnavailable, TooManyChannels } from '../../errors.js'
import { assertFits, type EntryInput } from '../../log/log.js'
import { isSessionId } from '../../wire/event-id.js'
import { serialize } from '../../wire/frame.js'
import type { MessageQueue } from '../message-queue.js'
import type { SessionData, SessionState } from '../session-state.js'
import type { JoinResult, Store, StoreSettings, StoreStats } from '../store.js'
import { withTimeout } from './connection.js'
import type { RedisNode } from './redis-node.js'
import { parseLeftChannels, parseRecord, type SessionReplica } from './replica/session-replica.js'
import type { RedisRuns } from './runs.js'

/** Milliseconds between checks of a log that another node streams. */
const BACKLOG_INTERVAL = 200
/** Number of members that one command lists, so that it does not block Redis for long. */
const MEMBERS_PER_COMMAND = 1000

/** A part of the history of a channel: the position up to which to continue, or 0, and frames, the newest first. */
type HistoryPart = [through: number, frames: readonly string[]]

/** Keeps sessions and runs in Redis, for any number of processes. */
export class RedisStore implements Store {
  readonly runs: RedisRuns
  readonly #settings: StoreSettings
  readonly #node: RedisNode
  readonly #close: () => Promise<void>

  /** `close` closes the node, and those of all other partitions. */
  constructor (settings: StoreSettings, node: RedisNode, close: () => Promise<void>) {
    this.#settings = settings
    this.#node = node
    this.#close = close
    this.runs = node.runs
  }

  async open (id: string, principal: string | undefined): Promise<SessionState | undefined> {
    const { commandQueue } = this.#node
    const startPosition = Number(await commandQueue.executeCall('create', [id, principal === undefined ? 0 : 1, principal ?? ''], () => {
      // Nobody uses the session. Its `onOpen` hooks have not run, so those of `onClose` must not run either.
      return commandQueue.executeReliably('end', id, 'aborted', 0, '', '')
    }))
    if (startPosition === -1) return undefined
    const state = this.#node.cache.getOrCreate(id, { principal, startPosition })
    state.version = 1
    this.#node.ownership.retain(state)
    return state
  }

  async find (id: string): Promise<SessionState | undefined> {
    // An id with a colon would be the key of another part of a session.
    if (!isSessionId(id)) return undefined
    const { commandQueue, cache, unknownCloses } = this.#node
    const hash = await commandQueue.execute('get', id) as string[]
    const record = parseRecord(hash)
    const state = record === undefined ? cache.get(id) : cache.getOrCreate(id, record)
    if (state !== undefined) this.#node.applyRecord(state, hash)
    // A close that has arrived before this reply had no effect.
    if (state !== undefined && this.#node.unknownCloses !== unknownCloses) this.#node.verify(state)
    return record === undefined ? undefined : state
  }

  findCached (id: string): SessionState | Promise<SessionState | undefined> {
    return this.#node.cache.use(id) ?? this.find(id)
  }

  async findByPrincipal (principal: string): Promise<SessionState[]> {
    const ids = await this.#node.commandQueue.execute('find_by_principal', principal) as string[]
    const states = await Promise.all(ids.map(id => this.find(id)))
    return states.filter(state => state !== undefined && state.closeReason === undefined) as SessionState[]
  }

  cancelExpiry (state: SessionState): void {
    this.#node.ownership.retain(state as SessionReplica)
    this.#node.commandQueue.execute('renew', 1, state.id, 0).catch(noop)
  }

  attach (state: SessionState, cursor: number, requestedAt: number): Promise<number | undefined> {
    return this.#node.ownership.attach(state as SessionReplica, cursor, requestedAt)
  }

  detach (state: SessionState): void {
    this.#node.ownership.detach(state as SessionReplica)
  }

  async authorize (given: SessionState, until: number): Promise<void> {
    const state = given as SessionReplica
    const version = Number(await this.#node.commandQueue.execute('authorize', state.id, until))
    if (version === 0) await this.#node.refresh(state)
    else await this.#change(state, version, () => { state.authorizedUntil = until })
  }

  async update (given: SessionState, change: SessionData): Promise<void> {
    const state = given as SessionReplica
    const properties = Object.entries(change).map(([name, value]) => [name, value === undefined ? '' : serialize(value)] as const)
    await this.#change(state, await this.#node.commandQueue.execute('update', state.id, ...properties.flat()), () => {
      const data: SessionData = { ...state.data, ...Object.fromEntries(properties.map(([name, json]) => [name, json === '' ? undefined : JSON.parse(json)])) }
      for (const [name, json] of properties) if (json === '') delete data[name]
      state.data = data
    })
  }

  async join (given: SessionState, channel: string, history: number): Promise<JoinResult> {
    const state = given as SessionReplica
    const { commandQueue } = this.#node
    const count = Math.min(history, Number.MAX_SAFE_INTEGER)
    const [version, ...newest] = await commandQueue.executeCall('join', [state.id, channel, count], result => {
      if (result !== 'changed') return
      (state.channels ??= new Set()).add(channel)
      return this.#applyLate(state, 'onJoin', channel)
    }) as [version: unknown, ...HistoryPart]
    if (version === 'full') throw new TooManyChannels(this.#settings.maxChannelsPerSession)
    await this.#change(state, version, () => { (state.channels ??= new Set()).add(channel) })
    let [through, frames] = newest
    const all = [...frames]
    while (through > 0) {
      [through, frames] = await commandQueue.execute('history', state.id, channel, count - all.length, through) as HistoryPart
      all.push(...frames)
    }
    return { isNew: Number(version) > 0, frames: all.reverse() }
  }

  async leave (given: SessionState, channel: string): Promise<boolean> {
    const state = given as SessionReplica
    const version = Number(await this.#node.commandQueue.executeCall('leave', [state.id, channel], () => {
      state.channels?.delete(channel)
      return this.#applyLate(state, 'onLeave', channel)
    }))
    if (version !== 0) await this.#change(state, version, () => { state.channels?.delete(channel) })
    return version > 0
  }

  /** A call of `join` or `leave` has rejected, although Redis has executed the command. */
  async #applyLate (state: SessionReplica, name: 'onJoin' | 'onLeave', channel: string): Promise<void> {
    // At once, so that the hooks of later calls run after these.
    await Promise.all([this.#node.callbacks[name](state, channel), this.#node.refresh(state).catch(noop)])
  }

  async end (given: SessionState, reason: string, keep: boolean, ifUnauthorizedAt?: number): Promise<boolean> {
    const state = given as SessionReplica
    const { callbacks, commandQueue } = this.#node
    const [isEnded, , left] = await commandQueue.executeCall('end', [state.id, reason, keep ? 1 : 0, '', ifUnauthorizedAt ?? ''], async channels => {
      await this.#applyEnd(state, reason, channels)
      // Only this process can run the hooks.
      await callbacks.onExpire(state)
    }) as [string, unknown, string]
    if (Number(isEnded) === 0) {
      // Another process has closed it, or has newer credentials.
      if (state.closeReason === undefined) await this.find(state.id)
      return false
    }
    await this.#applyEnd(state, reason, left)
    return true
  }

  /** Applies the close of a session by this process. `left`: the channels that it was in. Resolves when its stream has got the end, or was aborted. */
  async #applyEnd (state: SessionReplica, reason: string, left: string): Promise<void> {
    state.markClosed(reason, parseLeftChannels(left))
    // The stream ends after everything that was sent before. If that does not arrive, it is aborted, and its client resumes.
    if (state.epoch !== 0 && state.broadcastEndPosition === Infinity) {
      await withTimeout(new Promise<void>(resolve => { state.closeWaiters.push(resolve) })).catch(() => { state.listener?.onAbort() })
    }
  }

  async send (given: SessionState, entry: EntryInput): Promise<void> {
    const state = given as SessionReplica
    if (state.closeReason !== undefined) throw new SessionOver()
    if (this.#node.messageQueues.hasFencedHandler(state)) throw new StoreUnavailable()
    assertFits(entry, this.#settings.log)
    if (await this.#append('session', state.id, entry) === -1) throw this.#closedError(state)
  }

  async publish (channel: string, entry: EntryInput, keep: number): Promise<void> {
    assertFits(entry, this.#settings.channelLog)
    await this.#append('channel', channel, entry, keep)
  }

  async broadcast (entry: EntryInput): Promise<void> {
    assertFits(entry, this.#settings.channelLog)
    await this.#append('broadcasts', '', entry)
  }

  async waitForDrain (state: SessionState): Promise<void> {
    while (state.closeReason === undefined && Number(await this.#node.commandQueue.executeWithoutDeadline('backlog', state.id)) !== 1) {
      await new Promise(resolve => { setTimeout(resolve, BACKLOG_INTERVAL).unref() })
    }
  }

  messageQueue (state: SessionState): MessageQueue {
    return this.#node.messageQueues.getQueue(state as SessionReplica)
  }

  async count (channel: string): Promise<number> {
    return Number(await this.#node.commandQueue.execute('count', channel))
  }

  async members (channel: string): Promise<SessionState[]> {
    const states = new Set<SessionState>()
    for (let after: string | undefined = '0'; after !== undefined;) {
      const members: string[] = await this.#node.commandQueue.execute('members', channel, after, MEMBERS_PER_COMMAND) as string[]
      const ids = members.filter((_, index) => index % 2 === 0)
      for (const state of await Promise.all(ids.map(id => this.find(id)))) {
        if (state?.closeReason === undefined && state?.channels?.has(channel) === true) states.add(state)
      }
      after = members.length < MEMBERS_PER_COMMAND * 2 ? undefined : members.at(-1)
    }
    return [...states]
  }

  async clear (channel: string): Promise<void> {
    await this.#node.commandQueue.execute('clear', channel)
  }

  /** The names of the channels that this process reads. */
  get channels (): string[] {
    return [...this.#node.reducer.channels.keys()]
  }

  stats (): StoreStats {
    return { sessions: this.#node.sessions, channels: this.#node.reducer.channels.size }
  }

  async close (): Promise<readonly SessionState[]> {
    await this.#close()
    return []
  }

  /** Applies a change to the known state, if Redis has made it. */
  async #change (state: SessionReplica, reply: unknown, apply: () => void): Promise<void> {
    const version = Number(reply)
    if (version === 0) throw this.#closedError(state)
    // A negative version means that there was nothing to change, but others may have changed something.
    if (version > state.version + 1 || -version > state.version) await this.#node.refresh(state)
    else this.#node.reducer.applyChange(state, version, apply)
  }

  async #append (kind: string, name: string, { frame, except = [], key = '' }: EntryInput, keep = 0): Promise<number> {
    const { commandQueue, reducer } = this.#node
    // Other texts would break the format of the publication, as a space in a key would.
    const excluded = except.filter(isSessionId).join(',')
    const position = Number(await commandQueue.execute('append', kind, name, frame, excluded, keep, encodeURIComponent(key)))
    reducer.highestPosition = Math.max(reducer.highestPosition, position)
    return position
  }

  /** Returns the error for a closed session, and finds out why it was closed. */
  #closedError (state: SessionReplica): Error {
    if (state.closeReason === undefined) this.find(state.id).catch(noop)
    return new SessionOver()
  }
}
