import { noop } from '../../awaitable.js'
import type { Link } from './client.js'
import type { Line } from './line.js'
import type { Mirrors } from './mirrors.js'
import { parseRecord, type RedisState, type SessionRecord } from './record.js'
import { arrange, dismiss, whole, widen } from './sources.js'
import type { States } from './states.js'

/** What becomes of the sessions at hand: as Redis answers, as it is told, and as it is done here. */
export class Changes {
  readonly #link: Link
  readonly #line: Line
  readonly #mirrors: Mirrors
  readonly #states: States
  readonly #doubt: () => void

  /** `doubt` is called where what is known here may be wrong. */
  constructor (link: Link, line: Line, mirrors: Mirrors, states: States, doubt: () => void) {
    this.#link = link
    this.#line = line
    this.#mirrors = mirrors
    this.#states = states
    this.#doubt = doubt
  }

  /** Learns what Redis has of a session, or that it has nothing any more. */
  learn (state: RedisState, hash: readonly string[]): void {
    const record = parseRecord(hash)
    if (record === undefined) this.#lose(state)
    else {
      const changed = state.version !== record.version
      this.take(state, record)
      if (changed) this.#widen(state, 0).catch(noop)
    }
  }

  /** Takes over a record of a session. */
  take (state: RedisState, record: SessionRecord): void {
    if (state.apply(record, this.#line.node)) this.#tellEnd(state)
  }

  /** A session has changed to a version: does what has to be done, or learns what else has changed. */
  async changed (state: RedisState, version: number, apply: () => void): Promise<void> {
    if (version <= state.version) return
    if (version === state.version + 1) {
      state.version = version
      apply()
    } else await this.refresh(state)
  }

  async joined (state: RedisState, version: number, channel: string, from: number): Promise<void> {
    await this.changed(state, version, () => {
      state.members.set(channel, from)
      state.channels ??= new Set()
      state.channels.add(channel)
      this.#widen(state, 0, [channel]).catch(noop)
    })
  }

  async left (state: RedisState, version: number, channel: string, to: number): Promise<void> {
    await this.changed(state, version, () => {
      const from = state.members.get(channel)
      state.members.delete(channel)
      state.channels?.delete(channel)
      if (from === undefined || state.attached === 0) return
      if (to > from) state.left.push({ channel, from, to })
      arrange(state, this.#mirrors)
    })
  }

  /** Something was told of a session to the node of its stream. */
  told (state: RedisState, kind: string, what: readonly string[]): void {
    const [version, position] = [Number(what[0]), Number(what[1])]
    const name = what.slice(2).join(' ')
    if (kind === 'j') this.joined(state, version, name, position).catch(noop)
    else if (kind === 'l') this.left(state, version, name, position).catch(noop)
    else if (version > state.version) this.refresh(state).catch(noop)
  }

  /** Asks what has changed. */
  async refresh (state: RedisState): Promise<void> {
    const load = async (): Promise<number> => {
      const [hash, position] = await this.#line.run('load', state.id, state.attached === 0 ? 0 : 1) as [string[], string]
      const record = parseRecord(hash)
      if (record === undefined) this.#lose(state)
      else this.take(state, record)
      return Number(position)
    }
    if (state.attached === 0) await load()
    else await this.#widen(state, load)
  }

  /** This process has ended a session. Resolves when its stream may read all that is left for it, or has to be given up. */
  async over (state: RedisState, reason: string): Promise<void> {
    state.over(reason)
    await this.#link.bounded(this.#finish(state)).catch(() => { state.listener?.onRemove() })
  }

  /** A session has ended somewhere. */
  ended (id: string, reason: string): void {
    const state = this.#states.at(id)
    if (state?.over(reason) === true) this.#tellEnd(state)
  }

  /** Redis knows nothing of a session any more. */
  gone (state: RedisState): void {
    const { listener } = state
    dismiss(state, this.#mirrors)
    const lost = this.#mirrors.back > state.startPosition
    const isNew = state.over(lost ? 'lost' : 'expired')
    if (isNew && lost) listener?.onLost()
    else {
      listener?.onRemove()
      // Another node has told the app. Later, for the stream is not to tell its client, who may come back for another.
      if (isNew) setImmediate(() => { listener?.onEnd() })
    }
  }

  #lose (state: RedisState): void {
    // Whether the store has gone back is found out on the way.
    if (state.attached !== 0) this.#doubt()
    else this.gone(state)
  }

  /** Tells of the end of a session, when its stream may read all that is left for it. */
  #tellEnd (state: RedisState): void {
    this.#finish(state).then(() => { state.listener?.onEnd() }).catch(noop)
  }

  #finish (state: RedisState): Promise<void> {
    if (state.attached === 0) return Promise.resolve()
    // A stream that cannot have all ends without a word, and its client comes back for the rest.
    state.finished ??= this.refresh(state).then(() => whole(state), () => { state.listener?.onRemove() })
    return state.finished
  }

  async #widen (state: RedisState, through: Parameters<typeof widen>[2], channels?: readonly string[]): Promise<void> {
    if (state.attached === 0) return
    try {
      await widen(state, this.#mirrors, through, channels)
    } catch (error) {
      // Whatever is known of it has to be asked for again.
      state.version = 0
      this.#doubt()
      throw error
    }
  }
}
