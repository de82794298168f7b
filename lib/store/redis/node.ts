import { randomBytes } from 'node:crypto'
import { noop } from '../../awaitable.js'
import { OptionInvalid, StoreUnreachable } from '../../errors.js'
import { now } from '../../log/log.js'
import type { StoreCallbacks, StoreSettings } from '../store.js'
import { getErrorCode, CommandQueue } from './command-queue.js'
import { bounded, Connection, TIMEOUT, type RedisClient } from './connection.js'
import { MessageQueues } from './inbound/message-queue.js'
import { Inbox } from './replica/inbox.js'
import { Loader } from './replica/loader.js'
import { Reducer } from './replica/reducer.js'
import { RunReplica, type RunRecord } from './replica/run-replica.js'
import { parseRecord, SessionReplica, type SessionRecord } from './replica/session-replica.js'
import { RedisRuns } from './runs.js'
import { createScripts, sharedOptions } from './script.js'
import { StateCache } from './state-cache.js'
import { StreamOwnership } from './stream-ownership.js'
import { Subscriber } from './subscriber.js'

export interface NodeOptions {
  readonly client: RedisClient
  readonly namespace: string
  readonly lease: number
  /** Which partition this is, and of how many. All nodes must have the same partitions. */
  readonly partition: string
  /** Is called when the node does not use the client any more. */
  onStop (): void
}

type HeartbeatReply = readonly [time: string, position: string, rollbackPosition: string, sessions: number | string, assigned: readonly string[], hasMoreRuns: number | string]

// Milliseconds after which another connection is opened if the client library does not succeed in reconnecting. The library waits forever for a server that accepts a connection and never replies.
const RECONNECT_TIMEOUT = 10_000
/** Milliseconds for which a comparison of the clocks is used if later ones are less exact. */
const CLOCK_COMPARISON_AGE = 30_000
// Leases for which a node stays fenced before it ends its streams, so that their clients reconnect to another node.
const FENCED_LEASES = 2
// How often unused sessions are released from memory, in leases.
const SWEEP_INTERVAL = 2

/** One of the processes that share a Redis. It renews its lease, and connects the parts of the store. */
export class Node {
  readonly queue: CommandQueue
  readonly messageQueues: MessageQueues
  readonly cache: StateCache<SessionReplica, Pick<SessionRecord, 'principal' | 'startPosition'>>
  readonly runs: RedisRuns
  readonly reducer: Reducer
  readonly ownership: StreamOwnership
  /** The number of open sessions at the last heartbeat. */
  sessions = 0
  readonly #settings: StoreSettings
  readonly #callbacks: StoreCallbacks
  readonly #prefix: string
  readonly #lease: number
  readonly #sharedOptions: Record<string, string>
  readonly #onStop: () => void
  readonly #interval: number
  readonly #connection: Connection
  readonly #subscriber: Subscriber
  readonly #inbox: Inbox
  readonly #loader: Loader
  /** Sessions whose `onClose` hooks run because they have expired. */
  readonly #expiring = new Map<string, Promise<void>>()
  #node = ''
  #leaseEnd = 0
  /** Redis has no registration of this node any more, although its lease has not ended: Redis has lost data. */
  #isRegistrationLost = false
  #timer: NodeJS.Timeout | undefined
  #heartbeat: Promise<void> | undefined
  /** Heartbeat intervals since the last reply, and since the last message in the inbox. */
  #ticksSinceReply = 0
  #ticksSinceMessage = 0
  /** Heartbeat intervals since the lease has expired. */
  #fencedTicks = 0
  #sweptAt = now()
  #clocksComparedAt = -Infinity
  #isClosing = false

  constructor (settings: StoreSettings, callbacks: StoreCallbacks, { client, namespace, lease, partition, onStop }: NodeOptions) {
    this.#settings = settings
    this.#callbacks = callbacks
    this.#prefix = `{${namespace}}`
    this.#lease = lease
    this.#sharedOptions = sharedOptions(settings, partition)
    this.#onStop = onStop
    // Often enough for the lease, for the expiry of sessions, and for the statistics.
    this.#interval = Math.floor(Math.min(lease / 5, 1000, Math.max(50, settings.resumeTimeout / 4)))
    this.#connection = new Connection(client, () => {
      this.#ticksSinceReply = 0
      this.sendHeartbeat()
      this.queue.resend()
      this.#loader.start()
    })
    this.queue = new CommandQueue(this.#connection, createScripts(settings, lease), this.#prefix, {
      onFenced: () => { this.sendHeartbeat() },
      onReply: () => { this.#ticksSinceReply = 0 },
      getHighestPosition: () => this.reducer.highestPosition
    })
    const isFenced = (): boolean => this.isFenced
    const isBehind = (): boolean => !this.reducer.broadcasts.isLive
    const guard = { get isFenced () { return isFenced() }, get isBehind () { return isBehind() } }
    this.cache = new StateCache((id, { principal, startPosition }) => new SessionReplica(id, principal, startPosition, guard), ({ closeReason }) => closeReason === undefined)
    const runCache = new StateCache((_id, record: RunRecord) => new RunReplica(record, guard), ({ outcome }) => outcome === undefined)
    this.reducer = new Reducer(settings, this.cache, runCache, {
      // Not all streams of the process: those of other partitions do not read this broadcast.
      onBroadcast: () => { for (const state of this.reducer.attached.values()) state.onAppend() },
      onLoss: () => { this.#inbox.invalidate() },
      onIncomplete: () => { this.#loader.start() },
      onRollback: () => {
        for (const state of this.cache.open()) state.version = 0
        this.runs.reconcile()
        this.messageQueues.reconcile(this.cache.open())
      },
      onQueueChange: (kind, text) => { this.messageQueues.onChange(kind, text) },
      onProgressRequest: state => { this.ownership.commitCursor(state) },
      onStale: state => { this.refresh(state).catch(noop) }
    })
    this.#inbox = new Inbox(this.#prefix, TIMEOUT, this.reducer, {
      send: (command, ...args) => this.queue.execute(command, ...args),
      onLoss: () => {
        this.reducer.invalidate(this.cache.open(), runCache.open())
        this.#loader.start()
      }
    })
    this.#subscriber = new Subscriber(client, {
      onMessage: (channel, text) => {
        if (channel.endsWith(this.#inbox.channel)) this.#ticksSinceMessage = 0
        this.#inbox.receive(channel, text)
      },
      onDown: () => { this.#inbox.invalidate() },
      onReady: () => {
        this.#ticksSinceMessage = 0
        this.#inbox.invalidate()
      }
    })
    this.#loader = new Loader(this.reducer, this.#inbox, this.#subscriber, channel => this.#channelName(channel), () => { this.messageQueues.retryAll() })
    this.ownership = new StreamOwnership(this.queue, this.#inbox, this.reducer, settings.resumeTimeout, this.#interval)
    this.runs = new RedisRuns(settings, this.queue, this.#inbox, this.reducer, runCache)
    this.messageQueues = new MessageQueues(this.queue, {
      isFenced,
      onRecord: (state, hash) => { this.applyRecord(state, hash) }
    })
  }

  /** Whether other nodes may treat this one as failed. */
  get isFenced (): boolean {
    return now() > this.#leaseEnd
  }

  /** Connects and registers. Rejects with the reason if that is not possible. */
  async start (): Promise<void> {
    try {
      await this.#connection.open()
      await this.#subscriber.open([`${this.#prefix}:all`])
      await this.queue.loadScripts()
      const missingRights = await this.queue.readMissingRights()
      if (missingRights !== '') throw new Error(`the user of the client lacks rights; add these rules to its ACL: ${missingRights}`)
      await this.#register()
    } catch (error) {
      this.#stop()
      throw this.#createBootError(error)
    }
    this.ownership.detectPause()
    this.#timer = setInterval(() => { this.#tick() }, this.#interval).unref()
    this.#loader.start()
  }

  /** Waits for running handlers, and deregisters. */
  async close (): Promise<void> {
    this.#isClosing = true
    await Promise.all([bounded(this.messageQueues.close(), this.#settings.closeTimeout), bounded(Promise.all(this.#expiring.values()))].map(closed => closed.catch(noop)))
    // The last command, because Redis refuses the commands of a node that is not registered.
    await this.queue.execute('deregister').catch(noop)
    this.#stop()
  }

  /** Applies a record that was read outside of the order of the inbox. */
  applyRecord (state: SessionReplica, hash: readonly string[]): void {
    const record = parseRecord(hash)
    if (record !== undefined) {
      if (state.apply(record, this.#node)) state.listener?.onEnd()
    } else if (state.epoch === 0) this.reducer.removeSession(state)
    // The stream may end only at the place of the close in the inbox. It has not arrived yet, so everything is read again.
    else this.#inbox.invalidate()
  }

  /** Loads the record of a session. Rejects with StoreUnavailable. */
  async refresh (state: SessionReplica): Promise<void> {
    this.applyRecord(state, await this.queue.execute('get', state.id) as string[])
  }

  /** Sends a heartbeat, unless one is in progress. */
  sendHeartbeat (): void {
    // A node that is not registered yet would register twice. Without a connection, the client would queue the commands.
    if (this.#timer === undefined || !this.#connection.isUp) return
    if (this.#heartbeat !== undefined) return
    const sentAt = now()
    this.#heartbeat = this.#registerOrRenew().catch(noop).finally(() => {
      this.#heartbeat = undefined
      // The next one is late already, and the lease may end before the next tick.
      if (now() - sentAt > this.#interval) this.sendHeartbeat()
    })
  }

  #channelName (channel: string): string {
    return `${this.#prefix}:c:${channel}`
  }

  #stop (): void {
    clearInterval(this.#timer)
    this.queue.close()
    this.#connection.close()
    this.#subscriber.close()
    this.#onStop()
  }

  #tick (): void {
    this.ownership.detectPause()
    this.#supervise()
    this.#endFencedStreams()
    this.sendHeartbeat()
    this.#inbox.tick()
    this.#subscriber.resubscribe().catch(noop)
    this.#loader.start()
    this.#subscriber.remove(this.reducer.prune().map(channel => this.#channelName(channel)))
    this.runs.prune()
    this.reducer.expireEntries()
  }

  /** Replaces a connection over which nothing has arrived for a whole lease. Counts ticks, because time also passes while this process is paused. */
  #supervise (): void {
    const getLimit = (isUp: boolean): number => Math.max(this.#lease, isUp ? 0 : RECONNECT_TIMEOUT) / this.#interval
    if (++this.#ticksSinceReply > getLimit(this.#connection.isUp)) {
      this.#ticksSinceReply = 0
      this.#connection.replace()
    }
    // Each heartbeat causes a reply and a message in the inbox. If only replies arrive, the subscription is lost.
    if ((this.#ticksSinceReply <= 1 || !this.#subscriber.isReady) && ++this.#ticksSinceMessage > getLimit(this.#subscriber.isReady)) {
      this.#ticksSinceMessage = 0
      this.#subscriber.replace()
    }
  }

  #endFencedStreams (): void {
    this.#fencedTicks = this.isFenced ? this.#fencedTicks + 1 : 0
    if (this.#fencedTicks !== Math.ceil(this.#lease * FENCED_LEASES / this.#interval)) return
    for (const { listener } of [...this.reducer.attached.values()]) listener?.onRemove()
    for (const { readers } of this.reducer.runs.followed.values()) for (const reader of [...readers]) reader.onUnavailable()
  }

  /** Renews the lease, or registers if Redis does not have the node any more. */
  async #registerOrRenew (): Promise<void> {
    try {
      if (this.queue.node === '') await this.#register()
      else await this.#renewLease(this.#node, false)
    } catch (error) {
      const code = getErrorCode(error)
      if (code === 'NOSCRIPT') await this.queue.loadScripts()
      else if (code === 'FENCED') {
        this.#isRegistrationLost ||= !this.isFenced
        this.queue.unregister()
        await this.#register()
      } else throw error
    }
  }

  /** Registers this node with a new id. */
  async #register (): Promise<void> {
    const node = randomBytes(9).toString('base64url')
    const previous = this.#node
    this.#node = this.reducer.node = node
    this.#inbox.reset(node)
    await this.#subscriber.add([this.#inbox.channel])
    if (previous !== '') this.#subscriber.remove([`${this.#prefix}:n:${previous}`])
    await this.#renewLease(node, true)
    this.#isRegistrationLost = false
    this.queue.register(node)
    this.#loader.start()
  }

  async #renewLease (node: string, isRegistration: boolean): Promise<void> {
    const sentAt = now()
    const isFirst = isRegistration && this.#timer === undefined
    const reply = await this.queue.executeUnsequenced(node, Math.min(this.#lease, TIMEOUT), 'heartbeat', isRegistration ? 1 : 0, this.#isRegistrationLost ? 1 : 0, this.#interval, isFirst ? JSON.stringify(this.#sharedOptions) : '') as HeartbeatReply
    const wasFenced = this.isFenced
    const [time, position, rollbackPosition, sessions, assigned, hasMoreRuns] = reply
    this.#leaseEnd = sentAt + this.#lease
    const receivedAt = now()
    this.#compareClocks(Number(time), sentAt, receivedAt)
    this.reducer.highestPosition = Math.max(this.reducer.highestPosition, Number(position))
    this.sessions = Number(sessions)
    this.reducer.rollback(Number(rollbackPosition))
    if (wasFenced) for (const state of [...this.reducer.attached.values(), ...this.reducer.runs.followed.values()]) state.onAppend()
    this.ownership.renew()
    this.#sweep()
    // Later, because only one heartbeat can be in progress.
    if (Number(hasMoreRuns) === 1) setImmediate(() => { this.sendHeartbeat() })
    // A closing node runs no hooks for expired sessions: it could not run them in time.
    if (!this.#isClosing && assigned.length > 0) this.#expireAll(assigned).catch(noop)
  }

  /** Measures the difference between the clocks. The shorter the round trip, the more exact it is, so the best measurement is kept for a while. */
  #compareClocks (time: number, sentAt: number, receivedAt: number): void {
    const { queue } = this
    const offset = time - (sentAt + receivedAt) * 500
    const error = (receivedAt - sentAt) * 500
    // If the two measurements contradict each other, one of the clocks was set, and the older measurement is wrong.
    const isConsistent = Math.abs(offset - queue.clockOffset) <= error + queue.clockError
    if (isConsistent && error > queue.clockError && receivedAt - this.#clocksComparedAt < CLOCK_COMPARISON_AGE) return
    this.#clocksComparedAt = receivedAt
    queue.clockOffset = this.reducer.clockOffset = offset
    queue.clockError = error
  }

  #sweep (): void {
    if (now() - this.#sweptAt < this.#lease * SWEEP_INTERVAL) return
    this.#sweptAt = now()
    this.cache.sweep()
    this.runs.cache.sweep()
  }

  /** Closes expired sessions. `assigned`: ids and deadlines. */
  async #expireAll (assigned: readonly string[]): Promise<void> {
    await Promise.all(assigned.flatMap((id, index) => index % 2 === 0 ? [this.#expire(id, assigned[index + 1] as string)] : []))
    // Redis assigns only some of them at a time.
    this.sendHeartbeat()
  }

  async #expire (id: string, deadline: string): Promise<void> {
    const ended = this.queue.execute('end', id, 'expired', 0, deadline) as Promise<[number, string[]]>
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
    state.apply(record, this.#node)
    state.markClosed('expired')
    await this.#callbacks.onExpire(state)
    await this.queue.executeReliably('ack_expiry', id)
  }

  /** Explains why the store cannot be used. */
  #createBootError (error: unknown): Error {
    const { message } = (error as Error).cause as Error | undefined ?? error as Error
    if (getErrorCode(error) === 'OPTIONS') {
      const current = JSON.parse(message.slice(message.indexOf(' '))) as Record<string, string>
      const conflicts = Object.entries(this.#sharedOptions).filter(([name, value]) => current[name] !== value).map(([name]) => name)
      return new OptionInvalid(`The nodes of the namespace ${this.#prefix} use other values of ${conflicts.join(', ')}; use the same options in all nodes, or another namespace`)
    }
    return new StoreUnreachable(message)
  }
}
