import { ignore } from '../../promises.js'
import { now } from '../log.js'
import type { Link } from './client.js'
import type { Line } from './line.js'
import type { Rest } from './mirror.js'
import type { Mirrors } from './mirrors.js'
import { parseRecord, type RedisState, type SessionRecord } from './record.js'
import { arrange, release, whole, widen } from './sources.js'
import type { States } from './states.js'

type Attached = readonly [record: string[], rest: Rest, head: string, back: string] | null

export interface StreamsListener {
  /** What is known of sessions here may be wrong. */
  doubt (): void
}

// Sessions that are asked about at once.
const CHUNK = 500

/** The sessions with a stream on this node: what becomes of them, and what their streams read. */
export class Streams {
  readonly #link: Link
  readonly #line: Line
  readonly #mirrors: Mirrors
  readonly #states: States
  readonly #listener: StreamsListener
  readonly #renewal: number
  readonly #attached = new Map<string, RedisState>()
  #renewed = now()

  constructor (link: Link, line: Line, mirrors: Mirrors, states: States, resumeTimeout: number, listener: StreamsListener) {
    this.#link = link
    this.#line = line
    this.#mirrors = mirrors
    this.#states = states
    this.#listener = listener
    this.#renewal = resumeTimeout / 4
  }

  attach (state: RedisState, cursor: number): Promise<number | undefined> {
    return this.#queue(state, () => this.#attach(state, cursor))
  }

  detach (state: RedisState): void {
    const { cursor } = state
    const detach = (): void => {
      const epoch = state.attached
      this.#release(state)
      this.#line.keep('detach', state.id, epoch === 0 ? '' : epoch, cursor)
    }
    // The answer to an attach that is on its way must not come after it.
    if (state.attaching === undefined) detach()
    else this.#queue(state, async () => { detach() })
  }

  /** Takes over a record of a session, or learns that there is none any more. */
  learn (state: RedisState, hash: readonly string[]): void {
    const record = parseRecord(hash)
    if (record === undefined) this.#lose(state)
    else {
      const changed = state.version !== record.version
      if (state.apply(record, this.#line.node)) this.#tellEnd(state)
      if (changed && state.attached !== 0) this.#refresh(state, false).catch(ignore)
    }
  }

  /** A session has changed to a version: does what has to be done, or learns what else has changed. */
  async changed (state: RedisState, version: number, apply: () => void): Promise<void> {
    if (version <= state.version) return
    if (version === state.version + 1) {
      state.version = version
      apply()
    } else await this.#refresh(state, true)
  }

  async joined (state: RedisState, version: number, channel: string, from: number): Promise<void> {
    await this.changed(state, version, () => {
      state.members.set(channel, from)
      state.channels ??= new Set()
      state.channels.add(channel)
      if (state.attached !== 0) this.#refresh(state, false).catch(ignore)
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

  /** This process has ended a session. Resolves when its stream may read all that is left for it, or has to be given up. */
  async over (state: RedisState, reason: string): Promise<void> {
    state.over(reason)
    await this.#link.bounded(this.#finish(state)).catch(() => { state.listener?.forgotten() })
  }

  /** A session has ended somewhere. */
  ended (id: string, reason: string): void {
    const state = this.#states.at(id)
    if (state !== undefined) this.#end(state, reason)
  }

  /** Something was told of a session to the node of its stream. */
  told (kind: string, text: string): void {
    const [id = '', first = '', second = '', ...rest] = text.split(' ')
    const state = this.#states.at(id)
    if (state === undefined) return
    const name = rest.join(' ')
    if (kind === 'r') this.#replaced(state, Number(first))
    else if (kind === 'j') this.joined(state, Number(first), name, Number(second)).catch(ignore)
    else if (kind === 'l') this.left(state, Number(first), name, Number(second)).catch(ignore)
    else if (kind === 'u' && Number(first) > state.version) this.#refresh(state, true).catch(ignore)
    else if (kind === 'q' && state.attached !== 0) this.#line.keep('progress', id, state.attached, state.listener?.cursor ?? state.cursor)
  }

  /** A session, with a stream here of an epoch, has a version; none where the stream is not its stream any more. */
  found (id: string, epoch: number, version: number | undefined): void {
    const state = this.#attached.get(id)
    if (state?.attached !== epoch) return
    if (version === undefined) {
      // Until it is known why, it reads nothing.
      state.log = undefined
      state.sources.length = 0
    } else if (version !== state.version) this.#refresh(state, true).catch(ignore)
  }

  /** Has sessions live on as long as they have a stream here. */
  renew (): void {
    if (now() - this.#renewed >= this.#renewal) this.#review([...this.#attached.values()]).catch(ignore)
  }

  /** Asks what has become of all sessions at hand. */
  async review (): Promise<void> {
    await this.#review([...new Set([...this.#attached.values(), ...this.#states.living()])])
  }

  async #review (states: readonly RedisState[]): Promise<void> {
    this.#renewed = now()
    const channels = [...this.#mirrors.channels.keys()]
    for (let from = 0; from < Math.max(states.length, channels.length); from += CHUNK) {
      const chunk = states.slice(from, from + CHUNK)
      const epochs = chunk.map(({ attached }) => attached)
      const answers = await this.#line.run('hold', chunk.length, ...chunk.flatMap(({ id }, index) => [id, epochs[index] as number]), ...channels.slice(from, from + CHUNK)) as string[]
      for (const [index, state] of chunk.entries()) {
        if (state.attached !== epochs[index]) continue
        const answer = answers[index]
        if (answer === 'gone') this.#gone(state)
        else if (answer === 'replaced') this.#replaced(state, Infinity)
        else {
          if (answer === 'taken') this.#listener.doubt()
          if (Number(answer) !== state.version) this.#refresh(state, true).catch(ignore)
        }
      }
    }
  }

  async #queue<T> (state: RedisState, work: () => Promise<T>): Promise<T> {
    const done = state.attaching === undefined ? work() : state.attaching.then(work)
    const settled = done.then(ignore, ignore)
    state.attaching = settled
    try {
      return await done
    } finally {
      if (state.attaching === settled) state.attaching = undefined
    }
  }

  async #attach (state: RedisState, cursor: number): Promise<number | undefined> {
    const { id } = state
    const mirror = this.#mirrors.expectLog(id)
    let answer: Attached
    try {
      answer = await this.#line.run('attach', id, mirror.loading ? 0 : mirror.log.last) as Attached
    } catch (error) {
      if (mirror.loading) this.#mirrors.own.delete(id)
      throw error
    }
    if (answer === null) {
      this.#mirrors.own.delete(id)
      this.#lose(state)
      return undefined
    }
    const [hash, rest, head, back] = answer
    this.#line.seen = Math.max(this.#line.seen, Number(head))
    this.#mirrors.wentBack(Number(back))
    const record = parseRecord(hash) as SessionRecord
    if (state.apply(record, this.#line.node)) this.#tellEnd(state)
    if (state.replacedBy > record.epoch || record.owner !== this.#line.node) {
      this.#yield(state)
      return Number(head)
    }
    // Another node has had it in between, and the log was dropped.
    if (this.#mirrors.own.get(id) !== mirror) return this.#attach(state, cursor)
    // One that was at hand is filled, too: what was sent while another node had the session was told to that.
    mirror.fill(rest, Number(head), this.#line.offset)
    if (mirror.loading) this.#mirrors.open(mirror)
    mirror.readers.add(state)
    state.attached = record.epoch
    state.log = mirror.log
    this.#attached.set(id, state)
    state.left = state.left.filter(({ to }) => to > cursor)
    await widen(state, this.#mirrors, Number(head))
    // Its stream ends with what it can read.
    if (state.endedBy !== undefined) await this.#link.bounded(whole(state))
    return Number(head)
  }

  #release (state: RedisState): void {
    state.attached = 0
    state.log = undefined
    state.sources.length = 0
    release(state)
    this.#attached.delete(state.id)
    this.#mirrors.own.delete(state.id)
  }

  #replaced (state: RedisState, epoch: number): void {
    if (epoch !== Infinity) state.replacedBy = Math.max(state.replacedBy, epoch)
    if (state.attached !== 0 && epoch > state.attached) this.#yield(state)
  }

  /** Another node has a session's stream. */
  #yield (state: RedisState): void {
    state.elsewhere = true
    state.listener?.replaced()
    this.#release(state)
  }

  /** Has a session's stream read what it is to read now, after its record was loaded anew where that may be old. */
  async #refresh (state: RedisState, stale: boolean): Promise<void> {
    const load = async (): Promise<number> => {
      const [hash, position] = await this.#line.run('load', state.id, state.attached === 0 ? 0 : 1) as [string[], string]
      const record = parseRecord(hash)
      if (record === undefined) this.#lose(state)
      else if (state.apply(record, this.#line.node)) this.#tellEnd(state)
      return Number(position)
    }
    if (state.attached === 0) {
      if (stale) await load()
      return
    }
    try {
      await widen(state, this.#mirrors, 0, stale ? load : undefined)
    } catch (error) {
      // Whatever is known of it has to be asked for again.
      state.version = 0
      this.#listener.doubt()
      throw error
    }
  }

  #end (state: RedisState, reason: string): void {
    if (state.over(reason)) this.#tellEnd(state)
  }

  /** Tells of the end of a session, when its stream may read all that is left for it. */
  #tellEnd (state: RedisState): void {
    const finished = this.#finish(state)
    finished.then(() => { state.listener?.ended() }).catch(ignore)
  }

  #finish (state: RedisState): Promise<void> {
    if (state.attached === 0) return Promise.resolve()
    // A stream that cannot have all ends without a word, and its client comes back for the rest.
    state.finished ??= this.#refresh(state, true).then(() => whole(state), () => { state.listener?.forgotten() })
    return state.finished
  }

  /** Redis knows nothing of a session any more. */
  #lose (state: RedisState): void {
    // Whether the store has gone back is found out on the way.
    if (state.attached !== 0) this.#listener.doubt()
    else this.#gone(state)
  }

  #gone (state: RedisState): void {
    const { listener } = state
    this.#release(state)
    const lost = this.#mirrors.back > state.openedAt
    const isNew = state.over(lost ? 'lost' : 'expired')
    if (isNew && lost) listener?.lost()
    else {
      listener?.forgotten()
      // Another node has told the app. Later, for the stream is not to tell its client, who may come back for another.
      if (isNew) setImmediate(() => { listener?.ended() })
    }
  }
}
