import { StoreUnavailable } from '../../../errors.js'
import { now } from '../../../clock.js'
import { afterReading } from '../connection.js'
import type { CommandName } from '../script.js'
import type { Reducer } from './reducer.js'

/** The reply of a command that returns state: its number in the inbox, the newest position of the store, its rollback position, and the value. */
export type MarkedReply = readonly [number: string, position: string, rollbackPosition: string, value: unknown]

/** The result of a command that returns state. */
export interface MarkedResult<Value> {
  readonly value: Value
  /** The newest position of the store when the command was executed. */
  readonly position: number
  /** Whether it was applied. Otherwise publications after it may be missing, so it may be out of date. */
  readonly isApplied: boolean
}

interface Pending {
  readonly apply: (value: unknown, position: number) => void
  readonly resolve: (result: MarkedResult<unknown>) => void
  readonly reject: (error: unknown) => void
  reply: MarkedReply | undefined
  /** When the reply arrived. */
  repliedAt: number
  /** Whether publications were missed since it was sent, among which its marker may be. */
  mayMissMarker: boolean
}

export interface InboxListener {
  send (command: CommandName, token: number, ...args: ReadonlyArray<string | number>): Promise<unknown>
  /** Publications may be missing. */
  onInvalidate (): void
  /** No publication is missing from now on. */
  onRestore (): void
}

/** Maximum number of publications that may wait for a reply, and of their characters. If there are more, the logs are read again. */
const MAX_BACKLOG = 10_000
const MAX_BACKLOG_CHARACTERS = 64 * 1024 * 1024

/**
 * Brings publications and replies, which arrive over two connections, into the order in which Redis executed them. The inbox is a
 * pub/sub channel with the numbered notifications of the node. A command that returns state also adds a marker to the inbox. The
 * reply is applied at its marker: publications after the marker wait until the reply has arrived.
 */
export class Inbox {
  readonly #keyPrefix: string
  readonly #timeout: number
  readonly #reducer: Reducer
  readonly #listener: InboxListener
  readonly #pending = new Map<number, Pending>()
  #nodeId = ''
  #lastToken = 0
  /** The number of the newest notification; `undefined` while notifications may be missing. */
  #number: number | undefined
  /** The marker whose reply has not arrived. */
  #marker: { readonly token: number, readonly number: number } | undefined
  /** Publications after the marker. */
  #backlog: Array<readonly [channel: string, text: string]> = []
  #backlogCharacters = 0

  /** `timeout`: milliseconds that a reply waits for its marker. */
  constructor (keyPrefix: string, timeout: number, reducer: Reducer, listener: InboxListener) {
    this.#keyPrefix = keyPrefix
    this.#timeout = timeout
    this.#reducer = reducer
    this.#listener = listener
  }

  /** The pub/sub channel of this node. */
  get pubSubChannel (): string {
    return `${this.#keyPrefix}:n:${this.#nodeId}`
  }

  /** The node has a new id, and an empty inbox. */
  reset (nodeId: string): void {
    this.#nodeId = nodeId
    this.invalidate()
  }

  /** Publications may be missing from now on. */
  invalidate (): void {
    this.#number = undefined
    this.#clearBacklog()
    for (const [token, pending] of this.#pending) {
      pending.mayMissMarker = true
      this.#resolveLost(token, pending)
    }
    this.#listener.onInvalidate()
  }

  /** Executes a command that returns state, which is applied at its place among the publications. Rejects with StoreUnavailable. */
  execute<Value> (command: CommandName, args: ReadonlyArray<string | number>, apply: (value: Value, position: number) => void): Promise<MarkedResult<Value>> {
    const token = ++this.#lastToken
    return new Promise<MarkedResult<Value>>((resolve, reject) => {
      this.#pending.set(token, { apply: apply as Pending['apply'], resolve: resolve as Pending['resolve'], reject, reply: undefined, repliedAt: 0, mayMissMarker: false })
      this.#listener.send(command, token, ...args).then(reply => { this.#replied(token, reply as MarkedReply) }, (error: unknown) => { this.#fail(token, error) })
    })
  }

  /** Receives a publication. */
  receive (channel: string, text: string): void {
    if (this.#marker === undefined) {
      this.#process(channel, text)
      return
    }
    this.#backlogCharacters += text.length
    if (this.#backlog.push([channel, text]) > MAX_BACKLOG || this.#backlogCharacters > MAX_BACKLOG_CHARACTERS) this.invalidate()
  }

  /** Rejects commands whose marker does not arrive. Is called regularly. */
  rejectOverdue (): void {
    const time = now()
    afterReading(() => {
      for (const [token, pending] of this.#pending) {
        // The command queue rejects commands without a reply.
        if (pending.reply !== undefined && time - pending.repliedAt > this.#timeout) this.#fail(token, new StoreUnavailable())
      }
    })
  }

  #process (channel: string, text: string): void {
    // The app's client may add a prefix to names.
    const name = channel.slice(channel.indexOf(this.#keyPrefix) + this.#keyPrefix.length + 1)
    if (name.startsWith('c:')) this.#reducer.applyChannelPublication(name.slice(2), text)
    else if (name === 'all') this.#reducer.applyPublication(text)
    else if (name.slice(2) === this.#nodeId) this.#processNotification(text)
  }

  #processNotification (text: string): void {
    const space = text.indexOf(' ')
    const end = text.indexOf(' ', space + 1)
    const number = Number(text.slice(0, space))
    const kind = end === -1 ? text.slice(space + 1) : text.slice(space + 1, end)
    const rest = end === -1 ? '' : text.slice(end + 1)
    const isNext = this.#number !== undefined && number === this.#number + 1
    if (!isNext && this.#number !== undefined) this.invalidate()
    if (kind === 'reply') {
      this.#processMarker(Number(rest), number)
      return
    }
    if (isNext) this.#number = number
    // While notifications may be missing, those of other kinds are ignored: what will be read contains their effect. A close is not
    // ignored, because nothing reads a session that was found after the loss.
    if (isNext || kind === 'turn' || kind === 'response' || kind === 'closed') this.#reducer.applyNotification(kind, rest)
  }

  #processMarker (token: number, number: number): void {
    const pending = this.#pending.get(token)
    if (pending?.mayMissMarker === false && pending.reply === undefined) this.#marker = { token, number }
    else if (pending?.reply !== undefined && Number(pending.reply[0]) === number) this.#apply(token, pending, number)
    // The command has failed, or was executed again.
    else if (this.#number !== undefined) this.#number = number
  }

  #replied (token: number, reply: MarkedReply): void {
    const pending = this.#pending.get(token) as Pending
    pending.reply = reply
    pending.repliedAt = now()
    const marker = this.#marker
    if (marker?.token === token) this.#continue(() => { this.#processMarker(token, marker.number) })
    this.#resolveLost(token, pending)
  }

  #fail (token: number, error: unknown): void {
    this.#pending.get(token)?.reject(error)
    this.#pending.delete(token)
    const marker = this.#marker
    if (marker?.token === token) this.#continue(() => { this.#processMarker(token, marker.number) })
  }

  /** Processes the marker and the publications after it, up to the next marker without a reply. */
  #continue (processMarker: () => void): void {
    const backlog = this.#backlog
    this.#clearBacklog()
    processMarker()
    for (const [channel, text] of backlog) this.receive(channel, text)
  }

  #clearBacklog (): void {
    this.#marker = undefined
    this.#backlog = []
    this.#backlogCharacters = 0
  }

  #apply (token: number, pending: Pending, number: number): void {
    const [, position, rollbackPosition, value] = pending.reply as MarkedReply
    const wasValid = this.#number !== undefined
    this.#pending.delete(token)
    this.#number = number
    this.#reducer.advance(Number(position), Number(rollbackPosition))
    // The reply may have shown that the store has lost data. Then everything has to be read again.
    const isApplied = this.#number !== undefined
    if (isApplied) pending.apply(value, Number(position))
    pending.resolve({ value, position: Number(position), isApplied })
    if (isApplied && !wasValid) this.#listener.onRestore()
  }

  /** Resolves a command whose marker may be missing, if it has a reply. */
  #resolveLost (token: number, { mayMissMarker, reply, resolve }: Pending): void {
    if (!mayMissMarker || reply === undefined) return
    this.#pending.delete(token)
    resolve({ value: reply[3], position: Number(reply[1]), isApplied: false })
  }
}
