import { noop } from '../../awaitable.js'
import { now } from '../../log/log.js'
import type { StoreSettings, StoreCallbacks } from '../store.js'
import { Changes } from './changes.js'
import { Link, type RedisClient } from './client.js'
import { Ear } from './ear.js'
import { Line, type Argument } from './line.js'
import { Mailroom } from './mailbox.js'
import { Membership, type Ticked } from './membership.js'
import { Mirrors } from './mirrors.js'
import { parseRecord, type SessionRecord } from './record.js'
import { loadScript, type Operation } from './script.js'
import { States } from './states.js'
import { Streams } from './streams.js'

export interface RedisSettings {
  readonly client: RedisClient
  readonly namespace: string
  readonly lease: number
}

/** Milliseconds in which Redis has to do what it is asked to. */
const TIMEOUT = 2000
/** For how many leases what was used stays at hand, at least. */
const AT_HAND = 2

/** What a process has at hand as one of the nodes that share a Redis, and what happens to it there. */
export class Node {
  readonly line: Line
  readonly mirrors: Mirrors
  readonly mailroom: Mailroom
  readonly states: States
  readonly changes: Changes
  readonly streams: Streams
  /** How many sessions live, as of the last tick. */
  sessions = 0
  readonly #user: StoreCallbacks
  readonly #lease: number
  readonly #link: Link
  readonly #membership: Membership
  readonly #ear: Ear
  #listening = true
  #swept = now()
  #closing = false
  /** Sessions of whose expiry the app is being told. */
  readonly #telling = new Map<string, Promise<void>>()

  constructor (settings: StoreSettings, user: StoreCallbacks, { client, namespace, lease }: RedisSettings) {
    const prefix = `{${namespace}}`
    const script = loadScript(settings, lease)
    // Often enough for the lease, for sessions to expire in time, and for the numbers to be new.
    const interval = Math.floor(Math.min(lease / 5, 1000, Math.max(50, settings.resumeTimeout / 4)))
    this.#user = user
    this.#lease = lease
    this.#link = new Link(client, TIMEOUT, {
      message: (channel, text) => { this.#ear.hear(channel, text) },
      deaf: () => { this.#ear.deaf() },
      hearing: () => { this.#listen() },
      restored: () => {
        this.#membership.beat()
        this.line.resume()
        this.#ear.recover()
      }
    })
    this.line = new Line(this.#link, script, prefix, TIMEOUT, {
      doubt: () => { this.#membership.beat() },
      scriptless: () => { this.#membership.loadScript().catch(noop) }
    })
    this.#membership = new Membership(this.#link, this.line, script, prefix, lease, interval, {
      joined: () => { this.#ear.restart() },
      ticked: ticked => { this.#ticked(ticked) }
    })
    const doubt = (): void => { this.#ear.recover() }
    this.states = new States(this.#membership)
    this.mirrors = new Mirrors(settings, this.#link, this.line, prefix, {
      broadcast: () => { user.onBroadcast() },
      found: (state, epoch, version) => { this.streams.found(state, epoch, version) },
      doubt,
      wentBack: () => { this.streams.wentBack() }
    })
    this.changes = new Changes(this.#link, this.line, this.mirrors, this.states, doubt)
    this.streams = new Streams(this.#link, this.line, this.mirrors, this.states, this.changes, settings.resumeTimeout, doubt)
    this.mailroom = new Mailroom(this.line, { changed: (state, record) => { this.changes.learn(state, record) } })
    this.#ear = new Ear(prefix, this.line, this.mirrors, {
      fenced: () => this.#membership.fenced,
      told: (kind, text) => { this.#told(kind, text) },
      ended: (id, reason) => { this.changes.ended(id, reason) },
      review: () => this.streams.review()
    })
  }

  async start (): Promise<void> {
    try {
      await this.#link.open()
      await this.#link.subscribe(this.mirrors.subscriptions)
      await this.#membership.start()
      await this.mirrors.start()
    } catch (error) {
      this.#stop()
      throw error
    }
  }

  /** Leaves the other nodes, when what has to be done is done, or cannot be. */
  async close (): Promise<void> {
    this.#closing = true
    await this.#link.bounded(Promise.all([this.mailroom.close(), ...this.#telling.values()])).catch(noop)
    // Behind all that is still to be done.
    await this.run('quit').catch(noop)
    this.#stop()
  }

  run (operation: Operation, ...args: Argument[]): Promise<unknown> {
    return this.line.run(operation, ...args)
  }

  #stop (): void {
    this.#membership.close()
    this.line.close()
    this.#link.close()
  }

  #told (kind: string, text: string): void {
    if (kind === 't') this.mailroom.ask(Number(text))
    else if (kind === 'o') this.mailroom.settled(text.slice(0, text.indexOf(' ')), text.slice(text.indexOf(' ') + 1))
    else {
      const [id = '', ...what] = text.split(' ')
      const state = this.states.at(id)
      if (state === undefined) return
      if (kind === 'r') this.streams.replaced(state, Number(what[0]))
      else if (kind === 'q') this.streams.progress(state)
      else this.changes.told(state, kind, what)
    }
  }

  /** What is published is heard again, once it is subscribed to. */
  #listen (): void {
    this.#listening = false
    this.#link.subscribe(this.mirrors.subscriptions).then(() => {
      this.#listening = true
      this.#ear.hearing()
    }).catch(noop)
  }

  #ticked ({ head, back, sessions, due, told, broadcast, lapsed }: Ticked): void {
    this.line.seen = Math.max(this.line.seen, head)
    this.mirrors.wentBack(back)
    this.sessions = sessions
    if (!this.#listening) this.#listen()
    this.#ear.expect(told, broadcast)
    if (lapsed) this.#ear.recover()
    this.mirrors.sweep()
    this.mailroom.ask()
    this.streams.renew()
    // To one that closes nothing falls any more: another is to tell its app, which could not hear of it here in time.
    if (this.#closing) return
    const ended = Promise.all(due.map(([id, deadline]) => this.#expire(id, deadline)))
    // There may be more of them.
    ended.then(() => { if (due.length > 0) this.#membership.beat() }).catch(noop)
    if (now() - this.#swept < this.#lease * AT_HAND) return
    this.#swept = now()
    this.states.sweep()
  }

  async #expire (id: string, deadline: string): Promise<void> {
    const ended = this.run('end', id, 'expired', 0, deadline) as Promise<[number, string[]]>
    // An app that is slow to hear of it is not told again.
    if (!this.#telling.has(id)) this.#telling.set(id, this.#tell(id, ended).catch(noop).finally(() => { this.#telling.delete(id) }))
    await ended
  }

  /** Tells the app of an expiry. Where this process dies before the app has heard of it, another tells its own. */
  async #tell (id: string, ended: Promise<[number, string[]]>): Promise<void> {
    const [done, hash] = await ended
    if (Number(done) === 0) return
    const state = this.states.of(id, parseRecord(hash) as SessionRecord)
    this.changes.learn(state, hash)
    await this.changes.over(state, 'expired')
    await this.#user.onExpire(state)
    await this.line.keep('heard', id)
  }
}
