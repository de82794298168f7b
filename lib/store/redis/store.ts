import { EntryTooLarge, SessionOver } from '../../errors.js'
import { ignore } from '../../promises.js'
import { serialize } from '../../wire/frame.js'
import { now, type Draft, type LogBounds } from '../log.js'
import type { Mailbox } from '../mailbox.js'
import type { SessionData, SessionState } from '../state.js'
import type { Store, StoreSettings, StoreStats, StoreUser } from '../store.js'
import { Link, type RedisClient } from './client.js'
import { Line } from './line.js'
import { Mailroom } from './mailbox.js'
import { Membership, type Ticked } from './membership.js'
import { Mirrors } from './mirrors.js'
import { parseRecord, type RedisState } from './record.js'
import { loadScripts, type Scripts } from './scripts.js'
import { States } from './states.js'
import { Streams } from './streams.js'

export interface RedisSettings {
  readonly client: RedisClient
  readonly namespace: string
  readonly lease: number
}

/** Milliseconds in which Redis has to do what it is asked to. */
const TIMEOUT = 2000
/** Milliseconds for which what was used stays at hand, at least. */
const AT_HAND = 10_000
/** Milliseconds between looks at a log that is read on another node. */
const LOOK = 200

/** Sessions in Redis, for any number of processes that share it. */
export class RedisStore implements Store {
  readonly #settings: StoreSettings
  readonly #user: StoreUser
  readonly #scripts: Scripts
  readonly #link: Link
  readonly #line: Line
  readonly #membership: Membership
  readonly #mirrors: Mirrors
  readonly #mailroom: Mailroom
  readonly #states = new States()
  readonly #streams: Streams
  #listening = true
  #sessions = 0
  #swept = now()

  constructor (settings: StoreSettings, user: StoreUser, { client, namespace, lease }: RedisSettings) {
    const prefix = `{${namespace}}`
    // Often enough for the lease, and for sessions to expire in time.
    const interval = Math.floor(Math.min(lease / 5, Math.max(50, settings.resumeTimeout / 4)))
    this.#settings = settings
    this.#user = user
    this.#scripts = loadScripts(settings, lease)
    this.#link = new Link(client, TIMEOUT, {
      message: (channel, text) => { this.#mirrors.message(channel, text) },
      deaf: () => { this.#mirrors.deaf() },
      hearing: () => { this.#listen() },
      restored: () => {
        this.#membership.beat()
        this.#line.resume()
        this.#mirrors.recover()
      }
    })
    this.#line = new Line(this.#link, prefix, TIMEOUT, {
      fenced: () => { this.#membership.beat() },
      late: () => { this.#membership.beat() },
      scriptless: () => { this.#membership.loadScripts().catch(ignore) }
    })
    this.#membership = new Membership(this.#link, this.#line, this.#scripts, prefix, lease, interval, {
      joined: () => {
        this.#mirrors.restart()
      },
      ticked: ticked => { this.#ticked(ticked) }
    })
    this.#mirrors = new Mirrors(settings, this.#link, this.#line, this.#scripts, prefix, {
      broadcast: () => { user.broadcast() },
      fenced: () => this.#membership.fenced,
      told: (kind, text) => { this.#told(kind, text) },
      ended: (id, reason) => { this.#streams.ended(id, reason) },
      replaced: (id, epoch) => { this.#streams.silence(id, epoch) },
      review: () => this.#streams.review()
    })
    this.#mailroom = new Mailroom(this.#line, this.#scripts, { changed: (state, record) => { this.#streams.learn(state, record) } })
    this.#streams = new Streams(this.#link, this.#line, this.#scripts, this.#mirrors, this.#states, settings.resumeTimeout)
  }

  async start (): Promise<this> {
    try {
      await this.#link.open()
      await this.#link.subscribe(this.#mirrors.subscriptions)
      await this.#membership.start()
      await this.#mirrors.start()
    } catch (error) {
      await this.#stop()
      throw error
    }
    return this
  }

  async open (id: string, principal: string | undefined): Promise<SessionState | undefined> {
    const openedAt = Number(await this.#run('open', id, principal === undefined ? 0 : 1, principal ?? ''))
    if (openedAt === -1) return undefined
    const state = this.#states.of(id, { principal, openedAt })
    state.version = 1
    return state
  }

  async find (id: string): Promise<SessionState | undefined> {
    const [hash] = await this.#run('load', id, 0) as [string[]]
    const record = parseRecord(hash)
    const state = record === undefined ? this.#states.at(id) : this.#states.of(id, record)
    if (state !== undefined) this.#streams.learn(state, hash)
    return record === undefined ? undefined : state
  }

  recall (id: string): SessionState | Promise<SessionState | undefined> {
    return this.#states.use(id) ?? this.find(id)
  }

  hold (state: SessionState): void {
    this.#run('hold', 1, state.id, -1).catch(ignore)
  }

  attach (state: SessionState, cursor: number): Promise<number | undefined> {
    return this.#streams.attach(state as RedisState, cursor)
  }

  detach (state: SessionState): void {
    this.#streams.detach(state as RedisState)
  }

  async update (given: SessionState, change: SessionData): Promise<void> {
    const state = given as RedisState
    const properties = Object.entries(change).map(([name, value]) => [name, value === undefined ? '' : serialize(value)] as const)
    const version = Number(await this.#run('update', state.id, ...properties.flat()))
    if (version === 0) throw this.#over(state)
    await this.#streams.changed(state, version, () => {
      const data: SessionData = { ...state.data }
      for (const [name, json] of properties) {
        if (json === '') delete data[name]
        else data[name] = JSON.parse(json)
      }
      state.data = data
    })
  }

  async join (given: SessionState, channel: string): Promise<void> {
    const state = given as RedisState
    const [version, from] = await this.#run('join', state.id, channel) as [number, string]
    if (version === 0) throw this.#over(state)
    await this.#streams.joined(state, version, channel, Number(from))
  }

  async leave (given: SessionState, channel: string): Promise<void> {
    const state = given as RedisState
    const [version, to] = await this.#run('leave', state.id, channel) as [number, string]
    if (version !== 0) await this.#streams.left(state, version, channel, Number(to))
  }

  async end (given: SessionState, reason: string, keep: boolean): Promise<boolean> {
    const state = given as RedisState
    const lived = state.endedBy === undefined
    state.ending = true
    try {
      const [ended] = await this.#run('end', state.id, reason, keep ? 1 : 0, '') as [number]
      if (ended === 1) await this.#streams.over(state, reason)
      else if (state.endedBy === undefined) await this.find(state.id)
      // Another process was faster.
      if (ended !== 1 && lived) state.listener?.ended()
      return ended === 1
    } finally {
      state.ending = false
    }
  }

  async send (state: SessionState, draft: Draft): Promise<void> {
    if (state.endedBy !== undefined) throw new SessionOver()
    demandRoom(draft, this.#settings.log)
    if (await this.#append('s', state.id, draft) === -1) throw this.#over(state as RedisState)
  }

  async publish (channel: string, draft: Draft): Promise<void> {
    demandRoom(draft, this.#settings.channelLog)
    await this.#append('c', channel, draft)
  }

  async broadcast (draft: Draft): Promise<void> {
    demandRoom(draft, this.#settings.channelLog)
    await this.#append('b', '', draft)
  }

  async drained (state: SessionState): Promise<void> {
    while (state.endedBy === undefined && await this.#run('drained', state.id) !== 1) {
      await new Promise(resolve => { setTimeout(resolve, LOOK).unref() })
    }
  }

  mailbox (state: SessionState): Mailbox {
    return this.#mailroom.mailbox(state as RedisState)
  }

  async count (channel: string): Promise<number> {
    return Number(await this.#run('count', channel))
  }

  stats (): StoreStats {
    return { sessions: this.#sessions, channels: this.#mirrors.channels.size }
  }

  async close (): Promise<readonly SessionState[]> {
    await this.#link.bounded(this.#line.drained()).catch(ignore)
    await this.#run('quit').catch(ignore)
    await this.#stop()
    return []
  }

  async #stop (): Promise<void> {
    this.#membership.close()
    this.#line.close()
    this.#link.close()
  }

  #run (script: keyof Scripts, ...args: Array<string | number>): Promise<unknown> {
    return this.#line.run(this.#scripts[script], ...args)
  }

  async #append (kind: string, name: string, { frame, except = '' }: Draft): Promise<number> {
    const position = Number(await this.#run('append', kind, name, frame, except))
    this.#line.seen = Math.max(this.#line.seen, position)
    return position
  }

  /** What a caller is told whose session has ended; why it has is asked for. */
  #over (state: RedisState): Error {
    if (state.endedBy === undefined) this.find(state.id).catch(ignore)
    return new SessionOver()
  }

  #told (kind: string, text: string): void {
    if (kind === 't') this.#mailroom.ask(Number(text))
    else if (kind === 'o') this.#mailroom.settled(text.slice(0, text.indexOf(' ')), text.slice(text.indexOf(' ') + 1))
    else this.#streams.told(kind, text)
  }

  /** What is published is heard again, once it is subscribed to. */
  #listen (): void {
    this.#listening = false
    this.#link.subscribe(this.#mirrors.subscriptions).then(() => {
      this.#listening = true
      this.#mirrors.hearing()
    }).catch(ignore)
  }

  #ticked ({ head, back, sessions, due, told, broadcast }: Ticked): void {
    this.#line.seen = Math.max(this.#line.seen, head)
    this.#mirrors.wentBack(back)
    this.#sessions = sessions
    if (!this.#listening) this.#listen()
    this.#mirrors.expect(told, broadcast)
    this.#mirrors.sweep()
    this.#mailroom.ask()
    this.#streams.renew()
    const ended = Promise.all(due.map(([id, deadline]) => this.#expire(id, deadline)))
    // There may be more of them.
    ended.then(() => { if (due.length > 0) this.#membership.beat() }).catch(ignore)
    if (now() - this.#swept < AT_HAND) return
    this.#swept = now()
    this.#states.sweep()
  }

  async #expire (id: string, deadline: string): Promise<void> {
    const [ended, hash] = await this.#run('end', id, 'expired', 0, deadline) as [number, string[]]
    const record = ended === 1 ? parseRecord(hash) : undefined
    if (record === undefined) return
    const state = this.#states.of(id, record)
    this.#streams.learn(state, hash)
    await this.#streams.over(state, 'expired')
    this.#user.expired(state)
  }
}

function demandRoom ({ frame }: Draft, { bytes: most }: LogBounds): void {
  // A character takes three bytes at most: most frames need not be measured.
  if (frame.length * 3 <= most) return
  const bytes = Buffer.byteLength(frame)
  if (bytes > most) throw new EntryTooLarge(bytes, most)
}
