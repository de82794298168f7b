import type { Test } from 'tap'
import type { ClientError, ClientSession } from '../../../lib/client/index.js'
import { connect } from '../../../lib/client/node.js'
import { recordEvents } from '../../support/clients.js'
import type { Cluster, HandlerRun, NodeError } from './cluster.js'
import { createRandom, chooseSeed } from '../../support/random.js'
import { waitUntil } from '../../support/wait.js'

/** A client, with what it has received and sent. */
export interface TrafficClient {
  readonly session: ClientSession
  /** The ids of its sessions. It has a second session if the first was lost. */
  readonly sessionIds: string[]
  /** The numbers it has received. */
  readonly received: number[]
  /** The lifecycle events of its session. */
  readonly events: Array<[event: string, data: unknown]>
  /** How many requests it has started. */
  requested: number
  /** How many requests have succeeded. */
  succeeded: number
  /** The requests that failed, with the code of the error. */
  readonly failures: Map<number, string>
}

const CHANNEL = 'room'
/** How many of the last messages of a session may be handled again after their node was killed. */
const MAX_REPEATED = 9

/** Sends numbered events and messages in bursts until it is stopped. Events come from all nodes and go to each session, to the channel of the sessions, or to all sessions. */
export class Traffic {
  readonly clients: TrafficClient[] = []
  /** The numbers of the events that were sent and confirmed, in order. */
  readonly confirmed: number[] = []
  /** The numbers of the events whose sending failed, with the code of the error. Clients may still receive them, at most once. */
  readonly rejected = new Map<number, string>()
  readonly #cluster: Cluster
  readonly #randomBelow: (limit: number) => number
  #loops: Array<Promise<void>> = []
  #running = false
  #sent = 0

  constructor (cluster: Cluster, next: () => number) {
    this.#cluster = cluster
    this.#randomBelow = limit => Math.floor(next() * limit)
  }

  async start (t: Test, count: number): Promise<void> {
    t.teardown(() => { this.#running = false })
    await Promise.all(Array.from({ length: count }, async () => {
      const session = connect(this.#cluster.url)
      t.teardown(() => session.close())
      const client: TrafficClient = { session, sessionIds: [], received: [], events: recordEvents(session), requested: 0, succeeded: 0, failures: new Map() }
      for (const event of ['open', 'reset'] as const) session.on(event, ({ sessionId }) => { client.sessionIds.push(sessionId) })
      session.on('down', n => { client.received.push(n as number) })
      await waitUntil(() => client.sessionIds.length > 0, 'the welcome')
      this.clients.push(client)
    }))
    await this.run()
  }

  /** Sends until `stop`. All sessions join the channel first, because a new session is in no channel. */
  async run (): Promise<void> {
    await Promise.all(this.#currentIds().map(id => this.#cluster.nodes[0].call('join', id, CHANNEL)))
    this.#running = true
    this.#loops = [this.#sendEvents(), ...this.clients.map(client => this.#sendMessages(client))]
  }

  /** Waits until every client has received so many more events, and so many more of its requests have succeeded. */
  async waitForProgress (count = 50, ms = 60_000): Promise<void> {
    const before = this.clients.map(({ received, succeeded }) => ({ received: received.length, succeeded }))
    await waitUntil(() => this.clients.every(({ received, succeeded }, index) => {
      const start = before[index] ?? { received: 0, succeeded: 0 }
      return received.length >= start.received + count && succeeded >= start.succeeded + count
    }), `${count} events and responses for every client`, ms)
  }

  /** Stops sending, and waits for the events and messages that are in flight. */
  async stop (): Promise<void> {
    this.#running = false
    await Promise.all(this.#loops)
    const last = this.confirmed.at(-1) ?? 0
    await waitUntil(() => this.clients.every(({ received }) => received.some(n => n >= last)), 'the last event').catch(() => {})
    await this.#cluster.waitForReports()
  }

  /** Asserts that no event or message was lost, repeated or reordered, and that the names of the `reset`, `gap` and `close` events of each client match `expectedEvents` (default: none). */
  assertDelivery (t: Test, expectedEvents = /^$/): void {
    t.ok(this.confirmed.length > 100, `${this.confirmed.length} events were sent`)
    for (const [index, client] of this.clients.entries()) {
      const { events, received, requested, failures } = client
      t.strictSame(this.findEventProblems(received).slice(0, 5), [], `client ${index} received each event once and in order`)
      t.strictSame(this.findMessageProblems(client).slice(0, 5), [], `each message of client ${index} was handled once and in order`)
      t.strictSame([...failures], [], `all ${requested} requests of client ${index} succeeded`)
      t.match(events.flatMap(([name]) => ['reset', 'gap', 'close'].includes(name) ? name : []).join(' '), expectedEvents, `client ${index} got the expected lifecycle events`)
    }
  }

  /** Describes each error in the sequence of received numbers. */
  findEventProblems (received: readonly number[]): string[] {
    const confirmed = new Set(this.confirmed)
    const seen = new Set<number>()
    const problems: string[] = []
    let last = 0
    for (const n of received) {
      if (seen.has(n)) problems.push(`${n} was received twice`)
      seen.add(n)
      if (!confirmed.has(n)) continue
      if (n < last) problems.push(`${n} was received after ${last}`)
      last = n
    }
    return [...problems, ...this.confirmed.filter(n => !seen.has(n)).map(n => `${n} was lost`)]
  }

  /**
   * Describes each error in the handler runs of a client's messages. If a process was killed, the last messages it handled
   * may run twice, because their responses were not stored yet.
   */
  findMessageProblems ({ sessionIds, requested, failures }: TrafficClient): string[] {
    const runs = this.#cluster.handlerRuns.filter(({ session }) => sessionIds.includes(session)).sort((a, b) => a.startedAt - b.startedAt)
    const problems: string[] = []
    const seen = new Set<unknown>()
    let previous: HandlerRun | undefined
    for (const run of runs) {
      const n = run.data as number
      if (previous !== undefined) {
        const wasKilled = previous.pid !== run.pid && this.#cluster.killedPids.has(previous.pid)
        if (previous.endedAt === undefined ? !wasKilled : previous.endedAt > run.startedAt) problems.push(`${n} started while ${String(previous.data)} ran`)
        if (n <= Number(previous.data) - (wasKilled ? MAX_REPEATED : 0)) problems.push(`${n} ran after ${String(previous.data)}`)
      }
      seen.add(n)
      previous = run
    }
    for (let n = 0; n < requested; n++) if (!seen.has(n) && !failures.has(n)) problems.push(`${n} never ran`)
    return problems
  }

  #currentIds (): string[] {
    return this.clients.map(({ sessionIds }) => sessionIds.at(-1) ?? '')
  }

  async #sendEvents (): Promise<void> {
    while (this.#running) {
      const liveNodes = this.#cluster.nodes.filter(({ isLive }) => isLive)
      const node = liveNodes[this.#randomBelow(liveNodes.length)]
      const kind = this.#randomBelow(3)
      // All events of a burst have one kind and start in order, so their confirmations define the expected order.
      const burst = Array.from({ length: node === undefined ? 0 : 1 + this.#randomBelow(10) }, async () => {
        const n = ++this.#sent
        try {
          if (kind === 0) await node?.call('emitAll', this.#currentIds(), 'down', n)
          else if (kind === 1) await node?.call('publish', CHANNEL, 'down', n)
          else await node?.call('broadcast', 'down', n)
          return n
        } catch (error) {
          this.rejected.set(n, (error as NodeError).code)
          return []
        }
      })
      this.confirmed.push(...(await Promise.all(burst)).flat())
      await pause()
    }
  }

  async #sendMessages (client: TrafficClient): Promise<void> {
    while (this.#running) {
      await Promise.all(Array.from({ length: 1 + this.#randomBelow(5) }, async () => {
        const n = client.requested++
        try {
          const response = await client.session.request('up', n)
          client.succeeded++
          if (response !== n) client.failures.set(n, `response ${String(response)}`)
        } catch (error) {
          client.failures.set(n, (error as ClientError).code)
        }
      }))
      await pause()
    }
  }
}

// Leaves processor time for the nodes and Redis.
const pause = (): Promise<void> => new Promise(resolve => { setTimeout(resolve, 10) })

/** Connects clients to a cluster and starts their traffic. */
export async function startTraffic (t: Test, cluster: Cluster, count = 4): Promise<Traffic> {
  const traffic = new Traffic(cluster, createRandom(chooseSeed(t)))
  await traffic.start(t, count)
  return traffic
}
