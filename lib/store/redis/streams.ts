import { noop } from '../../awaitable.js'
import { now } from '../../log/log.js'
import type { SessionListener } from '../session-state.js'
import type { Changes } from './changes.js'
import type { Link } from './client.js'
import type { Line } from './line.js'
import type { Rest } from './mirror.js'
import type { Mirrors } from './mirrors.js'
import { parseRecord, type RedisState, type SessionRecord } from './record.js'
import { dismiss, whole, widen } from './sources.js'
import type { States } from './states.js'

type Attached = readonly [record: string[], rest: Rest, head: string, back: string] | null

// Sessions that are asked about at once.
const CHUNK = 500

/** The sessions with a stream on this node. */
export class Streams {
  readonly #link: Link
  readonly #line: Line
  readonly #mirrors: Mirrors
  readonly #states: States
  readonly #changes: Changes
  readonly #doubt: () => void
  readonly #renewal: number
  #renewed = now()

  /** `doubt` is called where what is known here may be wrong. */
  constructor (link: Link, line: Line, mirrors: Mirrors, states: States, changes: Changes, resumeTimeout: number, doubt: () => void) {
    this.#link = link
    this.#line = line
    this.#mirrors = mirrors
    this.#states = states
    this.#changes = changes
    this.#doubt = doubt
    this.#renewal = resumeTimeout / 4
  }

  attach (state: RedisState, cursor: number): Promise<number | undefined> {
    return this.#queue(state, () => this.#attach(state, cursor))
  }

  detach (state: RedisState): void {
    const { cursor } = state
    const detach = (): void => {
      const epoch = state.attached
      dismiss(state, this.#mirrors)
      this.#line.keep('detach', state.id, epoch === 0 ? '' : epoch, cursor)
    }
    // The answer to an attach that is on its way must not come after it.
    if (state.attaching === undefined) detach()
    else this.#queue(state, async () => { detach() })
  }

  /** Another node has taken a session's stream, with an epoch. */
  replaced (state: RedisState, epoch: number): void {
    state.replacedBy = Math.max(state.replacedBy, epoch)
    if (state.attached !== 0 && epoch > state.attached) this.#yield(state)
  }

  /** A producer elsewhere asks how far a session's stream is. */
  progress (state: RedisState): void {
    if (state.attached !== 0) this.#line.keep('progress', state.id, state.attached, (state.listener as SessionListener).cursor)
  }

  /** A session, with a stream here of an epoch, has a version; none where the stream is not its stream any more. */
  found (state: RedisState, epoch: number, version: number | undefined): void {
    if (state.attached !== epoch) return
    if (version === undefined) {
      // Until it is known why, it reads nothing.
      state.log = undefined
      state.ranges.length = 0
    } else if (version !== state.version) this.#changes.refresh(state).catch(noop)
  }

  /** Has sessions live on as long as they have a stream here. */
  renew (): void {
    if (now() - this.#renewed >= this.#renewal) this.#review(this.#mirrors.attached).catch(noop)
  }

  /** The store has gone back to an earlier state. Its versions begin anew from there: by none of them can anything be told to be old. */
  wentBack (): void {
    for (const state of this.#atHand()) state.version = 0
    this.#doubt()
  }

  /** Asks what has become of all sessions at hand. */
  async review (): Promise<void> {
    await this.#review([...this.#atHand()])
  }

  #atHand (): Set<RedisState> {
    return new Set([...this.#mirrors.attached, ...this.#states.living()])
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
        if (answer === 'gone') this.#changes.gone(state)
        else if (answer === 'replaced') this.#yield(state)
        else {
          if (answer === 'taken') this.#doubt()
          if (Number(answer) !== state.version) this.#changes.refresh(state).catch(noop)
        }
      }
    }
  }

  async #queue<T> (state: RedisState, work: () => Promise<T>): Promise<T> {
    const done = state.attaching === undefined ? work() : state.attaching.then(work)
    const settled = done.then(noop, noop)
    state.attaching = settled
    try {
      return await done
    } finally {
      if (state.attaching === settled) state.attaching = undefined
    }
  }

  async #attach (state: RedisState, cursor: number): Promise<number | undefined> {
    const { id } = state
    // No further than the store is; and one that is here may be less far than the one that comes.
    const from = Math.min(cursor, this.#line.seen)
    state.readFrom = state.attached === 0 ? from : Math.min(state.readFrom, from)
    const mirror = this.#mirrors.expectLog(id)
    let answer: Attached
    try {
      answer = await this.#line.run('attach', id, mirror.loading ? 0 : mirror.log.lastPosition) as Attached
    } catch (error) {
      if (mirror.loading) this.#mirrors.own.delete(id)
      throw error
    }
    if (answer === null) {
      this.#mirrors.own.delete(id)
      this.#changes.learn(state, [])
      return undefined
    }
    const [hash, rest, head, back] = answer
    this.#line.seen = Math.max(this.#line.seen, Number(head))
    this.#mirrors.wentBack(Number(back))
    const record = parseRecord(hash) as SessionRecord
    this.#changes.take(state, record)
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
    await widen(state, this.#mirrors, Number(head))
    // Its stream ends with what it can read.
    if (state.closeReason !== undefined) await this.#link.bounded(whole(state))
    return Number(head)
  }

  /** Another node has a session's stream. */
  #yield (state: RedisState): void {
    state.attachedRemotely = true
    state.listener?.onReplaced()
    dismiss(state, this.#mirrors)
  }
}
