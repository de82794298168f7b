import { randomBytes } from 'node:crypto'
import { noop } from '../../awaitable.js'
import { OptionInvalid, StoreUnreachable } from '../../errors.js'
import { now } from '../../clock.js'
import type { StoreCallbacks, StoreSettings } from '../store.js'
import { Calls } from './calls.js'
import { CommandQueue, getErrorCode } from './command-queue.js'
import { withTimeout, CommandConnection, COMMAND_TIMEOUT, type RedisClient } from './connection.js'
import { MessageQueues } from './messages/message-queue.js'
import type { StartLimit } from './messages/start-limit.js'
import { Inbox } from './replica/inbox.js'
import { Loader } from './replica/loader.js'
import { Reducer } from './replica/reducer.js'
import { RunReplica, type RunRecord } from './replica/run-replica.js'
import { parseRecord, SessionReplica, type SessionRecord } from './replica/session-replica.js'
import { RedisRuns } from './runs.js'
import { createScripts, getSharedOptions } from './script.js'
import { StateCache } from './state-cache.js'
import { StreamOwnership } from './stream-ownership.js'
import { Subscriber } from './subscriber.js'

export interface RedisNodeOptions {
  readonly client: RedisClient
  readonly namespace: string
  readonly lease: number
  readonly isCluster: boolean
  /** Which partition this is, and of how many. All nodes must have the same partitions. */
  readonly partition: string
  /** All partitions share one, because there is one event loop. */
  readonly startLimit: StartLimit
}

type HeartbeatReply = readonly [time: string, position: string, rollbackPosition: string, sessions: number | string, assigned: readonly string[], hasMoreRuns: number | string, releasedRuns: readonly string[]]

// Milliseconds after which another connection is opened if the client library does not succeed in reconnecting. The library waits
// forever for a server that accepts a connection and never replies.
const RECONNECT_TIMEOUT = 5000
/** Milliseconds for which a comparison of the clocks is used if later ones are less exact. */
const CLOCK_COMPARISON_AGE = 30_000
// How long a node stays fenced before it aborts its streams, so that their clients reconnect to another node.
const FENCED_STREAM_TIMEOUT_IN_LEASES = 2
// How often unused sessions and channels are released from memory.
const SWEEP_INTERVAL_IN_LEASES = 2

/** One of the processes that share a Redis. It renews its lease, and connects the parts of the store. */
export class RedisNode {
  readonly commandQueue: CommandQueue
  readonly calls: Calls
  readonly messageQueues: MessageQueues
  readonly cache: StateCache<SessionReplica, Pick<SessionRecord, 'principal' | 'startPosition'>>
  readonly runs: RedisRuns
  readonly reducer: Reducer
  readonly ownership: StreamOwnership
  /** The number of open sessions at the last heartbeat. */
  sessions = 0
  readonly callbacks: StoreCallbacks
  readonly #settings: StoreSettings
  readonly #keyPrefix: string
  readonly #lease: number
  readonly #sharedOptions: Record<string, string>
  readonly #interval: number
  readonly #connection: CommandConnection
  readonly #subscriber: Subscriber
  readonly #inbox: Inbox
  readonly #loader: Loader
  /** Sessions whose `onClose` hooks run because they have expired. */
  readonly #expiring = new Map<string, Promise<void>>()
  /** How often the close of a session that is not in memory here has arrived, or may have been missed. If this changes while a session is read, that session may be closed. */
  missedCloseCount = 0
  #nodeId = ''
  /** When the lease ends, in milliseconds of `now()`. */
  #leaseEnd = 0
  /** The same time in milliseconds since 1970. While the machine is suspended, only this clock continues; the other one is never set back. */
  #leaseEndDate = 0
  /** The last id under which Redis has registered or renewed this node since the last rollback; empty if there is none. A new registration contains it, because Redis has lost data if it never had this id. */
  #confirmedId = ''
  /** Calls `#runInterval` once in each interval. */
  #timer: NodeJS.Timeout | undefined
  #heartbeat: Promise<void> | undefined
  /** Intervals since the last reply. */
  #intervalsSinceReply = 0
  /** Intervals since the last notification in the inbox. */
  #intervalsSinceNotification = 0
  /** Intervals since the lease has expired. */
  #fencedIntervals = 0
  #sweptAt = now()
  #clocksComparedAt = -Infinity
  #isClosing = false

  constructor (settings: StoreSettings, callbacks: StoreCallbacks, { client, namespace, lease, isCluster, partition, startLimit }: RedisNodeOptions) {
    this.#settings = settings
    this.callbacks = callbacks
    this.#keyPrefix = `{${namespace}}`
    this.#lease = lease
    this.#sharedOptions = getSharedOptions(settings, partition)
    // A fifth of the lease, so that four heartbeats can fail; at most a second, because the statistics are that old; a quarter of
    // `resumeTimeout`, so that sessions expire in time.
    this.#interval = Math.floor(Math.min(lease / 5, 1000, Math.max(50, settings.resumeTimeout / 4)))
    this.#connection = new CommandConnection(client, () => {
      this.#intervalsSinceReply = 0
      this.sendHeartbeat()
      this.commandQueue.resend()
      this.#loader.start()
    })
    this.commandQueue = new CommandQueue(this.#connection, createScripts(settings, lease, isCluster), this.#keyPrefix, {
      onHeartbeatNeeded: () => { this.sendHeartbeat() },
      onReply: () => { this.#intervalsSinceReply = 0 },
      getHighestPosition: () => this.reducer.highestPosition
    })
    this.calls = new Calls(this.commandQueue)
    const isFenced = (): boolean => this.isFenced
    const mayMissBroadcasts = (): boolean => !this.reducer.broadcasts.isLive
    const guard = { get isFenced () { return isFenced() }, get mayMissBroadcasts () { return mayMissBroadcasts() } }
    this.cache = new StateCache((id, { principal, startPosition }) => new SessionReplica(id, principal, startPosition, guard), ({ closeReason }) => closeReason === undefined)
    // A delivery is used only by its producer and by the request that answers it. Its outcome contains the answer, which may be large.
    const runCache = new StateCache((_id, record: RunRecord) => new RunReplica(record, guard), ({ outcome }) => outcome === undefined, ({ delivery }) => delivery === undefined)
    this.reducer = new Reducer(settings, this.cache, runCache, {
      // Not all streams of the process: those of other partitions do not read this broadcast.
      onBroadcast: () => { for (const state of this.reducer.attached.values()) state.onAppend() },
      onMissedPublication: () => { this.#inbox.invalidate() },
      onIncomplete: () => { this.#loader.start() },
      onRollback: () => {
        this.#confirmedId = ''
        this.commandQueue.onRollback()
        for (const state of this.cache.listOpen()) state.version = 0
        // Redis may have lost that they were closed.
        for (const state of this.cache.listClosed()) this.#closeAgain(state)
        this.runs.reconcile()
        this.messageQueues.reconcile()
      },
      onTurn: ticketName => { this.messageQueues.retryTicket(ticketName) },
      onResponse: (sessionId, key) => { this.messageQueues.retryRepeats(sessionId, key) },
      onQueuesChanged: () => { this.messageQueues.retryAll() },
      onSessionClosed: sessionId => { this.messageQueues.retrySession(sessionId) },
      onUnknownClose: () => { this.missedCloseCount++ },
      onNoStream: sessionId => { if (this.cache.get(sessionId)?.pendingAttach === undefined) this.commandQueue.executeInBackground('release', sessionId, '', 0) },
      onCursorRequest: state => { this.ownership.commitCursor(state) },
      onStale: state => { this.refreshLater(state) }
    })
    this.#inbox = new Inbox(this.#keyPrefix, COMMAND_TIMEOUT, this.reducer, {
      send: (command, ...args) => this.commandQueue.execute(command, ...args),
      onInvalidate: () => {
        this.missedCloseCount++
        this.reducer.invalidate(this.cache.listOpen(), runCache.listOpen())
        this.#loader.start()
      },
      // The notification that messages are next may have been missed. This must not wait until all logs are read: new streams always need more.
      onRestore: () => { this.messageQueues.retryAll() }
    })
    this.#subscriber = new Subscriber(client, {
      onPublication: (channel, text) => {
        if (channel.endsWith(this.#inbox.pubSubChannel)) this.#intervalsSinceNotification = 0
        this.#inbox.receive(channel, text)
      },
      onDisconnect: () => { this.#inbox.invalidate() },
      onReady: () => {
        this.#intervalsSinceNotification = 0
        this.#inbox.invalidate()
      }
    })
    this.#loader = new Loader(this.reducer, this.#inbox, this.#subscriber, channel => this.#toPubSubChannel(channel))
    this.ownership = new StreamOwnership(this.commandQueue, this.#inbox, this.reducer, settings.resumeTimeout)
    this.runs = new RedisRuns(settings, this.commandQueue, this.#inbox, this.reducer, runCache, sessionId => {
      const state = this.cache.get(sessionId)
      return state !== undefined && this.messageQueues.hasFencedHandler(state)
    })
    this.messageQueues = new MessageQueues(settings, startLimit, this.commandQueue, {
      mayHandle: () => this.#mayHandle,
      waitForHeartbeat: () => this.#waitForHeartbeat(),
      onRecord: (state, hash) => { this.applyRecord(state, hash) }
    })
  }

  /** Whether other nodes may treat this one as failed. */
  get isFenced (): boolean {
    return this.#leaseLeft < 0
  }

  /** Whether at least half of the lease is left. After a pause, a handler could otherwise start at its end, and run again on another node. */
  get #mayHandle (): boolean {
    return this.#leaseLeft > this.#lease / 2
  }

  get #leaseLeft (): number {
    return Math.min(this.#leaseEnd - now(), this.#leaseEndDate - Date.now())
  }

  /** Connects and registers. Rejects with the reason if that is not possible. */
  async start (): Promise<void> {
    try {
      await this.#connection.open()
      await this.#subscriber.open([`${this.#keyPrefix}:all`])
      await this.commandQueue.loadScripts()
      const missingRights = await this.commandQueue.readMissingRights()
      if (missingRights !== '') throw new Error(`the user of the client lacks rights; add these rules to its ACL: ${missingRights}`)
      await this.#register()
    } catch (error) {
      this.#stop()
      throw this.#createBootError(error)
    }
    this.ownership.start()
    this.#timer = setInterval(() => { this.#runInterval() }, this.#interval).unref()
    this.#loader.start()
  }

  /** Waits until running handlers have finished and Redis has their responses, and for `onClose` hooks that the store runs, at most for `closeTimeout`. Then deregisters: for expired sessions whose hooks have not finished, another node runs them again. */
  async close (): Promise<void> {
    this.#isClosing = true
    await withTimeout(Promise.all([this.messageQueues.close(), ...this.#expiring.values(), this.calls.settle()]), this.#settings.closeTimeout).catch(noop)
    // Last, because Redis refuses the commands of a node that is not registered.
    await this.commandQueue.execute('deregister').catch(noop)
    this.#stop()
  }

  /** Applies a record that was read outside of the order of the inbox. */
  applyRecord (state: SessionReplica, hash: readonly string[]): void {
    const record = parseRecord(hash)
    if (record !== undefined) {
      if (state.apply(record, this.#nodeId)) state.listener?.onEnd()
    } else if (state.epoch === 0) this.reducer.removeSession(state)
    // The stream must end at the place of the close in the inbox, which has not arrived yet. So everything is read again.
    else this.#inbox.invalidate()
  }

  /** Loads the record of a session. Rejects with StoreUnavailable. */
  async refresh (state: SessionReplica): Promise<void> {
    this.applyRecord(state, await this.commandQueue.execute('get', state.id) as string[])
  }

  /** Loads the record of a session as soon as that is possible, because nothing shows later that the state is out of date. */
  refreshLater (state: SessionReplica): void {
    this.commandQueue.executeWithoutDeadline('get', state.id).then(hash => { this.applyRecord(state, hash as string[]) }, noop)
  }

  /** Checks later whether a session is still open. */
  verify (state: SessionReplica): void {
    this.reducer.unverified.add(state)
    this.#loader.start()
  }

  /** Sends a heartbeat, unless one is in progress. */
  sendHeartbeat (): void {
    // A node that is not registered yet would register twice. Without a connection, the client would queue the commands.
    if (this.#timer === undefined || !this.#connection.isConnected) return
    if (this.#heartbeat !== undefined) return
    const sentAt = now()
    this.#heartbeat = this.#registerOrRenew().catch(noop).finally(() => {
      this.#heartbeat = undefined
      // The next one is late already, and the lease may end before the next interval.
      if (now() - sentAt > this.#interval) this.sendHeartbeat()
    })
  }

  async #waitForHeartbeat (): Promise<void> {
    this.sendHeartbeat()
    await this.#heartbeat
    // If that heartbeat was sent before a pause, the one after it is in progress now.
    if (!this.#mayHandle) await this.#heartbeat
  }

  #toPubSubChannel (channel: string): string {
    return `${this.#keyPrefix}:c:${channel}`
  }

  #stop (): void {
    clearInterval(this.#timer)
    this.ownership.stop()
    this.commandQueue.close()
    this.#connection.close()
    this.#subscriber.close()
  }

  #runInterval (): void {
    this.#supervise()
    this.#endFencedStreams()
    this.sendHeartbeat()
    this.#inbox.rejectOverdue()
    this.#subscriber.resubscribe().catch(noop)
    this.#loader.start()
    this.#subscriber.remove(this.reducer.prune().map(channel => this.#toPubSubChannel(channel)))
    this.runs.prune()
    this.reducer.expireEntries()
  }

  /** Replaces a connection over which nothing has arrived for a whole lease. Counts intervals, because time also passes while this process is paused. */
  #supervise (): void {
    const getLimit = (isConnected: boolean): number => Math.max(this.#lease, isConnected ? 0 : RECONNECT_TIMEOUT) / this.#interval
    if (++this.#intervalsSinceReply > getLimit(this.#connection.isConnected)) {
      this.#intervalsSinceReply = 0
      this.#connection.replace()
    }
    // Each heartbeat causes a reply and a notification in the inbox. If only replies arrive, the subscription is lost.
    if ((this.#intervalsSinceReply <= 1 || !this.#subscriber.isReady) && ++this.#intervalsSinceNotification > getLimit(this.#subscriber.isReady)) {
      this.#intervalsSinceNotification = 0
      this.#subscriber.replace()
    }
  }

  #endFencedStreams (): void {
    this.#fencedIntervals = this.isFenced ? this.#fencedIntervals + 1 : 0
    if (this.#fencedIntervals !== Math.ceil(this.#lease * FENCED_STREAM_TIMEOUT_IN_LEASES / this.#interval)) return
    for (const { listener } of [...this.reducer.attached.values()]) listener?.onAbort()
    for (const { readers } of this.reducer.runs.followed.values()) for (const reader of [...readers]) reader.onAbort()
  }

  /** Renews the lease, or registers if Redis does not have the node any more. */
  async #registerOrRenew (): Promise<void> {
    try {
      if (this.commandQueue.nodeId === '') await this.#register()
      else await this.#executeHeartbeat(this.#nodeId, false)
    } catch (error) {
      const code = getErrorCode(error)
      if (code === 'NOSCRIPT') await this.commandQueue.loadScripts()
      else if (code === 'FENCED') {
        this.commandQueue.unregister()
        await this.#register()
      } else throw error
    }
  }

  /** Registers this node with a new id. */
  async #register (): Promise<void> {
    const nodeId = randomBytes(9).toString('base64url')
    const previousId = this.#nodeId
    this.#nodeId = this.reducer.nodeId = nodeId
    this.#inbox.reset(nodeId)
    // First, because `add` may fail, and the next attempt has another id.
    if (previousId !== '') this.#subscriber.remove([`${this.#keyPrefix}:n:${previousId}`])
    await this.#subscriber.add([this.#inbox.pubSubChannel]).catch((error: unknown) => {
      // The connection is half open. `#supervise` cannot detect that, because a node that is not registered gets no notifications.
      if (this.#subscriber.isReady) this.#subscriber.replace()
      throw error
    })
    await this.#executeHeartbeat(nodeId, true)
    this.commandQueue.register(nodeId)
    this.#loader.start()
  }

  async #executeHeartbeat (nodeId: string, isRegistration: boolean): Promise<void> {
    const sentAt = now()
    const sentDate = Date.now()
    const isFirst = isRegistration && this.#timer === undefined
    const reply = await this.commandQueue.executeUnsequenced(nodeId, Math.min(this.#lease, COMMAND_TIMEOUT), 'heartbeat', ...isRegistration ? [1, this.#confirmedId, this.commandQueue.acked] : [0, '', 0], this.#interval, isFirst ? JSON.stringify(this.#sharedOptions) : '', ...this.runs.producers) as HeartbeatReply
    const wasFenced = this.isFenced
    const [time, position, rollbackPosition, sessions, assigned, hasMoreRuns, releasedRuns] = reply
    this.#leaseEnd = sentAt + this.#lease
    this.#leaseEndDate = sentDate + this.#lease
    const receivedAt = now()
    this.#compareClocks(Number(time), sentAt, receivedAt)
    this.reducer.highestPosition = Math.max(this.reducer.highestPosition, Number(position))
    this.sessions = Number(sessions)
    this.reducer.rollback(Number(rollbackPosition))
    this.#confirmedId = nodeId
    if (wasFenced) for (const state of [...this.reducer.attached.values(), ...this.reducer.runs.followed.values()]) state.onAppend()
    this.ownership.renew()
    this.#sweep()
    this.runs.restart(releasedRuns)
    // Later, because `sendHeartbeat` does nothing while a heartbeat is in progress.
    if (Number(hasMoreRuns) === 1) setImmediate(() => { this.sendHeartbeat() })
    // A closing node runs no hooks for expired sessions: it could not run them in time.
    if (!this.#isClosing && assigned.length > 0) this.#expireAll(assigned).catch(noop)
  }

  /** Measures the difference between the clocks. The shorter the round trip, the more exact it is, so the best measurement is kept for a while. */
  #compareClocks (time: number, sentAt: number, receivedAt: number): void {
    const { commandQueue } = this
    const offset = time - (sentAt + receivedAt) * 500
    const error = (receivedAt - sentAt) * 500
    // If the two measurements contradict each other, a clock was set, and the older one is wrong.
    const isConsistent = Math.abs(offset - commandQueue.clockOffset) <= error + commandQueue.clockError
    if (isConsistent && error > commandQueue.clockError && receivedAt - this.#clocksComparedAt < CLOCK_COMPARISON_AGE) return
    this.#clocksComparedAt = receivedAt
    commandQueue.clockOffset = this.reducer.clockOffset = offset
    commandQueue.clockError = error
  }

  #sweep (): void {
    if (now() - this.#sweptAt < this.#lease * SWEEP_INTERVAL_IN_LEASES) return
    this.#sweptAt = now()
    this.cache.sweep()
    this.runs.cache.sweep()
    this.reducer.releaseLeftChannels()
  }

  /** Closes expired sessions. `assigned`: ids and deadlines. */
  async #expireAll (assigned: readonly string[]): Promise<void> {
    await Promise.all(assigned.flatMap((id, index) => index % 2 === 0 ? [this.#expire(id, assigned[index + 1] as string)] : []))
    // Redis assigns only some sessions at a time.
    this.sendHeartbeat()
  }

  async #expire (id: string, deadline: string): Promise<void> {
    const ended = this.commandQueue.execute('end', id, 'expired', 0, deadline) as Promise<[number, string[]]>
    // The hooks of a session run once, however long they take.
    if (!this.#expiring.has(id)) this.#expiring.set(id, this.#runHooks(id, ended).catch(noop).finally(() => { this.#expiring.delete(id) }))
    await ended
  }

  /** Runs the `onClose` hooks of an expired session. If this process fails before they have run, another one runs them. */
  async #runHooks (id: string, ended: Promise<[number, string[]]>): Promise<void> {
    const [isEnded, hash] = await ended
    if (Number(isEnded) === 0) return
    const record = parseRecord(hash) as SessionRecord
    const state = this.cache.getOrCreate(id, record)
    state.apply(record, this.#nodeId)
    state.markClosed('expired')
    state.hasExpiredHere = true
    await this.callbacks.onExpire(state)
    await this.commandQueue.executeInBackground('ack_expiry', id)
  }

  /** Closes a closed session again, without hooks. A session that has expired in another process expires again instead, because its hooks may not have run. One that Redis has lost is not closed. */
  #closeAgain ({ id, closeReason, hasExpiredHere, wasClosedHere }: SessionReplica): void {
    if (!hasExpiredHere && !wasClosedHere && (closeReason === 'expired' || closeReason === 'lost')) return
    this.commandQueue.executeInBackground('end', id, closeReason as string, hasExpiredHere ? 0 : 1, '', '')
    if (hasExpiredHere) this.commandQueue.executeInBackground('ack_expiry', id)
  }

  /** Explains why the store cannot be used. */
  #createBootError (error: unknown): Error {
    const { message } = (error as Error).cause as Error | undefined ?? error as Error
    if (getErrorCode(error) === 'OPTIONS') {
      const theirs = JSON.parse(message.slice(message.indexOf(' '))) as Record<string, string>
      const ours = this.#sharedOptions
      // Nodes with another version of this package may have other options.
      const conflicts = Object.keys({ ...ours, ...theirs }).filter(name => theirs[name] !== ours[name])
      return new OptionInvalid(`The nodes with the namespace "${this.#keyPrefix.slice(1, -1)}" use other values of ${conflicts.join(', ')}; use the same options in all nodes, or another namespace`)
    }
    return new StoreUnreachable(message)
  }
}
