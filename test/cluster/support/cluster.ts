import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import type { SseSessionsOptions } from '../../../lib/index.js'
import { startLoadBalancer } from './load-balancer.js'
import { bundleForNode } from '../../support/bundle.js'
import type { Command, CommandResult, Commands, HandlerEvent, NodeEvent, NodeOptions } from './cluster-node.js'
import { startRedis, type RedisServer } from '../../support/redis-server.js'
import { deferred, waitUntil, withTimeout } from '../../support/wait.js'

/** Longer than the reconnect delay of both Redis clients, so that the other nodes do not expire a node that reconnects last. */
export const LONG_LEASE = 5000

/** One run of a handler, with the process it ran in. */
export interface HandlerRun {
  readonly session: string
  readonly data: unknown
  readonly pid: number
  readonly startedAt: number
  /** `undefined` while it runs, or if its process died. */
  endedAt: number | undefined
}

/** One call of a hook, with its node. */
export interface HookCall {
  readonly hook: string
  readonly session: string
  readonly detail: unknown
  readonly node: ClusterNode
}

/** A process with an app that keeps its sessions in Redis. */
export class ClusterNode {
  /** Whether the load balancer sends requests to this node. */
  isLive = false
  readonly #program: string
  readonly #options: NodeOptions
  readonly #cluster: Pick<Cluster, 'handlerRuns' | 'hookCalls' | 'killedPids'>
  readonly #pending = new Map<number, (result: CommandResult) => void>()
  #process: ChildProcess | undefined
  #port = 0
  #lastId = 0

  constructor (program: string, options: NodeOptions, cluster: Pick<Cluster, 'handlerRuns' | 'hookCalls' | 'killedPids'>) {
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
    const ready = deferred()
    child.on('message', (message: NodeEvent | CommandResult) => {
      if (message.type === 'result') this.#pending.get(message.id)?.(message)
      else if (message.type === 'ready') {
        this.#port = message.port
        ready.resolve()
      } else if (message.type === 'handler') this.#record(child.pid ?? 0, message.event)
      else this.#cluster.hookCalls.push({ ...message, node: this })
    })
    child.on('exit', () => {
      this.isLive = false
      for (const [id, resolve] of this.#pending) resolve({ type: 'result', id, code: 'DIED' })
    })
    const died = once(child, 'exit').then(() => { throw new Error('A node has exited') })
    await withTimeout(Promise.race([ready.promise, died]), 'a node to start', 120_000)
    died.catch(() => {})
    this.isLive = true
  }

  /** Executes a command in the node. Rejects with the `code` of the error, or with `DIED` if the node exits first. */
  async call<Name extends keyof Commands> (name: Name, ...args: Parameters<Commands[Name]>): Promise<Awaited<ReturnType<Commands[Name]>>> {
    const command: Command = { id: ++this.#lastId, name, args }
    const done = deferred<CommandResult>()
    this.#pending.set(command.id, done.resolve)
    if (this.#process?.connected !== true) throw new NodeError('DIED')
    // Send errors are ignored: if the node exits, the exit listener settles the command.
    this.#process.send(command, () => {})
    try {
      const result = await withTimeout(done.promise, `the result of ${name}`)
      if ('code' in result) throw new NodeError(result.code)
      return result.value as Awaited<ReturnType<Commands[Name]>>
    } finally {
      this.#pending.delete(command.id)
    }
  }

  /** Kills the process, as in a crash. */
  async kill (): Promise<void> {
    this.#cluster.killedPids.add(this.pid)
    await this.#end('SIGKILL')
  }

  /** Closes the node gracefully, as in a deployment. Resolves with its exit code. */
  async close (): Promise<number | null> {
    this.isLive = false
    return await this.#end('SIGTERM')
  }

  /** Stops the process until `resume`. The load balancer skips it meanwhile. */
  pause (): void {
    this.isLive = false
    this.#process?.kill('SIGSTOP')
  }

  resume (): void {
    this.#process?.kill('SIGCONT')
    this.isLive = true
  }

  async #end (signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#process
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null
    const exited = once(child, 'exit') as Promise<[number | null]>
    child.kill(signal)
    return (await withTimeout(exited, `the exit of process ${child.pid}`))[0]
  }

  #record (pid: number, { session, data, at, phase }: HandlerEvent): void {
    const { handlerRuns } = this.#cluster
    if (phase === 'start') {
      handlerRuns.push({ session, data, pid, startedAt: at, endedAt: undefined })
      return
    }
    const run = handlerRuns.findLast(run => run.session === session && run.pid === pid)
    if (run !== undefined) run.endedAt = at
  }
}

/** An error that a node returned, with its code. */
export class NodeError extends Error {
  readonly code: string

  constructor (code: string) {
    super(`The node returned the error ${code}`)
    this.code = code
  }
}

export interface ClusterOptions {
  /** The Redis server. Default: a new one. */
  readonly redis?: RedisServer
  /** The port that the nodes connect to, such as that of a proxy. Default: the port of `redis`. */
  readonly redisPort?: number
  /** The port that each node connects to. Default: `redisPort` for all. */
  readonly redisPorts?: readonly number[]
  /** The client libraries of the nodes, assigned in rotation. Default: both. */
  readonly libraries?: ReadonlyArray<NodeOptions['library']>
  readonly lease?: number
  readonly plugin?: SseSessionsOptions
}

export interface Cluster {
  /** The URL of the load balancer. */
  readonly url: string
  readonly redis: RedisServer
  readonly nodes: readonly [ClusterNode, ClusterNode, ClusterNode]
  /** Handler runs, in the order in which the nodes reported them. */
  readonly handlerRuns: HandlerRun[]
  /** Hook calls on all nodes, in the order in which the nodes reported them. */
  readonly hookCalls: HookCall[]
  /** The ids of the processes that were killed. */
  readonly killedPids: Set<number>
  /** Resolves when `handlerRuns` contains every handler run whose response has arrived: reports and responses travel on different channels. */
  waitForReports: () => Promise<void>
  /** Waits until a live node serves the stream of a session, and resolves with that node. */
  nodeWithStream: (session: string) => Promise<ClusterNode>
}

/** Starts three nodes with one Redis, behind a load balancer. They stop when the test ends. */
export async function startCluster (t: Test, { redis: givenRedis, redisPort, redisPorts, libraries = ['ioredis', 'redis'], lease = 2000, plugin = {} }: ClusterOptions = {}): Promise<Cluster> {
  const redis = givenRedis ?? await startRedis(t)
  const shared = { handlerRuns: [], hookCalls: [] as HookCall[], killedPids: new Set<number>() }
  const program = await bundleForNode(t, new URL('./cluster-node.ts', import.meta.url))
  const createNode = (index: number): ClusterNode => new ClusterNode(program, {
    redisPort: redisPorts?.[index] ?? redisPort ?? redis.port,
    library: libraries[index % libraries.length] ?? 'ioredis',
    lease,
    // Short delays, so that clients reconnect fast.
    plugin: { retry: [50, 150], ...plugin }
  }, shared)
  const nodes = [createNode(0), createNode(1), createNode(2)] as const
  for (const node of nodes) t.teardown(() => node.kill())
  await Promise.all(nodes.map(node => node.start()))
  const url = await startLoadBalancer(t, () => nodes.filter(({ isLive }) => isLive).map(({ port }) => port))
  const nodeWithStream = async (session: string): Promise<ClusterNode> => {
    let found: ClusterNode | undefined
    await waitUntil(() => {
      found = shared.hookCalls.findLast(call => call.session === session && ['onOpen', 'onResume'].includes(call.hook))?.node
      return found?.isLive === true
    }, 'a live node to serve the stream')
    return found as ClusterNode
  }
  const waitForReports = async (): Promise<void> => {
    // The result of a command follows all earlier reports of its node.
    await Promise.all(nodes.filter(({ isLive }) => isLive).map(node => node.call('stats')))
  }
  return { url, redis, nodes, ...shared, nodeWithStream, waitForReports }
}
