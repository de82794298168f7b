import { StoreUnavailable } from '../../errors.js'
import { ignore } from '../../promises.js'
import { now } from '../log.js'
import type { Link } from './client.js'
import type { Script } from './scripts.js'

export type Argument = string | number

interface Order {
  readonly script: Script
  readonly args: readonly Argument[]
  /** When its caller is told that it could not be done; never where it has to be done whenever it can. */
  readonly expires: number
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
  /** Where it stands in the line. */
  number: number
  attempt: number
}

export interface LineListener {
  /** The store does not know this node any more. */
  fenced (): void
  /** The store's clock is not where it was thought to be. */
  late (): void
  /** The store has lost its scripts. */
  scriptless (): void
}

// Redis says so in capitals; anything else is the connection's failure.
const CODE = /^[A-Z]{2,}\b/
// What passes, or is for another node of Redis.
const PASSING = new Set(['ORDER', 'LATE', 'NOSCRIPT', 'FENCED', 'LOADING', 'READONLY', 'MASTERDOWN', 'CLUSTERDOWN', 'TRYAGAIN', 'BUSY', 'NOREPLICAS', 'UNBLOCKED'])
// What has to be done waits for these to pass, too.
const LASTING = new Set(['OOM', 'MISCONF'])
const PAUSE = 50

/** The code of Redis's error; `undefined` where the error is another's. */
export function codeOf (error: unknown): string | undefined {
  return error instanceof Error ? CODE.exec(error.message)?.[0] : undefined
}

/**
 * The scripts that a node runs, each exactly once and in the order in which they were asked for, though connections
 * break and answers get lost. Each carries its number and that of the one before it that is not answered yet: Redis
 * refuses what would overtake, and does not repeat what has run. So a failure costs no more than sending all again.
 */
export class Line {
  /** The newest position that this process knows of: a store whose newest is older has lost something. */
  seen = 0
  /** How far the clock of Redis, in microseconds, is ahead of ours. */
  offset = 0
  /** The number of the last that is known to have run. */
  done = 0
  readonly #link: Link
  readonly #prefix: string
  readonly #timeout: number
  readonly #listener: LineListener
  /** By number, in order. */
  #pending = new Map<number, Order>()
  #node = ''
  #last = 0
  #tail = 0
  #again: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #idle: (() => void) | undefined

  constructor (link: Link, prefix: string, timeout: number, listener: LineListener) {
    this.#link = link
    this.#prefix = prefix
    this.#timeout = timeout
    this.#listener = listener
  }

  /** The name that this node goes by; empty while it has none. */
  get node (): string {
    return this.#node
  }

  /** Runs a script. Rejects with StoreUnavailable when that cannot be done in time; then it is not done later, either. */
  run (script: Script, ...args: Argument[]): Promise<unknown> {
    return new Promise<unknown>((resolve, reject) => {
      this.#add({ script, args, expires: now() + this.#timeout, resolve, reject, number: 0, attempt: 0 })
    })
  }

  /** Runs a script as soon as that can be done, however late. */
  keep (script: Script, ...args: Argument[]): void {
    this.#add({ script, args, expires: Infinity, resolve: ignore, reject: ignore, number: 0, attempt: 0 })
  }

  /** Runs a script outside of the line. */
  ask (node: string, script: Script, ...args: Argument[]): Promise<unknown> {
    return this.#link.bounded(this.#command(node, script, 0, 0, 9e15, args))
  }

  /** Goes on under a name, which is new or was kept. What was asked for under another and cannot wait is refused. */
  join (node: string): void {
    if (node !== this.#node) {
      const orders = [...this.#pending.values()]
      this.#pending = new Map()
      this.#last = this.#tail = this.done = 0
      this.#node = node
      for (const order of orders) {
        if (order.expires === Infinity) this.#enqueue(order)
        else order.reject(new StoreUnavailable())
      }
    }
    this.#resend()
  }

  /** Has no name for now. */
  leave (): void {
    const orders = [...this.#pending.values()]
    this.#node = ''
    for (const order of orders) {
      if (order.expires === Infinity) continue
      this.#pending.delete(order.number)
      order.reject(new StoreUnavailable())
    }
  }

  /** Sends again what is not answered, for the connection is back. */
  resume (): void {
    this.#resend()
  }

  /** Resolves when all is done. */
  drained (): Promise<void> {
    return this.#pending.size === 0 ? Promise.resolve() : new Promise(resolve => { this.#idle = resolve })
  }

  close (): void {
    clearTimeout(this.#again)
    clearTimeout(this.#expiry)
    for (const { reject } of this.#pending.values()) reject(new StoreUnavailable())
    this.#pending.clear()
  }

  #add (order: Order): void {
    const after = this.#tail
    this.#enqueue(order)
    if (order.expires !== Infinity) this.#expiry ??= setTimeout(this.#expire, this.#timeout).unref()
    if (this.#again === undefined && this.#node !== '' && this.#link.up) this.#send(order, after)
  }

  #enqueue (order: Order): void {
    order.number = this.#tail = ++this.#last
    this.#pending.set(order.number, order)
  }

  #send (order: Order, after: number): void {
    const node = this.#node
    const attempt = ++order.attempt
    // The one before it may have been answered, and is none to wait for.
    const before = this.#pending.has(after) ? after : 0
    this.#command(node, order.script, order.number, before, order.expires * 1000 + this.offset, order.args).then(reply => {
      if (!this.#remove(order, node)) return
      this.done = Math.max(this.done, order.number)
      order.resolve(reply)
    }, (error: unknown) => {
      if (node === this.#node && order.attempt === attempt && this.#pending.get(order.number) === order) this.#failed(order, error)
    })
  }

  #command (node: string, { sha }: Script, number: number, before: number, until: number, args: readonly Argument[]): Promise<unknown> {
    const deadline = Math.min(until, 9e15).toFixed()
    return this.#link.command(['EVALSHA', sha, '1', this.#prefix, node, String(number), String(before), String(this.done), String(this.seen), deadline, ...args.map(String)])
  }

  #remove (order: Order, node: string): boolean {
    if (node !== this.#node || this.#pending.get(order.number) !== order) return false
    this.#pending.delete(order.number)
    if (this.#pending.size === 0) this.#idle?.()
    return true
  }

  #failed (order: Order, error: unknown): void {
    const code = codeOf(error)
    if (code !== undefined && !PASSING.has(code) && !(order.expires === Infinity && LASTING.has(code))) {
      this.#remove(order, this.#node)
      order.reject(unavailable(error))
      return
    }
    if (code === 'FENCED') this.#listener.fenced()
    else if (code === 'LATE') this.#listener.late()
    else if (code === 'NOSCRIPT') this.#listener.scriptless()
    this.#again ??= setTimeout(() => { this.#resend() }, PAUSE).unref()
  }

  #resend (): void {
    clearTimeout(this.#again)
    this.#again = undefined
    if (this.#node === '' || !this.#link.up) return
    let after = 0
    for (const order of this.#pending.values()) {
      this.#send(order, after)
      after = order.number
    }
  }

  readonly #expire = (): void => {
    this.#expiry = undefined
    const time = now()
    for (const order of this.#pending.values()) {
      if (order.expires === Infinity) continue
      if (order.expires > time) {
        this.#expiry = setTimeout(this.#expire, order.expires - time).unref()
        return
      }
      this.#pending.delete(order.number)
      order.reject(new StoreUnavailable())
    }
  }
}

/** What a caller is told: that the store cannot do it, and why. */
export function unavailable (cause: unknown): Error {
  const error = new StoreUnavailable()
  if (error !== cause) error.cause = cause
  return error
}
