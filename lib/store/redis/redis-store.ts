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
    const { calls, commandQueue } = this.#node
    const startPosition = Number(await calls.execute('create', id, [principal === undefined ? 0 : 1, principal ?? ''], () => {
      // Nobody uses the session. Its `onOpen` hooks have not run, so those of `onClose` must not run either.
      return commandQueue.executeInBackground('end', id, 'aborted', 0, '', '')
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
    const { commandQueue, cache, missedCloseCount } = this.#node
    const hash = await commandQueue.execute('get', id) as string[]
    const record = parseRecord(hash)
    const state = record === undefined ? cache.get(id) : cache.getOrCreate(id, record)
    if (state !== undefined) this.#node.applyRecord(state, hash)
    // A close that arrived before the session was in memory here was ignored.
    if (state !== undefined && this.#node.missedCloseCount !== missedCloseCount) this.#node.verify(state)
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
    else await this.#applyChange(state, version, () => { state.authorizedUntil = until })
  }

  async update (given: SessionState, change: SessionData): Promise<void> {
    const state = given as SessionReplica
    const properties = Object.entries(change).map(([name, value]) => [name, value === undefined ? '' : serialize(value)] as const)
    const version = Number(await this.#node.commandQueue.execute('update', state.id, ...properties.flat()))
    if (version === 0) throw this.#closedError(state)
    await this.#applyChange(state, version, () => {
      const data: SessionData = { ...state.data, ...Object.fromEntries(properties.map(([name, json]) => [name, json === '' ? undefined : JSON.parse(json)])) }
      for (const [name, json] of properties) if (json === '') delete data[name]
      state.data = data
    })
  }

  async join (given: SessionState, channel: string, history: number): Promise<JoinResult> {
    const state = given as SessionReplica
    const { calls, commandQueue } = this.#node
    const count = Math.min(history, Number.MAX_SAFE_INTEGER)
    const addChannel = (): void => { (state.channels ??= new Set()).add(channel) }
    const [reply, ...newest] = await calls.execute('join', state.id, [channel, count], result => {
      return result === 'changed' ? this.#applyLateMembership(state, 'onJoin', channel, addChannel) : undefined
    }) as [reply: unknown, ...HistoryPart]
    if (reply === 'full') throw new TooManyChannels(this.#settings.maxChannelsPerSession)
    const version = Number(reply)
    if (version === 0) throw this.#closedError(state)
    await this.#applyMembership(state, version, addChannel)
    let [through, frames] = newest
    const all = [...frames]
    try {
      while (through > 0) {
        [through, frames] = await commandQueue.execute('history', state.id, channel, count - all.length, through) as HistoryPart
        all.push(...frames)
      }
    } catch (error) {
      // The session has joined all the same.
      if (version > 0) this.#node.callbacks.onJoin(state, channel).catch(noop)
      throw error
    }
    return { isNew: version > 0, frames: all.reverse() }
  }

  async leave (given: SessionState, channel: string): Promise<boolean> {
    const state = given as SessionReplica
    const removeChannel = (): void => { state.channels?.delete(channel) }
    const version = Number(await this.#node.calls.execute('leave', state.id, [channel], () => this.#applyLateMembership(state, 'onLeave', channel, removeChannel)))
    if (version === 0) return false
    await this.#applyMembership(state, version, removeChannel)
    return version > 0
  }

  /** Applies the result of `join` or `leave`. If nothing has changed, waits until the changes of others are known; otherwise the hooks must not wait. */
  async #applyMembership (state: SessionReplica, version: number, apply: () => void): Promise<void> {
    const refreshed = this.#applyChange(state, version, apply)
    if (version < 0) await refreshed
  }

  /** Applies a `join` or `leave` that Redis has executed although the call has rejected, and runs the hooks. */
  #applyLateMembership (state: SessionReplica, name: 'onJoin' | 'onLeave', channel: string, apply: () => void): Promise<void> {
    apply()
    this.#node.refreshLater(state)
    return this.#node.callbacks[name](state, channel)
  }

  async end (given: SessionState, reason: string, keep: boolean, ifUnauthorizedAt?: number): Promise<boolean> {
    const state = given as SessionReplica
    const { callbacks, calls } = this.#node
    const [isEnded, , leftChannels] = await calls.execute('end', state.id, [reason, keep ? 1 : 0, '', ifUnauthorizedAt ?? ''], async leftChannels => {
      await this.#applyEnd(state, reason, leftChannels)
      // No other process runs the hooks, because this one has closed the session.
      await callbacks.onExpire(state)
    }) as [string, unknown, string]
    if (Number(isEnded) === 0) {
      // Another process has closed it, or has newer credentials.
      if (state.closeReason === undefined) await this.find(state.id)
      return false
    }
    await this.#applyEnd(state, reason, leftChannels)
    return true
  }

  /** Applies the close of a session by this process. `leftChannels`: those that it was in, as JSON. Resolves when the end of its stream is known, or the stream was aborted. */
  async #applyEnd (state: SessionReplica, reason: string, leftChannels: string): Promise<void> {
    state.markClosed(reason, parseLeftChannels(leftChannels))
    state.wasClosedHere = true
    // The stream ends after everything that was sent before. If that does not arrive, it is aborted, and its client resumes.
    if (state.epoch !== 0 && state.broadcastEndPosition === Infinity) {
      await withTimeout(new Promise<void>(resolve => { state.closeWaiters.push(resolve) })).catch(() => { state.listener?.onAbort() })
    }
  }

  // `send`, `publish` and `broadcast` are not async, because that would create more promises for each event. They may throw synchronously.
  send (given: SessionState, entry: EntryInput): Promise<void> {
    const state = given as SessionReplica
    if (state.closeReason !== undefined) throw new SessionOver()
    if (this.#node.messageQueues.hasFencedHandler(state)) throw new StoreUnavailable()
    assertFits(entry, this.#settings.log)
    return this.#append('session', state.id, entry, 0, position => { if (position === -1) throw this.#closedError(state) })
  }

  publish (channel: string, entry: EntryInput, keep: number): Promise<void> {
    assertFits(entry, this.#settings.channelLog)
    return this.#append('channel', channel, entry, keep)
  }

  broadcast (entry: EntryInput): Promise<void> {
    assertFits(entry, this.#settings.channelLog)
    return this.#append('broadcasts', '', entry)
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

  /** Applies a change that Redis has made. Resolves when the changes of others before it are known, too; never rejects. */
  async #applyChange (state: SessionReplica, version: number, apply: () => void): Promise<void> {
    // A negative version means that there was nothing to change, but others may have changed something.
    if (version <= state.version + 1 && -version <= state.version) {
      this.#node.reducer.applyChange(state, version, apply)
      return
    }
    apply()
    // The change was made, so the call must not reject if only this refresh fails.
    await this.#node.refresh(state).catch(() => { this.#node.refreshLater(state) })
  }

  #append (kind: string, name: string, { frame, except, key }: EntryInput, keep = 0, checkPosition: (position: number) => void = noop): Promise<void> {
    const { commandQueue, reducer } = this.#node
    // Other texts would break the format of the publication, as a space in a key would.
    const excluded = except === undefined ? '' : except.filter(isSessionId).join(',')
    // Without the last two arguments if they have their defaults: each argument takes time.
    const executed = keep === 0 && key === undefined ? commandQueue.execute('append', kind, name, frame, excluded) : commandQueue.execute('append', kind, name, frame, excluded, keep, encodeURIComponent(key ?? ''))
    return executed.then(reply => {
      const position = Number(reply)
      reducer.highestPosition = Math.max(reducer.highestPosition, position)
      checkPosition(position)
    })
  }

  /** Returns the error for a closed session, and finds out why it was closed. */
  #closedError (state: SessionReplica): Error {
    if (state.closeReason === undefined) this.find(state.id).catch(noop)
    return new SessionOver()
  }
}
