import type { SendOptions, Session, Sessions } from '../../../lib/index.js'
import { createRandom } from '../../support/random.js'
import { CLOSE_REASON, Model, type Call, type ClientModel, type SentEvent, type Violation } from './model.js'
import { Network, type ConnectionKind, type Direction, type Latency } from './network.js'
import { Client, Node, type ClusterOptions, type ClusterContext } from './participants.js'
import type { RedisEngine } from './redis-engine.js'
import { Scheduler, type SimulatedProcess } from './scheduler.js'

/**
 * One step of a history. `after` is the number of milliseconds since the previous step; `client`, `node` and `except` are the indexes
 * of participants; `refused` is the index of the message of a batch that the store refuses the first time; `checks` is the number of
 * milliseconds that the validators and hooks before a handler take.
 */
type Step = { readonly after: number } & (
  | { readonly kind: 'emit', readonly client: number, readonly node: number, readonly count: number, readonly latest?: Latest }
  | { readonly kind: 'publish', readonly channel: string, readonly node: number, readonly count: number, readonly except: number | undefined, readonly latest?: Latest }
  | { readonly kind: 'broadcast', readonly node: number, readonly except: number | undefined, readonly latest?: Latest }
  | { readonly kind: 'join' | 'leave', readonly client: number, readonly node: number, readonly channel: string }
  | { readonly kind: 'update' | 'request', readonly client: number, readonly node: number }
  | { readonly kind: 'close', readonly client: number, readonly node: number }
  | { readonly kind: 'abandon', readonly client: number }
  | { readonly kind: 'message', readonly client: number, readonly node: number, readonly count: number, readonly hasKey: boolean, readonly duration: number, readonly repeats: number, readonly refused?: number | undefined, readonly checks?: number | undefined }
  | { readonly kind: 'move', readonly client: number, readonly node: number, readonly ms: number }
  | { readonly kind: 'cut' | 'half-open', readonly node: number, readonly connection: ConnectionKind, readonly refusedFor: number }
  | { readonly kind: 'block', readonly node: number, readonly connection: ConnectionKind, readonly direction: Direction, readonly ms: number }
  | { readonly kind: 'pause', readonly node: number, readonly ms: number }
  | { readonly kind: 'crash' | 'shutdown', readonly node: number, readonly ms: number }
  | { readonly kind: 'restart-redis', readonly ms: number }
  | { readonly kind: 'kill-subscriptions' }
)

type Kind = Step['kind']
type Latest = true | 'key' | undefined

interface Setup {
  readonly seed: number
  readonly lease: number
  readonly libraries: ClusterOptions['libraries']
  /** How many entries a log keeps. */
  readonly entries: number
  readonly latency: keyof typeof LATENCIES
  readonly clients: number
  /** Whether the steps start before the nodes have started. */
  readonly isEarly: boolean
  /** Whether the first client disconnects for good at the end, so that its session expires. */
  readonly isAbandoned: boolean
  /** Milliseconds after which a session without a stream expires. Default: longer than all faults. */
  readonly resumeTimeout?: number | undefined
  /** Whether Redis executes batches in parts, as it does if they take long. */
  readonly isWorkLimited?: boolean | undefined
}

export interface Plan {
  readonly setup: Setup
  readonly steps: Step[]
}

export interface Result {
  readonly violations: readonly Violation[]
  readonly trace: readonly string[]
  /** Virtual milliseconds. */
  readonly duration: number
}

const NODES = 3
const CHANNELS = ['a', 'b']
/** Milliseconds after the last fault in which every client must have everything, without the time that handlers take. */
const DELIVERY_TIMEOUT = 15_000
/** A node renews its lease, and removes failed nodes, at least as often, in milliseconds. */
const MAX_HEARTBEAT_INTERVAL = 1000
/** Longer than all faults of a history, so that no session expires, unless the setup has a shorter one. */
const RESUME_TIMEOUT = 60_000
const LARGE_LOG = 1000
const LATENCIES = {
  short: { usual: 0.5, slow: 1, slowShare: 0 },
  medium: { usual: 1, slow: 40, slowShare: 0.1 },
  long: { usual: 5, slow: 300, slowShare: 0.05 }
} satisfies Record<string, Latency>

const actions: Array<[kind: Kind, weight: number]> = [
  ['emit', 8], ['publish', 10], ['broadcast', 4], ['join', 8], ['leave', 5], ['update', 2], ['request', 4], ['close', 1], ['message', 9], ['move', 8]
]
const faults: Array<[kind: Kind, weight: number]> = [
  ['cut', 6], ['block', 8], ['half-open', 2], ['pause', 1], ['crash', 1], ['shutdown', 2], ['restart-redis', 1], ['kill-subscriptions', 1]
]

/** Creates the history of a seed. */
export function createPlan (seed: number): Plan {
  const random = createRandom(seed)
  const below = (limit: number): number => Math.floor(random() * limit)
  const choose = <T>(items: readonly T[]): T => items[below(items.length)] as T
  const chooseWeighted = (items: ReadonlyArray<[kind: Kind, weight: number]>): Kind => {
    let left = random() * items.reduce((sum, [, weight]) => sum + weight, 0)
    return (items.find(([, weight]) => (left -= weight) < 0) ?? items[0] as [Kind, number])[0]
  }
  // With the longest one, a call can fail before the lease ends.
  const lease = choose([1500, 2500, 6000])
  const entries = random() < 0.8 ? LARGE_LOG : 2 + below(6)
  const clients = 1 + below(3)
  const faultShare = choose([0.1, 0.25, 0.4])
  // With 1, even a small log may drop no event, because it keeps only one of each key.
  const latestShare = choose([0, 0, 0.3, 1])
  /** Mostly shorter than the time after which the others treat a node as dead. */
  const faultDuration = (): number => random() < 0.8 ? 5 + random() * lease * 0.4 : random() * lease * 1.8
  // Most of a history happens to one client and one node, because most faults need several events in one place.
  const busyNode = below(NODES)
  const busyClient = below(clients)
  const chooseConnection = (): ConnectionKind => choose(['commands', 'subscription'])
  const createStep = (): Step => {
    const kind = chooseWeighted(random() < faultShare ? faults : actions)
    const after = random() < 0.85 ? random() * 4 : random() * 200
    const node = random() < (kind === 'move' || faults.some(([fault]) => fault === kind) ? 0.6 : 0.2) ? busyNode : below(NODES)
    const client = random() < 0.6 ? busyClient : below(clients)
    const channel = choose(CHANNELS)
    const except = random() < 0.2 ? client : undefined
    const count = random() < 0.7 ? 1 : 2 + below(4)
    const latest = random() < latestShare ? choose([true, 'key'] as const) : undefined
    switch (kind) {
      case 'emit': return { after, kind, client, node, count, latest }
      case 'publish': return { after, kind, channel, node, count, except, latest }
      case 'broadcast': return { after, kind, node, except, latest }
      case 'join':
      case 'leave': return { after, kind, client, node, channel }
      case 'update':
      case 'request':
      case 'close': return { after, kind, client, node }
      case 'abandon': return { after, kind, client }
      case 'message': return { after, kind, client, node, count, hasKey: random() < 0.85, duration: random() < 0.8 ? 1 + random() * 20 : random() * 800, repeats: random() < 0.7 ? 0 : 1 + below(2), refused: random() < 0.15 ? below(count) : undefined, checks: random() < 0.2 ? random() * 2500 / count : undefined }
      case 'move': return { after, kind, client, node, ms: random() < 0.7 ? random() * 3 : random() * 500 }
      case 'cut': return { after, kind, node, connection: chooseConnection(), refusedFor: random() < 0.7 ? 0 : faultDuration() }
      case 'half-open': return { after, kind, node, connection: chooseConnection(), refusedFor: 0 }
      case 'block': return { after, kind, node, connection: chooseConnection(), direction: random() < 0.7 ? 'down' : 'up', ms: faultDuration() }
      case 'pause': return { after, kind, node, ms: faultDuration() * 2 }
      case 'crash':
      case 'shutdown': return { after, kind, node, ms: random() * 500 }
      case 'restart-redis': return { after, kind, ms: faultDuration() }
      case 'kill-subscriptions': return { after, kind }
    }
  }
  const setup: Setup = {
    seed,
    lease,
    libraries: Array.from({ length: NODES }, () => choose(['ioredis', 'redis'])),
    entries,
    latency: choose(['short', 'medium', 'long']),
    clients,
    isEarly: random() < 0.1,
    isAbandoned: random() < 0.03,
    resumeTimeout: random() < 0.15 ? 300 + below(1500) : undefined
  }
  const steps = Array.from({ length: 10 + below(30) }, createStep)
  // Otherwise, most sessions would be closed only when all faults have ended.
  if (random() < 0.3) {
    for (let client = 0; client < clients; client++) {
      const [node, connection, after] = [below(NODES), chooseConnection(), random() * 4]
      steps.push(
        { after, kind: 'join', client, node: below(NODES), channel: choose(CHANNELS) },
        { after: random() * 4, kind: 'close', client, node },
        random() < 0.5 ? { after: random() * 4, kind: 'cut', node, connection, refusedFor: 0 } : { after: random() * 4, kind: 'block', node, connection, direction: 'down', ms: faultDuration() }
      )
    }
  }
  const { resumeTimeout } = setup
  if (resumeTimeout !== undefined) {
    // Other nodes change the channels of the session until it expires, and the connections of all nodes break.
    steps.splice(below(steps.length), 0, { after: random() * 4, kind: 'abandon', client: busyClient })
    for (let passed = 0; passed < resumeTimeout * 1.3;) {
      const after = random() * resumeTimeout * 0.4
      const step = createStep()
      steps.push(random() < 0.3 ? { ...step, after } : { after, kind: random() < 0.7 ? 'join' : 'leave', client: busyClient, node: below(NODES), channel: choose(CHANNELS) })
      passed += after
    }
  }
  return { setup: { ...setup, isWorkLimited: random() < 0.3 }, steps }
}

/** Runs histories, one after the other. */
export class Simulation {
  readonly #scheduler = new Scheduler()
  readonly #network: Network

  constructor (engine: RedisEngine) {
    this.#network = new Network(this.#scheduler, engine)
  }

  async run (plan: Plan, isTraced = false): Promise<Result> {
    const scheduler = this.#scheduler
    scheduler.reset(plan.setup.seed)
    scheduler.trace = isTraced ? [] : undefined
    this.#network.engine.isWorkLimited = plan.setup.isWorkLimited === true
    await this.#network.reset(plan.setup.seed, LATENCIES[plan.setup.latency])
    const history = new History(plan, scheduler, this.#network)
    try {
      await history.run()
    } catch (error) {
      history.model.fail('simulation', String((error as Error).stack))
    }
    return { violations: history.model.violations, trace: scheduler.trace ?? [], duration: scheduler.time }
  }

  /** Removes steps from a plan while it still violates the same guarantee. */
  async shrink (plan: Plan, kind: string): Promise<Plan> {
    let smallest = plan
    for (let size = Math.ceil(plan.steps.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
      for (let from = 0; from < smallest.steps.length;) {
        const candidate = { ...smallest, steps: smallest.steps.toSpliced(from, size) }
        const { violations } = await this.run(candidate)
        if (violations.some(violation => violation.kind === kind)) smallest = candidate
        else from += size
      }
    }
    return smallest
  }
}

class History {
  readonly model: Model
  readonly #plan: Plan
  readonly #scheduler: Scheduler
  readonly #network: Network
  readonly #nodes: Node[]
  readonly #clients: Client[]
  readonly #random: () => number
  readonly #resumeTimeout: number
  /** When the effects of all faults have ended. */
  #healthyAt = 0
  #isFinishing = false
  #batches = 0
  #updates = 0
  /** The signals of the sessions that the nodes have found. */
  readonly #signals: Array<{ readonly signal: AbortSignal, readonly process: SimulatedProcess }> = []

  constructor (plan: Plan, scheduler: Scheduler, network: Network) {
    this.#plan = plan
    this.#scheduler = scheduler
    this.#network = network
    const { seed, lease, libraries, entries, clients, resumeTimeout } = plan.setup
    this.#random = createRandom(seed + 1)
    this.#resumeTimeout = resumeTimeout ?? RESUME_TIMEOUT
    this.model = new Model(entries === LARGE_LOG ? Infinity : entries, undefined, resumeTimeout)
    const options = { lease, libraries, plugin: { resumeTimeout: this.#resumeTimeout, retry: 10, closeTimeout: 3000, log: { entries }, channelLog: { entries } } }
    const context: ClusterContext = { scheduler, network, model: this.model, options, nodes: [], random: this.#random }
    this.#nodes = context.nodes
    for (let index = 0; index < NODES; index++) context.nodes.push(new Node(context, index))
    this.#clients = Array.from({ length: clients }, (_, index) => {
      const model = this.model.addClient(index)
      return new Client(context, model)
    })
    scheduler.onUnhandled = error => { this.model.fail('unhandled', String((error as Error)?.stack ?? error)) }
    network.onReply = process => { this.#nodes.find(node => node.process === process)?.onReply() }
  }

  async run (): Promise<void> {
    const scheduler = this.#scheduler
    for (const node of this.#nodes) node.start()
    for (const client of this.#clients) scheduler.schedule(this.#random() * 20, scheduler.driver, () => { client.connect() })
    if (!this.#plan.setup.isEarly) await scheduler.runUntil(() => this.#nodes.every(({ isLive }) => isLive) && this.#clients.every(({ isConnected }) => isConnected), DELIVERY_TIMEOUT)
    let at = 0
    for (const step of this.#plan.steps) {
      at += step.after
      scheduler.schedule(at, scheduler.driver, () => { this.#execute(step) })
    }
    await scheduler.runUntil(() => false, at + 1)
    await scheduler.runUntil(() => false, this.#healthyAt - scheduler.time)
    this.#isFinishing = true
    await this.#finish()
    for (const node of this.#nodes) node.checkSilence()
    this.model.check()
  }

  /** Waits until every client has received everything, then closes all sessions and nodes. */
  async #finish (): Promise<void> {
    const { model } = this
    const scheduler = this.#scheduler
    const nodes = this.#nodes
    const clients = this.#clients
    // The handlers of a session run one after the other.
    const handlerTimes = clients.map(client => model.messages.reduce((sum, message) => message.client === client.model ? sum + message.duration + message.checks : sum, 0))
    let deadline = scheduler.time + DELIVERY_TIMEOUT + Math.max(0, ...handlerTimes)
    const wait = async (what: string, condition: () => boolean): Promise<void> => {
      if (!await scheduler.runUntil(condition, deadline - scheduler.time)) throw new Stuck(`${what} ${DELIVERY_TIMEOUT} ms after the last fault`)
    }
    /** Waits until Redis has nothing of a kind. */
    const waitUntilEmpty = async (what: string, list: () => Promise<string[]>): Promise<void> => {
      for (let left = await list(); left.length > 0; left = await list()) {
        if (scheduler.time >= deadline) throw new Stuck(`${what} ${DELIVERY_TIMEOUT} ms after the last fault: ${left.join(', ')}`)
        await scheduler.runUntil(() => false, 200)
      }
    }
    /** Repeats a call until it is confirmed. */
    const confirm = async (what: string, call: () => Call): Promise<void> => {
      let current: Call | undefined
      const start = (): void => { scheduler.schedule(20, this.#liveNode().process, () => { current = call() }) }
      start()
      await wait(`${what} was not confirmed`, () => {
        if (current?.outcome === 'unknown') {
          current = undefined
          start()
        }
        return current?.outcome === 'confirmed' || current?.outcome === 'refused'
      })
    }
    try {
      await wait('a node had not started', () => nodes.every(node => node.process.isAlive ? node.isLive : node.start()))
      await wait('a client had no stream', () => clients.every(client => !client.isActive || client.isConnected))
      await wait('a message had no response', () => model.messages.every(({ resolvedAt }) => resolvedAt < Infinity))
      await wait('an event was not confirmed', () => model.events.every(({ outcome, process }) => outcome !== 'pending' || !process.isAlive))
      await wait('a request had not settled', () => model.requests.every(({ isSettled, process }) => isSettled || !process.isAlive))
      // The last events show what is missing before them.
      for (const client of clients) if (client.isActive) await confirm('an event', () => this.#emit(this.#liveNode(), client.model))
      for (const channel of CHANNELS) await confirm('an event', () => this.#publish(this.#liveNode(), channel))
      await confirm('an event', () => this.#broadcast(this.#liveNode()))
      await wait('a client had not received everything', () => clients.every(client => !client.isActive || model.hasReceivedAll(client.model)))
      await this.#checkStates(wait)
      await waitUntilEmpty('a queue had messages', () => this.#network.engine.queuedMessages())
      if (this.#plan.setup.isAbandoned) clients[0]?.abandon()
      deadline = scheduler.time + DELIVERY_TIMEOUT
      for (const client of clients) {
        const { close, isAbandoned, isLost } = client.model
        if (!isAbandoned && !isLost && close?.outcome !== 'confirmed') await confirm('a close', () => this.#close(this.#liveNode(), client.model))
      }
      await wait('a client had not received close', () => clients.every(client => !client.isActive))
      await wait('a close had not settled', () => clients.every(({ model: { closes } }) => closes.every(({ outcome, process }) => outcome !== 'pending' || !nodes.some(node => node.process.name === process && node.process.isAlive))))
      if (clients.some(({ model: { isAbandoned, isLost } }) => isAbandoned || isLost)) {
        // The number of sessions can be one second old.
        await scheduler.runUntil(() => false, 1100)
        deadline += 2.5 * this.#resumeTimeout
        await wait('a session had not expired', () => nodes.every(({ sessions }) => sessions?.size === 0))
      }
      await wait('a signal had not aborted', () => this.#signals.every(({ signal, process }) => signal.aborted || !process.isAlive))
      await wait('a node had streams or channels', () => nodes.every(({ sessions }) => sessions?.stats().streams === 0 && sessions.stats().channels === 0))
      // The others remove a node that has crashed when its lease has ended.
      const crashedAt = Math.max(...nodes.map(node => node.crashedAt))
      // Leases do not end while Redis is unavailable.
      const removedAt = Math.max(crashedAt, this.#healthyAt) + this.#plan.setup.lease + MAX_HEARTBEAT_INTERVAL
      if (crashedAt !== -Infinity) await scheduler.runUntil(() => false, removedAt - scheduler.time)
      await waitUntilEmpty('an expired session was not removed', () => this.#network.engine.closingSessions())
      for (const node of nodes) node.close()
      await wait('a node had not closed', () => nodes.every(node => !node.process.isAlive))
      await this.#checkKeys()
    } catch (error) {
      if (!(error instanceof Stuck)) throw error
      model.fail('stuck', error.message)
    }
  }

  /** Checks that every node has the data and the channels of every session, and the members of every channel. */
  async #checkStates (wait: (what: string, condition: () => boolean) => Promise<void>): Promise<void> {
    for (const name of CHANNELS) {
      for (const node of this.#nodes) {
        let members: readonly [sessions: Session[], count: number] | undefined
        let startedAt = 0
        this.#scheduler.schedule(0, node.process, () => {
          const read = (): void => {
            startedAt = this.model.observe()
            const channel = node.sessions?.channel(name)
            Promise.all([channel?.sessions() ?? [], channel?.count() ?? 0]).then(read => { members = read }, () => { this.#scheduler.schedule(50, node.process, read) })
          }
          read()
        })
        await wait('the members of a channel were not found', () => members !== undefined)
        const [sessions, count] = members ?? [[], 0]
        this.model.checkMembers(node.process.name, name, sessions.map(({ id }) => id), count, startedAt)
      }
    }
    for (const { model: client, isActive, sessionId = '' } of this.#clients) {
      if (!isActive || client.close !== undefined) continue
      for (const node of this.#nodes) {
        let state: { data: object, channels: string[] } | undefined
        this.#scheduler.schedule(0, node.process, () => {
          const read = (): void => {
            node.sessions?.find(sessionId).then(session => {
              state = { data: session?.data ?? {}, channels: session?.channels ?? [] }
            }, () => { this.#scheduler.schedule(50, node.process, read) })
          }
          read()
        })
        await wait('a session was not found', () => state !== undefined)
        this.model.checkState(client, node.process.name, state?.data ?? {}, state?.channels ?? [])
      }
    }
  }

  /** Checks that all keys that are left are keys of the whole store, or expire. */
  async #checkKeys (): Promise<void> {
    const keys = await this.#network.engine.persistentKeys()
    const left = [...keys].filter(([, length]) => length > 8)
    if (keys.size > 4 || left.length > 0) this.model.fail('keys', `without an expiry are left: ${[...keys].map(([key, length]) => `${key} with ${length}`).join(', ')}`)
    const closing = await this.#network.engine.closingSessions()
    if (closing.length > 0) this.model.fail('keys', `of expired sessions are left: ${closing.join(', ')}`)
  }

  #execute (step: Step): void {
    const scheduler = this.#scheduler
    const network = this.#network
    scheduler.log(`step ${JSON.stringify(step)}`)
    const node = this.#nodes['node' in step ? step.node : 0] as Node
    const client = this.#clients['client' in step ? step.client : 0] as Client
    const except = 'except' in step && step.except !== undefined ? this.#clients[step.except]?.model : undefined
    /** Runs in the process of the node, if it is live then. */
    const onNode = (run: (sessions: Sessions) => void): void => {
      scheduler.schedule(0, node.process, () => { if (node.isLive && client.sessionId !== undefined && node.sessions !== undefined) run(node.sessions) })
    }
    switch (step.kind) {
      case 'emit':
        onNode(() => { for (let count = 0; count < step.count; count++) this.#emit(node, client.model, step.latest) })
        break
      case 'publish':
        onNode(() => { for (let count = 0; count < step.count; count++) this.#publish(node, step.channel, except, step.latest) })
        break
      case 'broadcast':
        onNode(() => { this.#broadcast(node, except, step.latest) })
        break
      case 'join':
      case 'leave':
        onNode(sessions => {
          client.model.memberships.push(this.model.record({ kind: step.kind, channel: step.channel, process: node.process.name }, this.#withSession(sessions, client.model, session => {
            this.#signals.push({ signal: session.signal, process: node.process })
            return session[step.kind](step.channel)
          }), step.kind))
        })
        break
      case 'update':
        onNode(sessions => {
          const property = `p${++this.#updates}`
          client.model.updates.push(this.model.record({ property }, this.#withSession(sessions, client.model, session => {
            this.#signals.push({ signal: session.signal, process: node.process })
            return session.update({ [property]: property })
          }), 'update'))
        })
        break
      case 'request':
        onNode(sessions => {
          // In a small log, a request can be lost.
          const timeout = this.#plan.setup.entries === LARGE_LOG ? 0 : 5000
          this.model.sendRequest(client.model, node.process, n => this.#withSession(sessions, client.model, session => session.request('ask', n, { timeout })))
        })
        break
      case 'close':
        onNode(() => { this.#close(node, client.model) })
        break
      case 'abandon':
        if (client.sessionId !== undefined) client.abandon()
        break
      case 'message':
        if (client.sessionId === undefined || !client.isActive) break
        this.#send(client, node, step)
        break
      case 'move':
        client.cut(node, step.ms)
        break
      case 'cut':
        for (const connection of network.find(node.process, step.connection)) connection.cut()
        network.refuse(node.process, step.refusedFor)
        this.#onFault(step.refusedFor)
        break
      case 'half-open':
        for (const connection of network.find(node.process, step.connection)) connection.halfOpen()
        this.#onFault(0)
        break
      case 'block':
        for (const connection of network.find(node.process, step.connection)) connection.block(step.direction, step.ms)
        this.#onFault(step.ms)
        break
      case 'pause':
        scheduler.log(`${node.process.name} is paused`)
        node.process.pausedUntil = Math.max(node.process.pausedUntil, scheduler.time + step.ms)
        for (const other of this.#clients) if (other.node === node && this.#random() < 0.6) other.cut(undefined, this.#random() * step.ms)
        this.#onFault(step.ms)
        break
      case 'crash':
      case 'shutdown':
        if (!node.isLive) break
        if (step.kind === 'crash') node.crash()
        else node.close()
        this.#restartLater(node, step.ms)
        this.#onFault(step.ms)
        break
      case 'restart-redis':
        network.engine.unloadScripts()
        for (const connection of network.find()) connection.cut()
        for (const { process } of this.#nodes) network.refuse(process, step.ms)
        this.#onFault(step.ms)
        break
      case 'kill-subscriptions':
        for (const connection of network.find(undefined, 'subscription')) connection.cut()
        this.#onFault(0)
    }
  }

  /** Starts a node again when its process has ended. */
  #restartLater (node: Node, ms: number): void {
    this.#scheduler.schedule(ms, this.#scheduler.driver, () => {
      if (this.#isFinishing) return
      if (node.process.isAlive) this.#restartLater(node, 50)
      else node.start()
    })
  }

  #onFault (ms: number): void {
    this.#healthyAt = Math.max(this.#healthyAt, this.#scheduler.time + ms)
  }

  #liveNode (): Node {
    const live = this.#nodes.filter(({ isLive }) => isLive)
    return live[Math.floor(this.#random() * live.length)] ?? this.#nodes[0] as Node
  }

  #send (client: Client, node: Node, { count, hasKey, duration, repeats, refused, checks }: Extract<Step, { kind: 'message' }>): void {
    const batch = ++this.#batches
    const messages = Array.from({ length: count }, (_, index) => this.model.addMessage(client.model, hasKey, batch, duration, index === refused, checks))
    client.send(messages, node.isLive ? node : undefined)
    // A client that gets no response in time repeats the message, often on another node.
    for (let repeat = hasKey ? 0 : repeats; repeat < repeats; repeat++) {
      this.#scheduler.schedule(this.#random() * 30, this.#scheduler.driver, () => { client.send(messages) })
    }
  }

  #emit (node: Node, client: ClientModel, latest?: Latest): SentEvent {
    return this.#sendEvent({ kind: 'session', channel: '', client, except: undefined, process: node.process }, latest, (event, options) => this.#withSession(node.sessions, client, session => session.emit('event', event, options)))
  }

  #publish (node: Node, channel: string, except?: ClientModel, latest?: Latest): SentEvent {
    return this.#sendEvent({ kind: 'channel', channel, client: undefined, except, process: node.process }, latest, async (event, options) => {
      await node.sessions?.channel(channel).emit('event', event, options)
    })
  }

  #broadcast (node: Node, except?: ClientModel, latest?: Latest): SentEvent {
    return this.#sendEvent({ kind: 'broadcast', channel: '', client: undefined, except, process: node.process }, latest, async (event, options) => {
      await node.sessions?.broadcast('event', event, options)
    })
  }

  #sendEvent (properties: Pick<SentEvent, 'kind' | 'channel' | 'client' | 'except' | 'process'>, latest: Latest, send: (data: object, options: SendOptions) => Promise<void>): SentEvent {
    const { events } = this.model
    const n = events.length
    // A client whose session id is not known yet cannot be excluded.
    const { sessionId } = properties.except ?? {}
    const except = sessionId === undefined ? undefined : properties.except
    const options = { ...sessionId === undefined ? {} : { except: { id: sessionId } }, ...latest === undefined ? {} : { latest } }
    const event = this.model.record({ ...properties, except, key: latest === true ? 'event' : latest, n, position: undefined }, send({ n }, options), 'an event')
    events.push(event)
    return event
  }

  #close (node: Node, client: ClientModel): Call {
    const call = this.model.record({ process: node.process.name }, this.#withSession(node.sessions, client, session => session.close(CLOSE_REASON)), 'close')
    client.closes.push(call)
    return call
  }

  async #withSession<T> (sessions: Sessions | undefined, { sessionId = '' }: ClientModel, run: (session: Session) => Promise<T>): Promise<T> {
    const session = await sessions?.find(sessionId)
    // It was closed.
    if (session === undefined) throw Object.assign(new Error('There is no such session'), { code: 'SESSION_MISSING' })
    return await run(session)
  }
}

class Stuck extends Error {}
