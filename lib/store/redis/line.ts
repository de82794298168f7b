import { StoreUnavailable } from '../../errors.js'
import { now } from '../../log/log.js'
import type { Link } from './client.js'
import type { Operation, Script } from './script.js'

export type Argument = string | number

interface Order {
  readonly operation: Operation
  readonly args: readonly Argument[]
  /** When its caller is told that it could not be done; never where it has to be done whenever it can. */
  readonly expires: number
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
  /** Its number, 0 when it is in the line no more; and what is before and behind it there. */
  number: number
  before: Order | undefined
  behind: Order | undefined
  /** Of the batch that it was sent in last; 0 before it was. */
  batch: number
}

/** Why an order of a batch has failed, if one has; and the answers to those before it. */
type Done = readonly [failure: string, answers: readonly unknown[]]

export interface LineListener {
  /** The store does not know this node any more, or its clock is not where it was thought to be. */
  doubt (): void
  /** The store has lost its script. */
  scriptless (): void
}

// Redis says so in capitals; anything else is the connection's failure.
const CODE = /^[A-Z]{2,}\b/
// What passes, or is for another node of Redis.
const PASSING = new Set(['ORDER', 'LATE', 'NOSCRIPT', 'FENCED', 'LOADING', 'READONLY', 'MASTERDOWN', 'CLUSTERDOWN', 'TRYAGAIN', 'BUSY', 'NOREPLICAS', 'UNBLOCKED'])
// What has to be done waits for these to pass, too.
const LASTING = new Set(['OOM', 'MISCONF'])
const PAUSE = 50
// Orders that are sent at once: all that one turn of the event loop brings, but Redis does nothing else meanwhile.
const MOST = 64
// When they have so many arguments, it is enough: a client is called with all of them, which has its bounds.
const MANY = 10_000

/** The code of Redis's error; `undefined` where the error is another's. */
export function codeOf (error: unknown): string | undefined {
  return CODE.exec((error as Error).message)?.[0]
}

/**
 * What a node has Redis do, each order exactly once and in turn, though connections break and answers get lost. Those
 * of one turn of the event loop go in one command. Each has a number, and a command that of the order before its first:
 * Redis refuses what would overtake, and does not repeat what is done. So a failure costs no more than sending all again.
 */
export class Line {
  /** The newest position that this process knows of: a store whose newest is older has lost something. */
  seen = 0
  /** How far the clock of Redis, in microseconds, is ahead of ours. */
  offset = 0
  /** The number of the last that is known to be done. */
  done = 0
  readonly #link: Link
  readonly #script: Script
  readonly #prefix: string
  readonly #timeout: number
  readonly #listener: LineListener
  #first: Order | undefined
  #last: Order | undefined
  #node = ''
  #count = 0
  #batch = 0
  #flush: NodeJS.Immediate | undefined
  #again: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #closed = false

  constructor (link: Link, script: Script, prefix: string, timeout: number, listener: LineListener) {
    this.#link = link
    this.#script = script
    this.#prefix = prefix
    this.#timeout = timeout
    this.#listener = listener
  }

  /** The name that this node goes by; empty while it has none. */
  get node (): string {
    return this.#node
  }

  /** Gives an order. Rejects with StoreUnavailable when that cannot be done in time; then it is not done later, either. */
  run (operation: Operation, ...args: Argument[]): Promise<unknown> {
    return new Promise<unknown>((resolve, reject) => { this.#add(operation, args, now() + this.#timeout, resolve, reject) })
  }

  /** Gives an order that is done as soon as that is possible, however late. */
  keep (operation: Operation, ...args: Argument[]): Promise<void> {
    return new Promise<void>(resolve => {
      const done = (): void => { resolve() }
      this.#add(operation, args, Infinity, done, done)
    })
  }

  /** Has an operation done outside of the line. */
  async ask (node: string, operation: Operation, ...args: Argument[]): Promise<unknown> {
    const [failure, [answer]] = await this.#link.bounded(this.#command(node, 0, [operation, 0, 0, args.length, ...args]))
    if (failure !== '') throw new Error(failure)
    return answer
  }

  /** Goes on under a new name. */
  join (node: string): void {
    const kept = [...this.#pending()]
    this.#first = this.#last = undefined
    this.#count = this.done = 0
    this.#node = node
    for (const order of kept) this.#enqueue(order)
    this.#resend()
  }

  /** Has no name any more. What was asked for under it and cannot wait is refused. */
  leave (): void {
    this.#node = ''
    for (const order of this.#pending()) if (order.expires !== Infinity) this.#refuse(order)
  }

  /** Sends again what is not answered, for the connection is back. */
  resume (): void {
    this.#resend()
  }

  close (): void {
    this.#closed = true
    clearImmediate(this.#flush)
    clearTimeout(this.#again)
    clearTimeout(this.#expiry)
    for (const order of this.#pending()) this.#refuse(order)
  }

  #add (operation: Operation, args: readonly Argument[], expires: number, resolve: Order['resolve'], reject: Order['reject']): void {
    if (this.#closed) {
      reject(unavailable())
      return
    }
    const order: Order = { operation, args, expires, resolve, reject, number: 0, before: undefined, behind: undefined, batch: 0 }
    this.#enqueue(order)
    if (expires !== Infinity) this.#expiry ??= setTimeout(this.#expire, this.#timeout).unref()
    this.#flush ??= setImmediate(() => { this.#sendNew() })
  }

  #enqueue (order: Order): void {
    order.number = ++this.#count
    order.before = this.#last
    order.behind = undefined
    if (this.#last === undefined) this.#first = order
    else this.#last.behind = order
    this.#last = order
  }

  #remove (order: Order): void {
    const { before, behind } = order
    order.number = 0
    if (before === undefined) this.#first = behind
    else before.behind = behind
    if (behind === undefined) this.#last = before
    else behind.before = before
  }

  #refuse (order: Order, cause?: unknown): void {
    this.#remove(order)
    order.reject(unavailable(cause))
  }

  * #pending (first = this.#first): Iterable<Order> {
    for (let order = first; order !== undefined;) {
      const { behind } = order
      yield order
      order = behind
    }
  }

  #sendNew (): void {
    this.#flush = undefined
    let first = this.#last
    while (first?.before?.batch === 0) first = first.before
    if (first?.batch === 0) this.#send(first)
  }

  /** Sends what is not answered, all that is behind an order and that itself. */
  #send (first: Order | undefined): void {
    // When the pause is over, or it has a name and a connection, all is sent.
    if (this.#again !== undefined || this.#node === '' || !this.#link.up) return
    let batch: Order[] = []
    let size = 0
    for (const order of this.#pending(first)) {
      batch.push(order)
      size += order.args.length
      if (batch.length < MOST && size < MANY) continue
      this.#sendBatch(batch)
      batch = []
      size = 0
    }
    if (batch.length > 0) this.#sendBatch(batch)
  }

  #sendBatch (orders: readonly Order[]): void {
    const node = this.#node
    const batch = ++this.#batch
    const what: Argument[] = []
    for (const order of orders) {
      const { operation, number, expires, args } = order
      what.push(operation, number, Math.min(expires * 1000 + this.offset, 9e15).toFixed(), args.length)
      for (const argument of args) what.push(argument)
      order.batch = batch
    }
    const isOpen = (order: Order): boolean => node === this.#node && order.number !== 0
    this.#command(node, orders[0]?.before?.number ?? 0, what).then(([failure, answers]) => {
      for (const [index, value] of answers.entries()) {
        const order = orders[index] as Order
        if (!isOpen(order)) continue
        this.done = Math.max(this.done, order.number)
        this.#remove(order)
        order.resolve(value)
      }
      if (failure !== '') this.#failed(orders.slice(answers.length, answers.length + 1).filter(isOpen), new Error(failure))
    }, (error: unknown) => {
      this.#failed(orders.filter(order => order.batch === batch && isOpen(order)), error)
    })
  }

  // A client may throw, too, where there are too many arguments for it.
  async #command (node: string, before: number, what: readonly Argument[]): Promise<Done> {
    return await this.#link.command(['EVALSHA', this.#script.sha, '1', this.#prefix, node, String(before), String(this.done), String(this.seen), ...what.map(String)]) as Done
  }

  #failed (orders: readonly Order[], error: unknown): void {
    // Those behind them have to be sent again, whatever becomes of these.
    this.#again ??= setTimeout(() => { this.#resend() }, PAUSE).unref()
    const code = codeOf(error)
    if (code === 'FENCED' || code === 'LATE') this.#listener.doubt()
    else if (code === 'NOSCRIPT') this.#listener.scriptless()
    else if (code !== undefined && !PASSING.has(code)) {
      for (const order of orders) if (order.expires !== Infinity || !LASTING.has(code)) this.#refuse(order, error)
    }
  }

  #resend (): void {
    clearTimeout(this.#again)
    this.#again = undefined
    this.#send(this.#first)
  }

  readonly #expire = (): void => {
    this.#expiry = undefined
    const time = now()
    for (const order of this.#pending()) {
      if (order.expires === Infinity) continue
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
