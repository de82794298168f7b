import { IdempotencyKeyReused, ResponseDropped, SessionUnknown, StoreUnavailable, TooManyWaiting } from '../../../errors.js'
import { noop } from '../../../awaitable.js'
import type { MessageQueue, QueuedMessage, QueueResult, StoredResponse } from '../../message-queue.js'
import type { StoreSettings } from '../../store.js'
import { isNotExecuted, type CommandQueue } from '../command-queue.js'
import { withTimeout } from '../connection.js'
import type { SessionReplica } from '../replica/session-replica.js'
import type { StartLimit } from './start-limit.js'
import { decodeResponse, encodeResponse } from './stored-response.js'

/** Maximum number of handled messages of a batch whose `complete` is not confirmed. If this process fails, these are handled again. */
const MAX_UNACKED = 8

/** A message without a result. */
class PendingMessage {
  readonly message: QueuedMessage
  readonly key: string
  readonly fingerprint: string
  readonly result: Promise<QueueResult>
  resolve: (result: QueueResult | Promise<QueueResult>) => void = noop
  reject: (error: unknown) => void = noop

  constructor (message: QueuedMessage) {
    this.message = message
    this.key = message.key ?? ''
    this.fingerprint = message.key === undefined ? '' : message.fingerprint()
    this.result = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
  }
}

/** Messages of one POST that are handled one after the other, or one concurrent message. */
interface Ticket {
  readonly state: SessionReplica
  /** A number; with the prefix `c` for a concurrent message. */
  readonly name: string
  /** Those that wait, and count as waiting for the session. */
  messages: PendingMessage[]
  /** The memory that they take, in bytes; 0 if no other message of the session was waiting or being handled in this process when they were put here. */
  bytes: number
  /** The node id with which the last command was executed, or may have been; empty before. */
  nodeId: string
  /** Whether it is in the queue in Redis, under `nodeId`. */
  isQueued: boolean
  /** Whether a command for it is in progress. */
  isPending: boolean
  /** Whether something has changed since that command was sent. */
  mustResend: boolean
}

/**
 * Empties the array of a ticket's messages in place, and returns them. V8 may have moved this array, or an old table of the map
 * `#waiting`, to the old generation, where it would keep the requests in memory until the next full collection.
 */
function takeMessages (ticket: Ticket): PendingMessage[] {
  ticket.state.waitingMessages -= ticket.messages.length
  ticket.state.waitingBytes -= ticket.bytes
  ticket.bytes = 0
  return ticket.messages.splice(0)
}

/** Puts messages into a ticket, and counts them as waiting: the opposite of {@link takeMessages}. */
function setWaitingMessages (ticket: Ticket, messages: PendingMessage[]): void {
  const { state } = ticket
  ticket.messages = messages
  // Most messages do not have to wait for others, so their size is not estimated.
  ticket.bytes = isBusy(state) ? sizeOf(messages) : 0
  state.waitingMessages += messages.length
  state.waitingBytes += ticket.bytes
}

/** Whether messages of a session wait or are being handled in this process. */
const isBusy = ({ waitingMessages, handlerNodeIds }: SessionReplica): boolean => waitingMessages > 0 || handlerNodeIds.length > 0

const sizeOf = (messages: readonly PendingMessage[]): number => messages.reduce((sum, { message }) => sum + (message.size?.() ?? 0), 0)

/** The reply of `enqueue.lua`. What the list contains depends on the status. */
type EnqueueReply = readonly [status: 'unknown' | 'full' | 'resend' | 'run' | 'wait', list: readonly string[], record: readonly string[]]

export interface MessageQueuesListener {
  /** Whether the lease lasts long enough to start a handler. */
  mayHandle (): boolean
  /** Waits for a heartbeat, which renews the lease. Also resolves if that fails. */
  waitForHeartbeat (): Promise<void>
  /** Redis has returned a newer record of a session; an empty one if the session does not exist. */
  onRecord (state: SessionReplica, record: readonly string[]): void
}

/**
 * The messages that this process has received. Each waits in the queue of its session in Redis. The process is notified when
 * a message is next, or when the response that it waits for is stored.
 */
export class MessageQueues {
  readonly #settings: StoreSettings
  readonly #commandQueue: CommandQueue
  readonly #listener: MessageQueuesListener
  readonly #waiting = new Map<string, Ticket>()
  readonly #handling = new Map<Ticket, Promise<void>>()
  readonly #startLimit: StartLimit
  #isClosed = false
  #lastNumber = 0
  /** Resolves when Redis has executed every `complete` so far: commands are executed in order. */
  #lastCompleted: Promise<void> | undefined

  constructor (settings: StoreSettings, startLimit: StartLimit, commandQueue: CommandQueue, listener: MessageQueuesListener) {
    this.#settings = settings
    this.#startLimit = startLimit
    this.#commandQueue = commandQueue
    this.#listener = listener
  }

  getQueue (state: SessionReplica): MessageQueue {
    return {
      enqueue: message => {
        if (this.#isClosed) return Promise.reject(new StoreUnavailable())
        const pending = new PendingMessage(message)
        this.#assertCapacity(state, [pending])
        this.#startRequest(this.#createTicket(state, [pending]))
        return pending.result
      },
      enqueueAll: messages => this.#enqueueAll(state, messages)
    }
  }

  /** Sends a ticket again whose messages are next. */
  retryTicket (name: string): void {
    const ticket = this.#waiting.get(name)
    if (ticket !== undefined) this.#retry(ticket)
  }

  /** Sends the tickets again that wait for the response to a message with a key. */
  retryRepeats (sessionId: string, key: string): void {
    let hasRepeats = false
    this.#retryIf(({ state, messages }) => {
      const isRepeat = state.id === sessionId && messages.some(message => message.key === key)
      hasRepeats ||= isRepeat
      return isRepeat
    })
    // Redis keeps the key until no repeat waits.
    if (!hasRepeats) this.#complete(sessionId, '', false, [key, '', 'w'])
  }

  /** Sends the tickets of a session again. */
  retrySession (sessionId: string): void {
    this.#retryIf(({ state }) => state.id === sessionId)
  }

  /** Sends all tickets again. */
  retryAll (): void {
    this.#retryIf(() => true)
  }

  /** Redis has lost data, so it may have tickets of this node that were completed. Sends the names of those that were not, so that no message waits for the others. */
  reconcile (): void {
    const names = [...this.#waiting.keys(), ...[...this.#handling.keys()].map(({ name }) => name)]
    // The names are one argument: many fields would block Redis for long, and several commands could be executed under different ids.
    this.#commandQueue.executeInBackground('reconcile_tickets', this.#lastNumber, `,${names.join()},`)
  }

  /** Whether a handler is running for the session that another node may run, too, because this process was treated as failed. */
  hasFencedHandler (state: SessionReplica): boolean {
    return state.handlerNodeIds.some(nodeId => nodeId !== this.#commandQueue.nodeId)
  }

  /** Rejects the messages that wait. Resolves when the running handlers have finished, and Redis has their responses. */
  async close (): Promise<void> {
    this.#isClosed = true
    for (const ticket of this.#waiting.values()) if (!ticket.isPending) this.#rejectTicket(ticket, new StoreUnavailable())
    await Promise.all(this.#handling.values())
    await this.#lastCompleted
  }

  #retryIf (matches: (ticket: Ticket) => boolean): void {
    for (const ticket of this.#waiting.values()) if (matches(ticket)) this.#retry(ticket)
  }

  #retry (ticket: Ticket): void {
    if (ticket.isPending) ticket.mustResend = true
    else this.#startRequest(ticket)
  }

  /** Rejects the messages of a ticket, and removes it from the queue in Redis. */
  #rejectTicket (ticket: Ticket, error: unknown): void {
    this.#waiting.delete(ticket.name)
    this.#rejectMessages(ticket, takeMessages(ticket), true, error)
  }

  /** Rejects messages of a ticket, and frees their keys in Redis. `leavesQueue`: whether the ticket leaves the queue. */
  #rejectMessages ({ state, name, nodeId }: Ticket, messages: readonly PendingMessage[], leavesQueue: boolean, error: unknown): void {
    // Otherwise, Redis has no keys to free. While it is not available, a command for each failed message would need any amount of memory.
    if (nodeId !== '') this.#complete(state.id, `${nodeId} ${name}`, leavesQueue, messages.flatMap(({ key, fingerprint }) => [key, fingerprint, this.#isKeyWaiting(state, key) ? '' : 'w']))
    for (const message of messages) message.reject(error)
  }

  async #enqueueAll (state: SessionReplica, queued: readonly QueuedMessage[]): Promise<Array<Promise<QueueResult>>> {
    if (this.#isClosed) throw new StoreUnavailable()
    const results: Array<Promise<QueueResult>> = []
    const messages: PendingMessage[] = []
    for (const each of queued) {
      const message = new PendingMessage(each)
      const duplicate = message.key === '' ? undefined : messages.find(({ key }) => key === message.key)
      if (duplicate === undefined) messages.push(message)
      else if (duplicate.fingerprint === message.fingerprint) message.resolve(duplicate.result.then(({ response }) => ({ response, replayed: true })))
      else message.reject(new IdempotencyKeyReused())
      // The caller gets the results only when one of the messages is accepted.
      message.result.catch(noop)
      results.push(message.result)
    }
    this.#assertCapacity(state, messages)
    const isConcurrent = ({ message }: PendingMessage): boolean => message.isConcurrent === true
    const concurrent = messages.filter(isConcurrent)
    const tickets = concurrent.map(message => [message])
    if (concurrent.length === 0 || concurrent.length < messages.length) tickets.unshift(messages.filter(message => !isConcurrent(message)))
    const requests = tickets.map(messages => this.#request(this.#createTicket(state, messages)))
    await Promise.any(requests).catch(({ errors: [error] }: AggregateError) => { throw error })
    return results
  }

  /**
   * Throws TooManyWaiting if too many messages of the session wait in this process. Redis counts those of all processes, but not
   * their bytes, nor repeats.
   */
  #assertCapacity (state: SessionReplica, messages: readonly PendingMessage[]): void {
    if (!isBusy(state)) return
    const { waitingMessages, waitingBytes, handlerNodeIds } = state
    const { maxWaitingMessages, maxWaitingBytes } = this.#settings
    // If no handler runs here, the first message may be about to be handled.
    const hasRoom = waitingMessages + messages.length <= maxWaitingMessages + (handlerNodeIds.length > 0 ? 0 : 1) &&
      (waitingMessages === 0 || waitingBytes + sizeOf(messages) <= maxWaitingBytes)
    if (!hasRoom) throw new TooManyWaiting(waitingMessages)
  }

  #createTicket (state: SessionReplica, messages: PendingMessage[]): Ticket {
    const name = `${messages[0]?.message.isConcurrent === true ? 'c' : ''}${++this.#lastNumber}`
    const ticket: Ticket = { state, name, messages: [], bytes: 0, nodeId: '', isQueued: false, isPending: false, mustResend: false }
    setWaitingMessages(ticket, messages)
    this.#waiting.set(name, ticket)
    return ticket
  }

  /** Sends a ticket to Redis, and does what Redis has decided. Rejects if the whole ticket is refused. */
  async #request (ticket: Ticket): Promise<void> {
    const { state, name } = ticket
    ticket.isPending = true
    ticket.mustResend = false
    let reply: EnqueueReply
    try {
      do {
        const sentBy = this.#commandQueue.nodeId
        const isQueued = ticket.isQueued && ticket.nodeId === sentBy
        // A command that is sent while the node is not registered is executed under its next id.
        const setNodeId = (): void => { ticket.nodeId = sentBy === '' ? this.#commandQueue.nodeId : sentBy }
        reply = await this.#commandQueue.execute('enqueue', state.id, name, state.version, isQueued ? 1 : 0, ...ticket.messages.flatMap(({ key, fingerprint }) => [key, fingerprint])).then(value => {
          setNodeId()
          return value as EnqueueReply
        }, (error: unknown) => {
          if (!isNotExecuted(error)) setNodeId()
          throw error
        })
        if (reply[0] === 'resend') ticket.isQueued = reply[1][0] === '1'
      } while (reply[0] === 'resend')
    } catch (error) {
      ticket.isPending = false
      this.#rejectTicket(ticket, error)
      throw error
    }
    ticket.isPending = false
    const [status, list, record] = reply
    if (record.length > 0 || status === 'unknown') this.#listener.onRecord(state, record)
    if (status === 'unknown' || status === 'full') {
      const error = status === 'unknown' ? new SessionUnknown() : new TooManyWaiting(Number(list[0]))
      this.#waiting.delete(name)
      const messages = takeMessages(ticket)
      if (status === 'full') this.#stopWaiting(ticket, messages)
      for (const message of messages) message.reject(error)
      throw error
    }
    this.#decide(ticket, status, list)
    if (!this.#waiting.has(name)) return
    if (this.#isClosed) this.#rejectTicket(ticket, new StoreUnavailable())
    else if (ticket.mustResend) this.#retry(ticket)
  }

  /** Applies the decisions of Redis on the messages of a ticket. */
  #decide (ticket: Ticket, status: 'run' | 'wait', decisions: readonly string[]): void {
    const { state, name, nodeId } = ticket
    const unresolved: PendingMessage[] = []
    const repeats: PendingMessage[] = []
    const toHandle: PendingMessage[] = []
    const newAfterRepeat: PendingMessage[] = []
    // Repeats with a response, for which the record still has this node as waiting.
    const answeredRepeats: PendingMessage[] = []
    for (const [index, message] of takeMessages(ticket).entries()) {
      const decision = decisions[index] as string
      if (decision.startsWith('S') || decision === 'D') answeredRepeats.push(message)
      if (decision === 'reused') message.reject(new IdempotencyKeyReused())
      else if (decision === 'd' || decision === 'D') message.reject(new ResponseDropped())
      else if (decision.startsWith('s') || decision.startsWith('S')) message.resolve({ response: decodeResponse(decision.slice(1)), replayed: true })
      else {
        const group = decision === 'wait' ? repeats : repeats.length === 0 ? toHandle : newAfterRepeat
        group.push(message)
        unresolved.push(message)
      }
    }
    setWaitingMessages(ticket, unresolved)
    this.#stopWaiting(ticket, answeredRepeats)
    const hasNew = unresolved.length > repeats.length
    ticket.isQueued ||= hasNew
    // A ticket with repeats and new messages stays in the queue until it is the first: if the node that handles the original of a repeat fails, the
    // repeat is handled here, before the new messages after it.
    if (unresolved.length > 0 && (!hasNew || status === 'wait')) return
    if (hasNew && (this.#isClosed || nodeId !== this.#commandQueue.nodeId)) {
      this.#rejectTicket(ticket, new StoreUnavailable())
      return
    }
    this.#waiting.delete(name)
    takeMessages(ticket)
    // The original of a repeat is now in a ticket behind this one, which cannot start before this one has left the queue.
    for (const message of repeats) this.#startRequest(this.#createTicket(state, [message]))
    // These must not be handled before that original. The client repeats them after it.
    if (newAfterRepeat.length > 0) this.#rejectMessages(ticket, newAfterRepeat, toHandle.length === 0, new StoreUnavailable())
    if (toHandle.length === 0) return
    state.handlerNodeIds.push(nodeId)
    const isConcurrent = name.startsWith('c')
    const handling = this.#handle(ticket, toHandle, isConcurrent ? undefined : state.handling)
    this.#handling.set(ticket, handling)
    if (!isConcurrent) state.handling = handling
  }

  /** These messages do not wait for responses any more, so Redis need not keep their keys, unless others with the same key wait in this process. */
  #stopWaiting ({ state, name, nodeId }: Ticket, messages: readonly PendingMessage[]): void {
    const last = messages.filter(({ key }) => key !== '' && !this.#isKeyWaiting(state, key))
    if (last.length > 0) this.#complete(state.id, `${nodeId} ${name}`, false, last.flatMap(({ key, fingerprint }) => [key, fingerprint, 'w']))
  }

  /** Whether a message with a key waits in this process. */
  #isKeyWaiting (state: SessionReplica, key: string): boolean {
    if (state.waitingMessages === 0) return false
    for (const ticket of this.#waiting.values()) if (ticket.state === state && ticket.messages.some(message => message.key === key)) return true
    return false
  }

  #startRequest (ticket: Ticket): void {
    this.#request(ticket).catch(noop)
  }

  #complete (sessionId: string, ticket: string, leavesQueue: boolean, responses: string[]): Promise<void> {
    this.#lastCompleted = this.#commandQueue.executeInBackground('complete', sessionId, ticket, leavesQueue ? 1 : 0, ...responses)
    return this.#lastCompleted
  }

  /** Waits until a message may start to be handled. Also resolves if the lease cannot be renewed. */
  async #waitForStart (isTicketStarted: boolean): Promise<void> {
    let hasLease
    do {
      if (!this.#listener.mayHandle()) await this.#listener.waitForHeartbeat()
      hasLease = this.#listener.mayHandle()
      // After the heartbeat. Otherwise, all messages that wait for it would start in one tick.
      await this.#startLimit.wait(isTicketStarted)
      // If the event loop was blocked while the message waited, it waits for a heartbeat again.
    } while (hasLease && !this.#listener.mayHandle())
  }

  async #handle (ticket: Ticket, messages: readonly PendingMessage[], previous: Promise<void> | undefined): Promise<void> {
    const { state, name, nodeId } = ticket
    // If Redis has lost the ticket of a handler that is still running here, it lets this ticket start too early.
    await previous
    const completed: Array<Promise<void> | undefined> = []
    // If one message may not start, no later one does, because they are handled in order.
    let mayStart = true
    // When the lease has ended, another node may run the same handler.
    const assertMayStart = (): void => {
      mayStart &&= nodeId === this.#commandQueue.nodeId && this.#listener.mayHandle() && !this.#isClosed
      if (!mayStart) throw new StoreUnavailable()
    }
    for (const [index, { message, key, fingerprint, resolve, reject }] of messages.entries()) {
      let response: StoredResponse | undefined
      let failure: unknown
      // Usually, the message starts at once, without a promise. After its first message, the ticket counts as started.
      if (mayStart && !this.#isClosed && !(this.#listener.mayHandle() && this.#startLimit.tryStart())) await this.#waitForStart(index > 0)
      try {
        assertMayStart()
        response = await message.handle(assertMayStart)
      } catch (error) {
        failure = error
      }
      const leavesQueue = index === messages.length - 1
      // The client gets its response before Redis confirms `complete`: the command is sent until it is executed, and later commands
      // stay behind it.
      completed.push(leavesQueue || key !== '' ? this.#complete(state.id, `${nodeId} ${name}`, leavesQueue, key === '' ? [] : [key, fingerprint, response === undefined ? '' : encodeResponse(response, this.#settings.maxResponseBytes)]) : undefined)
      if (response !== undefined) resolve({ response, replayed: false })
      // Waits until Redis has removed the key, at most for COMMAND_TIMEOUT, so that the client can use it again on every node.
      else if (mayStart && key !== '') withTimeout(completed[index] as Promise<void>).finally(() => { reject(failure) }).catch(noop)
      else reject(failure)
      await completed[index - MAX_UNACKED]
    }
    this.#handling.delete(ticket)
    state.handlerNodeIds.splice(state.handlerNodeIds.indexOf(nodeId), 1)
  }
}
