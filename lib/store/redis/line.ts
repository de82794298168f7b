import { StoreUnavailable } from '../../errors.js'
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
  /** Its number, 0 when it is in the line no more; and what is before and behind it there. */
  number: number
  before: Order | undefined
  behind: Order | undefined
  attempt: number
  /** What Redis has answered; told when all before it is. */
  reply: { readonly value: unknown } | undefined
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
  #size = 0
  #first: Order | undefined
  #last: Order | undefined
  #node = ''
  #count = 0
  #again: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #idle: (() => void) | undefined
  #closed = false

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
    return new Promise<unknown>((resolve, reject) => { this.#add(script, args, now() + this.#timeout, resolve, reject) })
  }

  /** Runs a script as soon as that can be done, however late. */
  keep (script: Script, ...args: Argument[]): Promise<void> {
    return new Promise<void>(resolve => {
      const done = (): void => { resolve() }
      this.#add(script, args, Infinity, done, done)
    })
  }

  /** Runs a script outside of the line. */
  ask (node: string, script: Script, ...args: Argument[]): Promise<unknown> {
    return this.#link.bounded(this.#command(node, script, 0, 0, 9e15, args))
  }

  /** Goes on under a new name. */
  join (node: string): void {
    const kept = [...this.#pending()].filter(({ reply }) => reply === undefined)
    this.#first = this.#last = undefined
    this.#size = this.#count = this.done = 0
    this.#node = node
    for (const order of kept) this.#enqueue(order)
    this.#resend()
  }

  /** Has no name any more. What was asked for under it and cannot wait is refused. */
  leave (): void {
    this.#node = ''
    for (const order of this.#pending()) if (order.expires !== Infinity && order.reply === undefined) this.#refuse(order)
  }

  /** Sends again what is not answered, for the connection is back. */
  resume (): void {
    this.#resend()
  }

  /** Resolves when all is done. */
  drained (): Promise<void> {
    return this.#size === 0 ? Promise.resolve() : new Promise(resolve => { this.#idle = resolve })
  }

  close (): void {
    this.#closed = true
    clearTimeout(this.#again)
    clearTimeout(this.#expiry)
    for (const order of this.#pending()) this.#refuse(order)
  }

  #add (script: Script, args: readonly Argument[], expires: number, resolve: Order['resolve'], reject: Order['reject']): void {
    if (this.#closed) {
      reject(unavailable())
      return
    }
    const order: Order = { script, args, expires, resolve, reject, number: 0, before: undefined, behind: undefined, attempt: 0, reply: undefined }
    this.#enqueue(order)
    if (expires !== Infinity) this.#expiry ??= setTimeout(this.#expire, this.#timeout).unref()
    if (this.#again === undefined && this.#node !== '' && this.#link.up) this.#send(order)
  }

  #enqueue (order: Order): void {
    order.number = ++this.#count
    order.before = this.#last
    order.behind = undefined
    if (this.#last === undefined) this.#first = order
    else this.#last.behind = order
    this.#last = order
    this.#size++
  }

  /** Takes one out of the line. False if it was not in it any more. */
  #remove (order: Order): boolean {
    const { before, behind } = order
    if (order.number === 0) return false
    order.number = 0
    if (before === undefined) this.#first = behind
    else before.behind = behind
    if (behind === undefined) this.#last = before
    else behind.before = before
    if (--this.#size === 0) this.#idle?.()
    return true
  }

  #refuse (order: Order, cause?: unknown): void {
    this.#remove(order)
    order.reject(unavailable(cause))
    this.#answer()
  }

  /** Passes answers on, in order. */
  #answer (): void {
    for (let order = this.#first; order?.reply !== undefined; order = this.#first) {
      this.#remove(order)
      order.resolve(order.reply.value)
    }
  }

  * #pending (): Iterable<Order> {
    for (let order = this.#first; order !== undefined;) {
      const { behind } = order
      yield order
      order = behind
    }
  }

  #send (order: Order): void {
    const { number, before, expires } = order
    const node = this.#node
    const attempt = ++order.attempt
    this.#command(node, order.script, number, before?.number ?? 0, expires * 1000 + this.offset, order.args).then(reply => {
      if (node !== this.#node || order.number !== number) return
      this.done = Math.max(this.done, number)
      order.reply ??= { value: reply }
      this.#answer()
    }, (error: unknown) => {
      if (node === this.#node && order.number === number && order.attempt === attempt && order.reply === undefined) this.#failed(order, error)
    })
  }

  #command (node: string, { sha }: Script, number: number, before: number, until: number, args: readonly Argument[]): Promise<unknown> {
    const deadline = Math.min(until, 9e15).toFixed()
    return this.#link.command(['EVALSHA', sha, '1', this.#prefix, node, String(number), String(before), String(this.done), String(this.seen), deadline, ...args.map(String)])
  }

  #failed (order: Order, error: unknown): void {
    const code = codeOf(error)
    if (code !== undefined && !PASSING.has(code) && !(order.expires === Infinity && LASTING.has(code))) {
      this.#refuse(order, error)
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
    for (const order of this.#pending()) if (order.reply === undefined) this.#send(order)
  }

  readonly #expire = (): void => {
    this.#expiry = undefined
    const time = now()
    for (const order of this.#pending()) {
      if (order.expires === Infinity || order.reply !== undefined) continue
      if (order.expires > time) {
        this.#expiry = setTimeout(this.#expire, order.expires - time).unref()
        return
      }
      this.#refuse(order)
    }
  }
}

/** What a caller is told: that the store cannot do it, and why. A library's own error may have in it all that was asked for. */
function unavailable (cause?: unknown): Error {
  return Object.assign(new StoreUnavailable(), cause instanceof Error && { cause: new Error(cause.message) })
}
