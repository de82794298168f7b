import type { Test } from 'tap'
import type { ClientError, ClientSession } from '../../../lib/client/index.js'
import { connect } from '../../../lib/client/node.js'
import { record } from '../../support/clients.js'
import type { Cluster, NodeError, Run } from './cluster.js'
import { random, seedOf } from '../../support/random.js'
import { until } from '../../support/wait.js'

/** One client of the traffic, and what became of its messages. */
export interface Party {
  readonly session: ClientSession
  /** Ids of its sessions; a second one where the first was lost. */
  readonly ids: string[]
  /** Numbers that came down. */
  readonly heard: number[]
  /** The session's own events. */
  readonly events: Array<[event: string, data: unknown]>
  /** How many messages it has begun to send up. */
  asked: number
  answered: number
  /** Those that were not answered, with the code of the error. */
  readonly failed: Map<number, string>
}

const CHANNEL = 'room'
/** Messages of a session that may be handled again where a node is killed. */
const IN_DOUBT = 9

/** Numbered messages both ways, in bursts, for as long as the test likes: down from all nodes, to each session, to their channel and to all. */
export class Traffic {
  readonly parties: Party[] = []
  /** What was sent down, in this order, and confirmed. */
  readonly confirmed: number[] = []
  /** What was sent down but not confirmed, with the code of the error: it may come, once. */
  readonly refused = new Map<number, string>()
  readonly #cluster: Cluster
  readonly #below: (limit: number) => number
  #loops: Array<Promise<void>> = []
  #running = false
  #sent = 0

  constructor (cluster: Cluster, next: () => number) {
    this.#cluster = cluster
    this.#below = limit => Math.floor(next() * limit)
  }

  async start (t: Test, count: number): Promise<void> {
    t.teardown(() => { this.#running = false })
    await Promise.all(Array.from({ length: count }, async () => {
      const session = connect(this.#cluster.url)
      t.teardown(() => session.close())
      const party: Party = { session, ids: [], heard: [], events: record(session), asked: 0, answered: 0, failed: new Map() }
      for (const event of ['open', 'reset'] as const) session.on(event, ({ sessionId }) => { party.ids.push(sessionId) })
      session.on('down', n => { party.heard.push(n as number) })
      await until(() => party.ids.length > 0, 'the welcome')
      this.parties.push(party)
    }))
    await this.run()
  }

  /** Sends, until `stop`. Sessions that have begun anew are in no channel: they enter it first. */
  async run (): Promise<void> {
    await Promise.all(this.#ids().map(id => this.#cluster.nodes[0].ask('join', id, CHANNEL)))
    this.#running = true
    this.#loops = [this.#sendDown(), ...this.parties.map(party => this.#sendUp(party))]
  }

  /** Resolves when every client has had so many more messages confirmed both ways. */
  async proceeds (count = 50, ms = 20_000): Promise<void> {
    const before = this.parties.map(({ heard, answered }) => ({ heard: heard.length, answered }))
    await until(() => this.parties.every(({ heard, answered }, i) => {
      const then = before[i] ?? { heard: 0, answered: 0 }
      return heard.length >= then.heard + count && answered >= then.answered + count
    }), `${count} messages each way for every client`, ms)
  }

  /** Sends no more, and waits for what is under way. */
  async stop (): Promise<void> {
    this.#running = false
    await Promise.all(this.#loops)
    const last = this.confirmed.at(-1) ?? 0
    await until(() => this.parties.every(({ heard }) => heard.some(n => n >= last)), 'the last message').catch(() => {})
  }

  /** Asserts that nothing was lost, came twice or out of order, and what clients were told of gaps and of the ends of their sessions: nothing, by default. */
  check (t: Test, told = /^$/): void {
    t.ok(this.confirmed.length > 100, `${this.confirmed.length} messages went down`)
    for (const [index, party] of this.parties.entries()) {
      const { events, heard, asked, failed } = party
      t.strictSame(this.downProblems(heard).slice(0, 5), [], `client ${index} got all that was sent down, once and in order`)
      t.strictSame(this.upProblems(party).slice(0, 5), [], `what client ${index} sent up was handled once and in order`)
      t.strictSame([...failed], [], `all ${asked} messages of client ${index} were answered`)
      t.match(events.flatMap(([name]) => ['reset', 'gap', 'close'].includes(name) ? name : []).join(' '), told, `what client ${index} was told is true`)
    }
  }

  /** What is wrong with numbers that came down. */
  downProblems (heard: readonly number[]): string[] {
    const confirmed = new Set(this.confirmed)
    const seen = new Set<number>()
    const problems: string[] = []
    let last = 0
    for (const n of heard) {
      if (seen.has(n)) problems.push(`${n} came twice`)
      seen.add(n)
      if (!confirmed.has(n)) continue
      if (n < last) problems.push(`${n} came after ${last}`)
      last = n
    }
    return [...problems, ...this.confirmed.filter(n => !seen.has(n)).map(n => `${n} was lost`)]
  }

  /**
   * What is wrong with the runs of a client's messages. Some may run twice: the last of the session in a process that was
   * killed, of which nobody has kept that they were handled.
   */
  upProblems ({ ids, asked, failed }: Party): string[] {
    const runs = this.#cluster.runs.filter(({ session }) => ids.includes(session)).sort((a, b) => a.begun - b.begun)
    const problems: string[] = []
    const seen = new Set<unknown>()
    let before: Run | undefined
    for (const run of runs) {
      const n = run.data as number
      if (before !== undefined) {
        const died = before.pid !== run.pid && this.#cluster.killed.has(before.pid)
        if (before.ended === undefined ? !died : before.ended > run.begun) problems.push(`${n} began while ${String(before.data)} ran`)
        if (n <= Number(before.data) - (died ? IN_DOUBT : 0)) problems.push(`${n} ran after ${String(before.data)}`)
      }
      seen.add(n)
      before = run
    }
    for (let n = 0; n < asked; n++) if (!seen.has(n) && !failed.has(n)) problems.push(`${n} never ran`)
    return problems
  }

  #ids (): string[] {
    return this.parties.map(({ ids }) => ids.at(-1) ?? '')
  }

  async #sendDown (): Promise<void> {
    while (this.#running) {
      const live = this.#cluster.nodes.filter(({ live }) => live)
      const node = live[this.#below(live.length)]
      const kind = this.#below(3)
      // A burst is of one kind, each begun before the next: between them the order is that of their confirmation.
      const burst = Array.from({ length: node === undefined ? 0 : 1 + this.#below(10) }, async () => {
        const n = ++this.#sent
        try {
          if (kind === 0) await node?.ask('emitAll', this.#ids(), 'down', n)
          else if (kind === 1) await node?.ask('publish', CHANNEL, 'down', n)
          else await node?.ask('broadcast', 'down', n)
          return n
        } catch (error) {
          this.refused.set(n, (error as NodeError).code)
          return []
        }
      })
      this.confirmed.push(...(await Promise.all(burst)).flat())
      await breath()
    }
  }

  async #sendUp (party: Party): Promise<void> {
    while (this.#running) {
      await Promise.all(Array.from({ length: 1 + this.#below(5) }, async () => {
        const n = party.asked++
        try {
          const answer = await party.session.request('up', n)
          party.answered++
          if (answer !== n) party.failed.set(n, `answered ${String(answer)}`)
        } catch (error) {
          party.failed.set(n, (error as ClientError).code)
        }
      }))
      await breath()
    }
  }
}

// So that the machine has time for other than the traffic.
const breath = (): Promise<void> => new Promise(resolve => { setTimeout(resolve, 10) })

/** Starts clients of a cluster and their traffic. */
export async function startTraffic (t: Test, cluster: Cluster, clients = 4): Promise<Traffic> {
  const traffic = new Traffic(cluster, random(seedOf(t)))
  await traffic.start(t, clients)
  return traffic
}
