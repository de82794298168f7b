import { SessionOver, StoreUnavailable, TooManyChannels } from '../../errors.js'
import { noop } from '../../awaitable.js'
import { isSessionId } from '../../wire/event-id.js'
import { serialize } from '../../wire/frame.js'
import { assertFits, type EntryInput } from '../../log/log.js'
import type { MessageQueue } from '../message-queue.js'
import type { SessionData, SessionState } from '../session-state.js'
import type { Store, StoreSettings, StoreStats } from '../store.js'
import type { Node } from './node.js'
import { parseRecord, type RedisState } from './record.js'

/** Milliseconds between looks at a log that is read on another node. */
const LOOK = 200

/** Sessions in Redis, for any number of processes that share it. */
export class RedisStore implements Store {
  readonly #settings: StoreSettings
  readonly #node: Node

  constructor (settings: StoreSettings, node: Node) {
    this.#settings = settings
    this.#node = node
  }

  async open (id: string, principal: string | undefined): Promise<SessionState | undefined> {
    const openedAt = Number(await this.#node.run('open', id, principal === undefined ? 0 : 1, principal ?? ''))
    if (openedAt === -1) return undefined
    const state = this.#node.states.of(id, { principal, openedAt })
    state.version = 1
    return state
  }

  async find (id: string): Promise<SessionState | undefined> {
    // It is part of a key, and what is kept beside a session has keys that begin with that of the session.
    if (!isSessionId(id)) return undefined
    const [hash] = await this.#node.run('load', id, 0) as [string[]]
    const record = parseRecord(hash)
    const state = record === undefined ? this.#node.states.at(id) : this.#node.states.of(id, record)
    if (state !== undefined) this.#node.changes.learn(state, hash)
    return record === undefined ? undefined : state
  }

  findCached (id: string): SessionState | Promise<SessionState | undefined> {
    return this.#node.states.use(id) ?? this.find(id)
  }

  cancelExpiry (state: SessionState): void {
    this.#node.run('hold', 1, state.id, -1).catch(noop)
  }

  attach (state: SessionState, cursor: number): Promise<number | undefined> {
    return this.#node.streams.attach(state as RedisState, cursor)
  }

  detach (state: SessionState): void {
    this.#node.streams.detach(state as RedisState)
  }

  async update (given: SessionState, change: SessionData): Promise<void> {
    const state = given as RedisState
    const properties = Object.entries(change).map(([name, value]) => [name, value === undefined ? '' : serialize(value)] as const)
    const version = Number(await this.#node.run('update', state.id, ...properties.flat()))
    if (version === 0) throw this.#over(state)
    await this.#node.changes.changed(state, version, () => {
      const data: SessionData = { ...state.data, ...Object.fromEntries(properties.map(([name, json]) => [name, json === '' ? undefined : JSON.parse(json)])) }
      for (const [name, json] of properties) if (json === '') delete data[name]
      state.data = data
    })
  }

  async join (given: SessionState, channel: string): Promise<void> {
    const state = given as RedisState
    const { maxChannelsPerSession } = this.#settings
    if (state.channels?.has(channel) !== true && (state.channels?.size ?? 0) >= maxChannelsPerSession) throw new TooManyChannels(maxChannelsPerSession)
    const [version, from] = await this.#node.run('join', state.id, channel) as [string, string]
    if (Number(version) === 0) throw this.#over(state)
    await this.#node.changes.joined(state, Number(version), channel, Number(from))
  }

  async leave (given: SessionState, channel: string): Promise<void> {
    const state = given as RedisState
    const [version, to] = await this.#node.run('leave', state.id, channel) as [string, string]
    if (Number(version) !== 0) await this.#node.changes.left(state, Number(version), channel, Number(to))
  }

  async end (given: SessionState, reason: string, keep: boolean): Promise<boolean> {
    const state = given as RedisState
    const [answer] = await this.#node.run('end', state.id, reason, keep ? 1 : 0, '') as [string]
    const ended = Number(answer) === 1
    if (ended) await this.#node.changes.over(state, reason)
    // Another process was faster.
    else if (state.closeReason === undefined) await this.find(state.id)
    return ended
  }

  async send (given: SessionState, draft: EntryInput): Promise<void> {
    const state = given as RedisState
    if (state.closeReason !== undefined) throw new SessionOver()
    if (this.#node.mailroom.isInDoubt(state)) throw new StoreUnavailable()
    assertFits(draft, this.#settings.log)
    if (await this.#append('s', state.id, draft) === -1) throw this.#over(state)
  }

  async publish (channel: string, draft: EntryInput): Promise<void> {
    assertFits(draft, this.#settings.channelLog)
    await this.#append('c', channel, draft)
  }

  async broadcast (draft: EntryInput): Promise<void> {
    assertFits(draft, this.#settings.channelLog)
    await this.#append('b', '', draft)
  }

  async waitForDrain (state: SessionState): Promise<void> {
    while (state.closeReason === undefined && await this.#node.run('drained', state.id) !== 1) {
      await new Promise(resolve => { setTimeout(resolve, LOOK).unref() })
    }
  }

  messageQueue (state: SessionState): MessageQueue {
    return this.#node.mailroom.mailbox(state as RedisState)
  }

  async count (channel: string): Promise<number> {
    return Number(await this.#node.run('count', channel))
  }

  stats (): StoreStats {
    return { sessions: this.#node.sessions, channels: this.#node.mirrors.channels.size }
  }

  async close (): Promise<readonly SessionState[]> {
    await this.#node.close()
    return []
  }

  async #append (kind: string, name: string, { frame, except = '' }: EntryInput): Promise<number> {
    // No session has an id with a break in it, which would be taken for the frame's beginning.
    const position = Number(await this.#node.run('append', kind, name, frame, /\s/.test(except) ? '' : except))
    this.#node.line.seen = Math.max(this.#node.line.seen, position)
    return position
  }

  /** What a caller is told whose session has ended; why it has is asked for. */
  #over (state: RedisState): Error {
    if (state.closeReason === undefined) this.find(state.id).catch(noop)
    return new SessionOver()
  }
}
