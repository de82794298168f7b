import { noop } from '../../awaitable.js'
import { now } from '../../clock.js'
import { afterReading, withTimeout, COMMAND_TIMEOUT, createUnavailableError, type CommandConnection } from './connection.js'
import { isRefusedWhenFull, type CommandName, type Script, type Scripts } from './script.js'

export type Argument = string | number

interface Command {
  readonly name: CommandName
  readonly args: readonly Argument[]
  /** When the command is given up; `Infinity` if it must be executed eventually. */
  readonly deadline: number
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
  /** Its sequence number; 0 after it was removed from the queue. */
  number: number
  prev: Command | undefined
  next: Command | undefined
  /** The batch that it was last sent in; 0 before the first. */
  batch: number
  /** How often it was sent without a reply or a refusal. Above 0, Redis may have executed it. */
  uncertainAttempts: number
}

/** The reply of `dispatch.lua`: the error of the command that failed, `CONTINUE` if commands are left, or '', and the replies of the commands before it. */
type BatchReply = readonly [failure: string, replies: readonly unknown[]]

export interface CommandQueueListener {
  /** Redis has refused a command because of the lease or the clock of this node. A heartbeat renews the lease and compares the clocks. */
  onHeartbeatNeeded (): void
  /** Redis has replied, other than as a replica. */
  onReply (): void
  /** Returns the newest position that this process has received. If that of Redis is lower, Redis has lost data. */
  getHighestPosition (): number
}

// Errors of Redis start with a code in capital letters. Other errors are those of the connection.
const CODE = /^[A-Z]{2,}\b/
// The command is sent again after these.
const RETRYABLE = new Set<string | undefined>(['CONTINUE', 'REORDERED', 'TIMEDOUT', 'NOSCRIPT', 'FENCED', 'LOADING', 'READONLY', 'MASTERDOWN', 'CLUSTERDOWN', 'TRYAGAIN', 'BUSY', 'NOREPLICAS', 'UNBLOCKED'])
// Errors of a server that has become a replica. Its host name may belong to another server by now.
const REPLICA_ERRORS = new Set(['READONLY', 'MASTERDOWN'])
const RETRY_DELAY = 50
// Redis executes nothing else during a batch, so its cost is limited. An `append` costs 1. Other commands take longer, and cost 2.
const MAX_BATCH_COST = 128
const MAX_BATCH_ARGS = 5000
const MAX_BATCH_CHARACTERS = 262_144

/** Returns the code of an error of Redis; `undefined` for other errors. */
export function getErrorCode (error: unknown): string | undefined {
  const { message, cause } = error as Error
  return CODE.exec(cause instanceof Error ? cause.message : message)?.[0]
}

const kNotExecuted = Symbol('not executed')

function markNotExecuted (error: Error): Error {
  return Object.defineProperty(error, kNotExecuted, { value: true })
}

/** Whether Redis has certainly not executed the command that was rejected with this error. */
export function isNotExecuted (error: unknown): boolean {
  return kNotExecuted in Object(error)
}

/**
 * Sends the commands of a node to Redis, which executes them in order, even if connections break and replies are lost. The
 * commands of one tick are sent together, in one or more batches. Commands are numbered, and a batch contains the number before its first command: Redis
 * refuses a batch that arrives out of order, and a command that is sent again changes nothing a second time. So after a failure,
 * everything without a reply is sent again.
 */
export class CommandQueue {
  /** The clock of Redis minus that of this process, in microseconds. */
  clockOffset = 0
  /** Maximum error of `clockOffset`, in microseconds. */
  clockError = 0
  readonly #connection: CommandConnection
  readonly #scripts: Scripts
  readonly #keyPrefix: string
  readonly #listener: CommandQueueListener
  #first: Command | undefined
  #last: Command | undefined
  #nodeId = ''
  /** The highest number whose reply has arrived since the last rollback. If Redis has not executed that command, it has lost data again. */
  #acked = 0
  #lastNumber = 0
  #lastBatch = 0
  /** The number of the batch that contains the rest of a batch which Redis has executed only in part (`CONTINUE`); 0 if there is none. Nothing else is sent until its reply has arrived. */
  #continuation = 0
  #flush: NodeJS.Immediate | undefined
  #retry: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #loading: Promise<unknown> | undefined
  #closed = false

  constructor (connection: CommandConnection, scripts: Scripts, keyPrefix: string, listener: CommandQueueListener) {
    this.#connection = connection
    this.#scripts = scripts
    this.#keyPrefix = keyPrefix
    this.#listener = listener
  }

  /** The id of this node; empty while it is not registered. */
  get nodeId (): string {
    return this.#nodeId
  }

  /** The highest number whose reply has arrived since the last rollback. It stays after `unregister`. */
  get acked (): number {
    return this.#acked
  }

  /** Executes a command. Rejects with StoreUnavailable if that takes too long; then it is not executed later. After a rejection, {@link isNotExecuted} shows whether Redis may have executed it. */
  execute (name: CommandName, ...args: Argument[]): Promise<unknown> {
    return new Promise<unknown>((resolve, reject) => { this.#add(name, args, now() + COMMAND_TIMEOUT, resolve, reject) })
  }

  /** Executes a command as soon as that is possible, however late. Rejects with StoreUnavailable if Redis refuses it, and if the queue is closed. */
  executeWithoutDeadline (name: CommandName, ...args: Argument[]): Promise<unknown> {
    return new Promise<unknown>((resolve, reject) => { this.#add(name, args, Infinity, resolve, reject) })
  }

  /** As `executeWithoutDeadline`, but ignores the error. */
  executeInBackground (name: CommandName, ...args: Argument[]): Promise<void> {
    return new Promise<void>(resolve => {
      const settle = (): void => { resolve() }
      this.#add(name, args, Infinity, settle, settle)
    })
  }

  /** Sends a command without a sequence number: it may be executed before or after others, and is not sent again. Rejects with the error of Redis. */
  async executeUnsequenced (nodeId: string, timeout: number, name: CommandName, ...args: Argument[]): Promise<unknown> {
    const [failure, [reply]] = await withTimeout(this.#call(this.#scripts.executedWhenFull, nodeId, 0, nodeId === this.#nodeId ? this.#acked : 0, [name, '0', '0', String(args.length), ...args.map(String)]), timeout)
    if (failure !== '') throw new Error(failure)
    return reply
  }

  /** Continues with another node id. */
  register (nodeId: string): void {
    const kept = [...this.#pending()]
    this.#first = this.#last = undefined
    this.#lastNumber = this.#acked = 0
    this.#nodeId = nodeId
    for (const command of kept) this.#enqueue(command)
    this.resend()
  }

  /** The node has lost its registration. Rejects the commands with a deadline. */
  unregister (): void {
    this.#nodeId = ''
    for (const command of this.#pending()) if (command.deadline !== Infinity) this.#reject(command)
  }

  /** Redis has lost data, which may include commands with replies. */
  onRollback (): void {
    this.#acked = 0
  }

  /** Sends everything again that has no reply. */
  resend (): void {
    this.#resend(false)
  }

  /** Loads the scripts, once for all callers at the same time. */
  loadScripts (): Promise<unknown> {
    this.#loading ??= withTimeout(Promise.all(Object.values(this.#scripts).map(({ text }: Script) => this.#connection.command(['SCRIPT', 'LOAD', text])))).finally(() => { this.#loading = undefined })
    return this.#loading
  }

  /** Returns the rights that the user of the client lacks, as rules of an ACL. */
  async readMissingRights (): Promise<string> {
    return String(await withTimeout(this.#connection.command(['EVALSHA', this.#scripts.executedWhenFull.sha, '1', this.#keyPrefix, 'rights'])))
  }

  close (): void {
    this.#closed = true
    clearImmediate(this.#flush)
    clearTimeout(this.#retry)
    clearTimeout(this.#expiry)
    for (const command of this.#pending()) this.#reject(command)
  }

  #add (name: CommandName, args: readonly Argument[], deadline: number, resolve: Command['resolve'], reject: Command['reject']): void {
    const command: Command = { name, args, deadline, resolve, reject, number: 0, prev: undefined, next: undefined, batch: 0, uncertainAttempts: 0 }
    if (this.#closed) {
      reject(markNotExecuted(createUnavailableError()))
      return
    }
    this.#enqueue(command)
    if (deadline !== Infinity) this.#expiry ??= setTimeout(this.#onExpiryTimer, COMMAND_TIMEOUT).unref()
    this.#flush ??= setImmediate(() => { this.#sendNew() })
  }

  #enqueue (command: Command): void {
    command.number = ++this.#lastNumber
    command.prev = this.#last
    command.next = undefined
    if (this.#last === undefined) this.#first = command
    else this.#last.next = command
    this.#last = command
  }

  #remove (command: Command): void {
    const { prev, next } = command
    command.number = 0
    if (prev === undefined) this.#first = next
    else prev.next = next
    if (next === undefined) this.#last = prev
    else next.prev = prev
    // A command in the old generation of the garbage collector would keep all later ones in memory.
    command.prev = command.next = undefined
  }

  #reject (command: Command, cause?: unknown): void {
    this.#remove(command)
    const error = createUnavailableError(cause)
    command.reject(command.uncertainAttempts === 0 ? markNotExecuted(error) : error)
  }

  * #pending (first = this.#first): Iterable<Command> {
    for (let command = first; command !== undefined;) {
      const { next } = command
      yield command
      command = next
    }
  }

  /** Whether new commands are sent now. Otherwise, `resend` sends everything later: after the retry delay, after the continuation, or when the node is connected and registered. */
  get #canSend (): boolean {
    return this.#retry === undefined && this.#continuation === 0 && this.#nodeId !== '' && this.#connection.isConnected
  }

  #sendNew (): void {
    this.#flush = undefined
    // While nothing can be sent, the unsent commands accumulate, and the loop would go through all of them in each tick.
    if (!this.#canSend) return
    let first = this.#last
    while (first?.prev?.batch === 0) first = first.prev
    if (first?.batch === 0) this.#send(first)
  }

  #resend (isContinuation: boolean): void {
    clearTimeout(this.#retry)
    this.#retry = undefined
    this.#continuation = 0
    this.#send(this.#first, isContinuation)
  }

  /** Sends a command and all commands after it, or only one batch if this is a continuation. */
  #send (first: Command | undefined, isContinuation = false): void {
    if (!this.#canSend) return
    for (const batch of splitIntoBatches(this.#pending(first))) {
      this.#sendBatch(batch)
      if (!isContinuation) continue
      this.#continuation = this.#lastBatch
      return
    }
  }

  #sendBatch (commands: readonly Command[]): void {
    const nodeId = this.#nodeId
    const batch = ++this.#lastBatch
    const { lossCount } = this.#connection
    const parts: string[] = []
    for (const command of commands) {
      const { name, number, deadline, args } = command
      parts.push(name, String(number), Math.min(deadline * 1000 + this.clockOffset, 9e15).toFixed(), String(args.length))
      for (const arg of args) parts.push(String(arg))
      command.batch = batch
      command.uncertainAttempts++
    }
    const isPending = (command: Command): boolean => nodeId === this.#nodeId && command.number !== 0
    // After the connection was lost, the reply can be that of a second attempt, and proves nothing about the first.
    const discountAttempt = (notExecuted: readonly Command[]): void => {
      if (lossCount === this.#connection.lossCount) for (const command of notExecuted) command.uncertainAttempts--
    }
    const script = commands.some(({ name }) => isRefusedWhenFull(name)) ? this.#scripts.refusedWhenFull : this.#scripts.executedWhenFull
    this.#call(script, nodeId, commands[0]?.prev?.number ?? 0, this.#acked, parts).then(([failure, replies]) => {
      for (const [index, reply] of replies.entries()) {
        const command = commands[index] as Command
        if (!isPending(command)) continue
        this.#acked = Math.max(this.#acked, command.number)
        this.#remove(command)
        command.resolve(reply)
      }
      if (failure === '') {
        if (batch === this.#continuation) this.resend()
        return
      }
      const error = new Error(failure)
      const code = getErrorCode(error)
      const [failed, ...notExecuted] = commands.slice(replies.length) as [Command, ...Command[]]
      // With a retryable error, Redis has not executed the failed command either. With any other, it may have executed a part of it.
      discountAttempt(RETRYABLE.has(code) ? [failed, ...notExecuted] : notExecuted)
      if (code === 'CONTINUE') this.#resend(true)
      // A batch that was sent before the continuation is sent again after it.
      else if (code !== 'REORDERED' || batch >= this.#continuation) this.#onFailure([failed].filter(isPending), error, true)
    }, (error: unknown) => {
      // Redis has executed nothing of a batch that it has refused.
      if (getErrorCode(error) !== undefined) discountAttempt(commands)
      this.#onFailure(commands.filter(command => command.batch === batch && isPending(command)), error, false)
    })
  }

  async #call (script: Script, nodeId: string, previous: number, acked: number, parts: readonly string[]): Promise<BatchReply> {
    try {
      const reply = await this.#connection.command(['EVALSHA', script.sha, '1', this.#keyPrefix, nodeId, String(previous), String(acked), String(this.#listener.getHighestPosition()), ...parts])
      this.#listener.onReply()
      return reply as BatchReply
    } catch (error) {
      const code = getErrorCode(error)
      // A replica replies, but executes no commands, so the node has to move to another server.
      if (code !== undefined && !REPLICA_ERRORS.has(code)) this.#listener.onReply()
      throw error
    }
  }

  /** `isCommandError`: the error comes from one command, not from the whole batch. */
  #onFailure (commands: readonly Command[], error: unknown, isCommandError: boolean): void {
    // Later commands must be sent again, even if these are not.
    this.#retry ??= setTimeout(() => { this.resend() }, RETRY_DELAY).unref()
    const code = getErrorCode(error)
    if (code === 'FENCED' || code === 'TIMEDOUT') this.#listener.onHeartbeatNeeded()
    else if (code === 'NOSCRIPT') this.loadScripts().catch(noop)
    else if (code === 'OOM') {
      // The others are sent now. After the delay, a batch with them could contain new commands that add data, and Redis would refuse it again.
      if (!commands.some(({ name }) => isRefusedWhenFull(name))) return
      for (const command of this.#pending()) if (isRefusedWhenFull(command.name)) this.#reject(command, error)
      this.resend()
    } else if (code !== undefined && !RETRYABLE.has(code)) {
      // If Redis refuses a whole batch, commands without a deadline are sent again: the cause, such as a full disk, may be temporary.
      for (const command of commands) if (command.deadline !== Infinity || isCommandError) this.#reject(command, error)
    }
  }

  readonly #onExpiryTimer = (): void => {
    const time = now()
    // Commands that were not sent are rejected first, so that they are not sent any more.
    this.#rejectExpired(time, ({ batch }) => batch === 0)
    afterReading(() => {
      const next = this.#rejectExpired(time, () => true)
      this.#expiry = next && setTimeout(this.#onExpiryTimer, next.deadline - now()).unref()
    })
  }

  /** Rejects the commands that match and whose deadline has passed at `time`. Returns the first command with a later deadline. */
  #rejectExpired (time: number, matches: (command: Command) => boolean): Command | undefined {
    for (const command of this.#pending()) {
      if (command.deadline === Infinity) continue
      if (command.deadline > time) return command
      if (matches(command)) this.#reject(command)
    }
    return undefined
  }
}

/** Splits commands into batches, so that Redis is not blocked for long. A larger command is a batch of its own. */
function * splitIntoBatches (commands: Iterable<Command>): Iterable<Command[]> {
  let batch: Command[] = []
  let cost = 0
  let argCount = 0
  let characters = 0
  for (const command of commands) {
    let length = 0
    for (const arg of command.args) if (typeof arg === 'string') length += arg.length
    if (cost >= MAX_BATCH_COST || argCount >= MAX_BATCH_ARGS || (batch.length > 0 && characters + length > MAX_BATCH_CHARACTERS)) {
      yield batch
      batch = []
      cost = argCount = characters = 0
    }
    batch.push(command)
    cost += command.name === 'append' ? 1 : 2
    argCount += command.args.length
    characters += length
  }
  if (batch.length > 0) yield batch
}
