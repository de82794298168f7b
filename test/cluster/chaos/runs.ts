import { createParser } from 'eventsource-parser'
import type { ClientError, ClientSession } from '../../../lib/client/index.js'
import type { Model } from '../simulation/model.js'
import type { Cluster, ClusterNode } from '../support/cluster.js'

/** Milliseconds without data after which a reader connects again. Heartbeats arrive every second. */
const IDLE_TIMEOUT = 4000
/** Processes may fail this often while they produce a restartable run. */
const MAX_FAILURES = 3

interface RunModel {
  readonly name: string
  readonly isRestartable: boolean
  readonly last: number
  /** The process in which it was started. */
  readonly pid: string
  readonly startedAt: number
  endedAt: number
  wasStopRequested: boolean
  /** The outcomes that its readers have received. */
  readonly outcomes: Set<string>
}

/** A handler whose values a client has requested. */
interface Subscription {
  readonly name: string
  readonly startedAt: number
  endedAt: number
  result: string
}

const pause = (ms: number): Promise<void> => new Promise(resolve => { setTimeout(resolve, ms) })

/** Starts runs and streaming handlers, follows and stops them, and checks what their readers receive. */
export class RunTraffic {
  readonly runs: RunModel[] = []
  readonly subscriptions: Subscription[] = []
  readonly #cluster: Cluster
  readonly #model: Model
  readonly #random: () => number
  readonly #mayHaveHadNoNode: (from: number, to: number) => boolean
  /** The readers and subscriptions that have not ended. */
  readonly #pending = new Set<Promise<void>>()

  /** `mayHaveHadNoNode`: whether there may have been a time, between two observations, at which no node could restart a run. */
  constructor (cluster: Cluster, model: Model, random: () => number, mayHaveHadNoNode: (from: number, to: number) => boolean) {
    this.#cluster = cluster
    this.#model = model
    this.#random = random
    this.#mayHaveHadNoNode = mayHaveHadNoNode
  }

  get isIdle (): boolean {
    return this.#pending.size === 0
  }

  /** Starts a run with some readers, or a subscription, on a node. */
  async start (node: ClusterNode | undefined, session: ClientSession): Promise<void> {
    if (this.#pending.size > 40) return
    if (this.#random() < 0.4) this.#add(this.#subscribe(session))
    else if (node !== undefined) await this.#startRun(node)
  }

  /** Adds a violation for each run or subscription that has not ended, or whose end is not allowed. */
  check (): void {
    const failedDuring = (from: number, to: number): number => this.#producerPids().filter(pid => this.#model.hasFailed(pid, from, to)).length
    for (const { name, isRestartable, pid, startedAt, endedAt, wasStopRequested, outcomes } of this.runs) {
      if (outcomes.size !== 1) this.#model.fail('run-outcome', `the readers of ${name} received the outcomes ${[...outcomes].join()}`)
      for (const outcome of outcomes) {
        const { status, reason } = JSON.parse(outcome) as { status: string, reason?: string }
        const canBeLost = isRestartable ? failedDuring(startedAt, endedAt) > MAX_FAILURES || this.#mayHaveHadNoNode(startedAt, endedAt) : this.#model.hasFailed(pid, startedAt, endedAt) || reason === 'shutdown'
        if (status === 'failed' || (status === 'stopped' && !wasStopRequested) || (status === 'lost' && !canBeLost)) this.#model.fail('run-outcome', `${name} of process ${pid}, restartable: ${isRestartable}, from ${startedAt} to ${endedAt} ended as ${outcome}`)
      }
    }
    for (const { name, startedAt, endedAt, result } of this.subscriptions) {
      const started = this.#pidsOf('producerStart', name)
      const canBeLost = started.some(pid => this.#exitedPids().has(pid) || this.#model.hasFailed(pid, startedAt, endedAt)) || failedDuring(startedAt, endedAt) > 0
      if (!(result === 'complete' || result === 'left' || (result === 'HANDLER_LOST' && canBeLost))) this.#model.fail('subscription', `${name} ended as ${result}`)
    }
  }

  /** Lists the producers and handlers that still run in a live process. */
  listRunning (): string[] {
    const live = new Set(this.#cluster.nodes.filter(({ isLive }) => isLive).map(({ pid }) => pid))
    const counts = new Map<string, number>()
    for (const { hook, detail } of this.#cluster.hookCalls) {
      if (hook !== 'producerStart' && hook !== 'producerEnd') continue
      const { name, pid } = detail as { name: string, pid: number }
      if (live.has(pid)) counts.set(`${name} in ${pid}`, (counts.get(`${name} in ${pid}`) ?? 0) + (hook === 'producerStart' ? 1 : -1))
    }
    return [...counts].filter(([, count]) => count !== 0).map(([text]) => text)
  }

  /** The processes in which any producer was started. */
  #producerPids (): string[] {
    return [...new Set(this.#cluster.hookCalls.filter(({ hook }) => hook === 'producerStart').map(({ detail }) => String((detail as { pid: number }).pid)))]
  }

  /** The processes that have reported a hook of the producer or handler with a name. */
  #pidsOf (hook: string, name: string): string[] {
    return this.#cluster.hookCalls.filter(call => call.hook === hook && (call.detail as { name: string }).name === name).map(({ detail }) => String((detail as { pid: number }).pid))
  }

  /** The processes of `#producerPids` that have exited. */
  #exitedPids (): Set<string> {
    const live = new Set(this.#cluster.nodes.map(({ pid }) => String(pid)))
    return new Set(this.#producerPids().filter(pid => !live.has(pid)))
  }

  #add (work: Promise<void>): void {
    const added = work.catch((error: unknown) => { this.#model.fail('run-traffic', String(error)) }).finally(() => { this.#pending.delete(added) })
    this.#pending.add(added)
  }

  async #startRun (node: ClusterNode): Promise<void> {
    const isRestartable = this.#random() < 0.5
    const run: RunModel = { name: `run ${this.runs.length} ${String(this.#random()).slice(2)}`, isRestartable, last: Math.floor(this.#random() * 300), pid: String(node.pid), startedAt: this.#model.observe(), endedAt: Infinity, wasStopRequested: false, outcomes: new Set() }
    try {
      await node.call('startRun', run.name, isRestartable, run.last)
    } catch {
      // It may have been started all the same. Then it has no readers.
      return
    }
    this.runs.push(run)
    for (let reader = 0; reader < 1 + this.#random() * 2; reader++) this.#add(this.#read(run))
    if (this.#random() < 0.3) this.#add(this.#stop(run))
  }

  async #stop (run: RunModel): Promise<void> {
    await pause(this.#random() * 3000)
    run.wasStopRequested = true
    const nodes = this.#cluster.nodes.filter(({ isLive }) => isLive)
    await nodes[Math.floor(this.#random() * nodes.length)]?.call('stopRun', run.name).catch(() => {})
  }

  /** Reads a run to its end, over all faults. */
  async #read (run: RunModel): Promise<void> {
    const received: unknown[] = []
    let lastEventId = ''
    let outcome: string | undefined
    const parser = createParser({
      onEvent: ({ event, data, id }) => {
        if (outcome !== undefined) this.#model.fail('run-response', `a reader of ${run.name} received ${data} after the end`)
        lastEventId = id ?? ''
        if (event === 'end') outcome = data
        else if (event === undefined) received.push(JSON.parse(data))
        else this.#model.fail('run-response', `a reader of ${run.name} received ${event} ${data}`)
      }
    })
    for (;;) {
      const controller = new AbortController()
      let timer: NodeJS.Timeout | undefined
      const restartTimer = (): void => {
        clearTimeout(timer)
        timer = setTimeout(() => { controller.abort() }, IDLE_TIMEOUT)
      }
      try {
        restartTimer()
        const response = await fetch(`${this.#cluster.url}/runs/${encodeURIComponent(run.name)}`, { headers: lastEventId === '' ? {} : { 'last-event-id': lastEventId }, signal: controller.signal })
        if (response.status === 404 || response.status === 204) {
          this.#model.fail('run-response', `a reader of ${run.name} got ${response.status} after ${received.length} events: ${await response.text()}`)
          return
        }
        const decoder = new TextDecoder()
        if (response.ok) {
          for await (const chunk of response.body ?? []) {
            restartTimer()
            parser.feed(decoder.decode(chunk, { stream: true }))
          }
          if (outcome === undefined) this.#model.fail('run-response', `a response of ${run.name} ended without an outcome`)
        }
      } catch {
        // The response was aborted.
      }
      clearTimeout(timer)
      parser.reset()
      if (outcome !== undefined) break
      await pause(this.#random() * 200)
    }
    run.endedAt = this.#model.observe()
    run.outcomes.add(outcome)
    this.#checkOrder(run.name, received, outcome.includes('finished') ? run.last : undefined)
  }

  /** Requests the values of a handler, and reads all or some of them. */
  async #subscribe (session: ClientSession): Promise<void> {
    const last = Math.floor(this.#random() * 200)
    const leaveAfter = this.#random() < 0.4 ? Math.floor(this.#random() * last) : Infinity
    const subscription: Subscription = { name: `values ${this.subscriptions.length} ${String(this.#random()).slice(2)}`, startedAt: this.#model.observe(), endedAt: Infinity, result: 'complete' }
    this.subscriptions.push(subscription)
    const received: unknown[] = []
    try {
      for await (const value of session.subscribe('values', { last, name: subscription.name })) {
        received.push(value)
        if (received.length <= leaveAfter) continue
        subscription.result = 'left'
        break
      }
    } catch (error) {
      subscription.result = (error as ClientError).code
    }
    subscription.endedAt = this.#model.observe()
    this.#checkOrder(subscription.name, received, subscription.result === 'complete' ? last : undefined)
  }

  #checkOrder (name: string, received: readonly unknown[], count = received.length): void {
    const wrong = received.findIndex((value, index) => value !== index)
    if (wrong !== -1 || received.length !== count) this.#model.fail('run-order', `a reader of ${name} received ${received.length} of ${count} events, and ${String(received[wrong])} at ${wrong}`)
  }
}
