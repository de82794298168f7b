import { randomBytes } from 'node:crypto'
import { now } from '../../log/log.js'
import type { Link } from './client.js'
import { codeOf, type Line } from './line.js'
import type { Script } from './script.js'

export interface Ticked {
  /** Whether the node might have been taken for dead, and was not. */
  readonly lapsed: boolean
  readonly head: number
  readonly back: number
  /** The number of the last message to this node. */
  readonly told: number
  /** The newest position of the broadcasts. */
  readonly broadcast: number
  readonly sessions: number
  /** Sessions that are due, which fall to this node, each with the deadline by which that was found. */
  readonly due: ReadonlyArray<readonly [id: string, deadline: string]>
}

export interface MembershipListener {
  /** The process has a new name among the nodes. */
  joined (): void
  ticked (ticked: Ticked): void
}

type Reply = readonly [time: string, head: string, back: string, told: string, broadcast: string, sessions: number, due: readonly string[]]

/** Has this process be one of the nodes: it shows that it lives, and knows when it may be taken for dead. */
export class Membership {
  readonly #link: Link
  readonly #line: Line
  readonly #script: Script
  readonly #prefix: string
  readonly #lease: number
  readonly #interval: number
  readonly #listener: MembershipListener
  #leaseUntil = 0
  #node = ''
  /** The store has forgotten a name that it should know, so it has lost something, and was not told so yet. */
  #lost = false
  #timer: NodeJS.Timeout | undefined
  #beating: Promise<void> | undefined
  #loading: Promise<unknown> | undefined

  constructor (link: Link, line: Line, script: Script, prefix: string, lease: number, interval: number, listener: MembershipListener) {
    this.#link = link
    this.#line = line
    this.#script = script
    this.#prefix = prefix
    this.#lease = lease
    this.#interval = interval
    this.#listener = listener
  }

  /** Whether the other nodes may take this one for dead. */
  get fenced (): boolean {
    return now() > this.#leaseUntil
  }

  async start (): Promise<void> {
    await this.loadScript()
    await this.#join()
    this.#timer = setInterval(() => { this.beat() }, this.#interval).unref()
  }

  close (): void {
    clearInterval(this.#timer)
  }

  /** Loads the script, once for all who miss it at a time. */
  loadScript (): Promise<unknown> {
    this.#loading ??= this.#link.bounded(this.#link.command(['SCRIPT', 'LOAD', this.#script.text]))
      .finally(() => { this.#loading = undefined })
    return this.#loading
  }

  /** Shows that this node lives, one time at once. */
  beat (): void {
    // Before it has begun it would get two names; and while Redis is away signs of life would gather in the client's queue.
    if (this.#timer === undefined || !this.#link.up) return
    this.#beating ??= this.#beat().catch(() => {
      // The next tick tries again.
    }).finally(() => { this.#beating = undefined })
  }

  async #beat (): Promise<void> {
    try {
      if (this.#line.node === '') await this.#join()
      else await this.#tick(this.#node, false)
    } catch (error) {
      const code = codeOf(error)
      if (code === 'NOSCRIPT') await this.loadScript()
      else if (code === 'FENCED') {
        this.#lost ||= !this.fenced
        this.#line.leave()
        await this.#join()
      } else throw error
    }
  }

  /** Takes a new name. */
  async #join (): Promise<void> {
    const node = randomBytes(9).toString('base64url')
    const renamed = this.#node !== ''
    await this.#link.subscribe([`${this.#prefix}:n:${node}`])
    if (renamed) this.#link.unsubscribe([`${this.#prefix}:n:${this.#node}`])
    this.#node = node
    this.#line.done = 0
    const ticked = await this.#tick(node, true)
    this.#lost = false
    this.#line.join(node)
    if (renamed) this.#listener.joined()
    this.#listener.ticked(ticked)
  }

  async #tick (node: string, register: boolean): Promise<Ticked> {
    const sent = now()
    const reply = await this.#line.ask(node, 'tick', register ? 1 : 0, this.#lost ? 1 : 0, this.#interval) as Reply
    const received = now()
    const lapsed = !register && this.fenced
    this.#leaseUntil = sent + this.#lease
    const [time, head, back, told, broadcast, sessions, due] = reply
    this.#line.offset = Number(time) - (sent + received) * 500
    const ticked: Ticked = {
      lapsed,
      head: Number(head),
      back: Number(back),
      told: Number(told),
      broadcast: Number(broadcast),
      sessions: Number(sessions),
      due: due.flatMap((id, index) => index % 2 === 0 ? [[id, due[index + 1] as string] as const] : [])
    }
    if (!register) this.#listener.ticked(ticked)
    return ticked
  }
}
