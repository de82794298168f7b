import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import type { SseSessionsOptions } from '../../../lib/index.js'
import { balance } from './load-balancer.js'
import { bundleProgram } from '../../support/bundle.js'
import type { Answer, Handled, News, NodeOptions, Operations, Order } from './cluster-node.js'
import { startRedis, type RedisServer } from '../../support/redis.js'
import { signal, until, within } from '../../support/wait.js'

/** Longer than any client of Redis waits before it connects again: whoever is last then is not taken for dead. */
export const LONG_LEASE = 5000

/** A handler's run, with the process that it ran in. */
export interface Run {
  readonly session: string
  readonly data: unknown
  readonly pid: number
  readonly begun: number
  /** `undefined` where its process died first, or while it runs. */
  ended: number | undefined
}

/** What a hook has told, and where. */
export interface Told {
  readonly hook: string
  readonly session: string
  readonly detail: unknown
  readonly node: ClusterNode
}

/** A process with an app of which the sessions live in Redis. */
export class ClusterNode {
  /** Whether the balancer sends requests here. */
  live = false
  readonly #program: string
  readonly #options: NodeOptions
  readonly #cluster: Pick<Cluster, 'runs' | 'told' | 'killed'>
  readonly #orders = new Map<number, (answer: Answer) => void>()
  #process: ChildProcess | undefined
  #port = 0
  #count = 0

  constructor (program: string, options: NodeOptions, cluster: Pick<Cluster, 'runs' | 'told' | 'killed'>) {
    this.#program = program
    this.#options = options
    this.#cluster = cluster
  }

  get port (): number {
    return this.#port
  }

  get url (): string {
    return `http://127.0.0.1:${this.#port}`
  }

  get pid (): number {
    return this.#process?.pid ?? 0
  }

  get library (): NodeOptions['library'] {
    return this.#options.library
  }

  async start (): Promise<void> {
    const child = this.#process = fork(this.#program, [JSON.stringify(this.#options)], { execArgv: [], env: { PATH: process.env.PATH } })
    const ready = signal()
    child.on('message', (message: News | Answer) => {
      if ('order' in message) this.#orders.get(message.order)?.(message)
      else if (message.news === 'ready') {
        this.#port = message.port
        ready.resolve()
      } else if (message.news === 'handled') this.#record(child.pid ?? 0, message.handled)
      else this.#cluster.told.push({ ...message, node: this })
    })
    child.on('exit', () => {
      this.live = false
      for (const [order, answer] of this.#orders) answer({ order, code: 'DIED' })
    })
    const died = once(child, 'exit').then(() => { throw new Error('A node has died') })
    await within(Promise.race([ready.promise, died]), 'a node to start', 30_000)
    died.catch(() => {})
    this.live = true
  }

  /** Has it do something; rejects with the `code` of its error, or DIED. */
  async ask<Name extends keyof Operations> (name: Name, ...args: Parameters<Operations[Name]>): Promise<Awaited<ReturnType<Operations[Name]>>> {
    const order: Order = { order: this.#count++, name, args }
    const answered = signal<Answer>()
    this.#orders.set(order.order, answered.resolve)
    if (this.#process?.connected !== true) throw new NodeError('DIED')
    // Where it dies first, its end is the answer.
    this.#process.send(order, () => {})
    try {
      const answer = await within(answered.promise, `a node's answer to ${name}`, 20_000)
      if ('code' in answer) throw new NodeError(answer.code)
      return answer.value as Awaited<ReturnType<Operations[Name]>>
    } finally {
      this.#orders.delete(order.order)
    }
  }

  /** Ends it at once, as by a crash. */
  async kill (): Promise<void> {
    this.#cluster.killed.add(this.pid)
    await this.#end('SIGKILL')
  }

  /** Has it close, as for a deploy; resolves with its exit code. */
  async close (): Promise<number | null> {
    this.live = false
    return await this.#end('SIGTERM')
  }

  /** Stops it in the middle of whatever it does, until `resume`; the balancer passes it over. */
  pause (): void {
    this.live = false
    this.#process?.kill('SIGSTOP')
  }

  resume (): void {
    this.#process?.kill('SIGCONT')
    this.live = true
  }

  async #end (how: NodeJS.Signals): Promise<number | null> {
    const child = this.#process
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null
    const ended = once(child, 'exit') as Promise<[number | null]>
    child.kill(how)
    return (await within(ended, 'the end of a node'))[0]
  }

  #record (pid: number, { session, data, at, phase }: Handled): void {
    const { runs } = this.#cluster
    if (phase === 'begun') {
      runs.push({ session, data, pid, begun: at, ended: undefined })
      return
    }
    const run = runs.findLast(run => run.session === session && run.pid === pid)
    if (run !== undefined) run.ended = at
  }
}

/** An error of a node's, by its code. */
export class NodeError extends Error {
  readonly code: string

  constructor (code: string) {
    super(`The node answered ${code}`)
    this.code = code
  }
}

export interface ClusterOptions {
  /** Where Redis is; by default one is started. */
  readonly redis?: RedisServer
  /** The port by which the nodes reach it, where there is something between. */
  readonly redisPort?: number
  /** Client libraries of the nodes, in turn. Default: both. */
  readonly libraries?: ReadonlyArray<NodeOptions['library']>
  readonly lease?: number
  readonly plugin?: SseSessionsOptions
}

export interface Cluster {
  /** Of the balancer. */
  readonly url: string
  readonly redis: RedisServer
  readonly nodes: readonly [ClusterNode, ClusterNode, ClusterNode]
  /** Runs of handlers, in the order in which their nodes told of them. */
  readonly runs: Run[]
  /** What hooks told. */
  readonly told: Told[]
  /** Processes that were killed. */
  readonly killed: Set<number>
  /** The node that has a session's stream; waits until one has. */
  holder: (session: string) => Promise<ClusterNode>
}

/** Starts three nodes over one Redis, with a balancer before them; they end with the test. */
export async function startCluster (t: Test, { redis: given, redisPort, libraries = ['ioredis', 'redis'], lease = 2000, plugin = {} }: ClusterOptions = {}): Promise<Cluster> {
  const redis = given ?? await startRedis(t)
  const shared = { runs: [], told: [] as Told[], killed: new Set<number>() }
  const program = await bundleProgram(t, new URL('./cluster-node.ts', import.meta.url))
  const node = (index: number): ClusterNode => new ClusterNode(program, {
    redisPort: redisPort ?? redis.port,
    library: libraries[index % libraries.length] ?? 'ioredis',
    lease,
    // Clients are back soon.
    plugin: { retry: [50, 150], ...plugin }
  }, shared)
  const nodes = [node(0), node(1), node(2)] as const
  for (const node of nodes) t.teardown(() => node.kill())
  await Promise.all(nodes.map(node => node.start()))
  const url = await balance(t, () => nodes.filter(({ live }) => live).map(({ port }) => port))
  const holder = async (session: string): Promise<ClusterNode> => {
    let found: ClusterNode | undefined
    await until(() => {
      found = shared.told.findLast(told => told.session === session && ['onOpen', 'onResume'].includes(told.hook))?.node
      return found?.live === true
    }, 'a node to hold the stream')
    return found as ClusterNode
  }
  return { url, redis, nodes, ...shared, holder }
}
