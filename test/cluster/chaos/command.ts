// Runs a cluster of real processes with mixed faults, and checks the same guarantees as the simulation:
// npm run chaos -- --minutes 30 --seed 1
import { parseArgs } from 'node:util'
import type { Test } from 'tap'
import type { ClientSession } from '../../../lib/client/index.js'
import { connect } from '../../../lib/client/node.js'
import { createRandom } from '../../support/random.js'
import { startRedis } from '../../support/redis-server.js'
import { waitUntil } from '../../support/wait.js'
import { Model, type ClientModel, type MessageModel, type SentEvent } from '../simulation/model.js'
import { startCluster, type ClusterNode, type NodeError } from '../support/cluster.js'
import { RedisLink, type ConnectionKind } from './redis-link.js'
import { RunTraffic } from './runs.js'

const { values } = parseArgs({
  options: {
    /** How long faults are injected. */
    minutes: { type: 'string', default: '2' },
    seed: { type: 'string', default: '1' },
    /** The number of runs. Each has the next seed. */
    runs: { type: 'string', default: '1' },
    clients: { type: 'string', default: '50' }
  }
})

const LEASE = 2000
const CHANNELS = ['a', 'b', 'c']
/** Milliseconds after the last fault, and after all runs have ended, in which every client must have received everything. Also the time in which a node must have restarted. */
const DELIVERY_TIMEOUT = 15_000
/** Milliseconds in which every run and every streaming handler must have ended. */
const RUN_TIMEOUT = 60_000

/** What `startCluster` and others use of a test. */
class Teardowns {
  readonly #functions: Array<() => unknown> = []

  get asTest (): Test {
    return { teardown: (run: () => unknown) => { this.#functions.push(run) } } as unknown as Test
  }

  async run (): Promise<void> {
    for (const run of this.#functions.reverse()) await run()
  }
}

interface Client {
  readonly model: ClientModel
  readonly session: ClientSession
}

const pause = (ms: number): Promise<void> => new Promise(resolve => { setTimeout(resolve, ms) })
const now = (): number => Number(process.hrtime.bigint())

/** Returns a description of the first violations, and when faults were injected. */
async function run (seed: number, minutes: number, clientCount: number): Promise<string[]> {
  const teardowns = new Teardowns()
  const t = teardowns.asTest
  const random = createRandom(seed)
  const below = (limit: number): number => Math.floor(random() * limit)
  const choose = <T>(items: readonly T[]): T => items[below(items.length)] as T
  const model = new Model(Infinity, now)
  const faults: Record<string, number> = {}
  /** When each fault started, for the violations. */
  const timeline: string[] = []
  let runCounts = ''
  try {
    const redis = await startRedis(t, { durable: true })
    const links = [new RedisLink(), new RedisLink(), new RedisLink()]
    for (const link of links) await link.start(t, redis.port)
    const cluster = await startCluster(t, {
      redis,
      redisPorts: links.map(({ port }) => port),
      lease: LEASE,
      // After `closeTimeout`, a closing node counts as crashed: others repeat its handlers. On a busy machine, 500 ms are too short.
      plugin: { closeTimeout: 3000, heartbeatInterval: 1000, log: { entries: 100_000, bytes: 2 ** 26 }, channelLog: { entries: 100_000, bytes: 2 ** 26 } }
    })
    const { nodes } = cluster
    /** Nodes that have no process at the moment, because of a fault. */
    const stopped = new Set<ClusterNode>()
    const chooseNode = (): ClusterNode | undefined => choose(nodes.filter(({ isLive }) => isLive))

    // Clients.
    let isEnding = false
    const clients: Client[] = []
    for (let index = 0; index < clientCount; index++) {
      const session = connect(cluster.url)
      const client = model.addClient(index)
      model.onOpening(client)
      session.on('open', ({ sessionId }) => { model.onWelcome(client, sessionId, false) })
      session.on('reset', ({ sessionId }) => { model.onWelcome(client, sessionId, true) })
      session.on('gap', gap => { model.onEvent(client, 'gap', { ...gap }, undefined) })
      session.on('close', ({ reason }) => { if (!isEnding) model.fail('closed', `client ${index} was closed: ${reason}`) })
      session.on('down', data => { model.onEvent(client, 'down', data as Record<string, unknown>, undefined) })
      clients.push({ model: client, session })
      t.teardown(() => session.close())
    }
    await waitUntil(() => clients.every(({ model: { sessionId } }) => sessionId !== undefined), 'the clients to connect', 30_000)

    // Traffic.
    const stop = new AbortController()
    /** Never settles without a result or an error of the package, because the call may still be executed. */
    const call = (promise: Promise<unknown> | undefined): Promise<unknown> => new Promise((resolve, reject) => {
      promise?.then(resolve, (error: NodeError) => {
        if (error.code === 'UNKNOWN') model.fail('session-lost', 'a node does not know a session')
        if (typeof error.code === 'string' && error.code.startsWith('FST_')) reject(error)
      })
    })
    const send = (properties: Pick<SentEvent, 'kind' | 'channel' | 'client' | 'except'>): SentEvent | undefined => {
      const node = chooseNode()
      if (node === undefined) return undefined
      const { kind, channel, client, except } = properties
      const data = { n: model.events.length }
      const promise = kind === 'session' ? node.call('emit', client?.sessionId ?? '', 'down', data) : kind === 'channel' ? node.call('publish', channel, 'down', data, except?.sessionId) : node.call('broadcast', 'down', data)
      const event = model.record({ ...properties, key: undefined, n: data.n, process: { isAlive: true }, position: undefined }, call(promise), 'an event')
      model.events.push(event)
      return event
    }
    const changeMembership = ({ memberships, sessionId = '' }: ClientModel, kind: 'join' | 'leave'): void => {
      const channel = choose(CHANNELS)
      const node = chooseNode()
      memberships.push(model.record({ kind, channel, process: String(node?.pid) }, call(node?.call(kind, sessionId, channel)), kind))
    }
    const request = async ({ session, model: client }: Client): Promise<void> => {
      const message = model.addMessage(client, true, model.messages.length, 0)
      model.onAttempt(message)
      try {
        message.responses.push(String(await session.request('run', message.n)))
        message.respondedAt = model.observe()
      } catch (error) {
        model.fail('request', `message ${message.n} of client ${client.index} failed: ${String(error)}`)
      }
      message.resolvedAt = model.observe()
    }
    /** When a node was down, or can have been treated as dead. */
    const outages: Array<{ readonly node: ClusterNode, readonly from: number, readonly to: number }> = []
    /** Whether there may have been a time, between two observations, at which no node could be used. */
    const mayHaveHadNoNode = (from: number, to: number): boolean => [from, ...outages.map(outage => outage.from)].some(at =>
      at >= from && at <= to && nodes.every(node => outages.some(outage => outage.node === node && outage.from <= at && at <= outage.to)))
    const runTraffic = new RunTraffic(cluster, model, random, mayHaveHadNoNode)
    const traffic = async (): Promise<void> => {
      while (!stop.signal.aborted) {
        const client = choose(clients)
        const kind = random()
        if (kind < 0.25) send({ kind: 'session', channel: '', client: client.model, except: undefined })
        else if (kind < 0.55) send({ kind: 'channel', channel: choose(CHANNELS), client: undefined, except: random() < 0.2 ? client.model : undefined })
        else if (kind < 0.6) send({ kind: 'broadcast', channel: '', client: undefined, except: undefined })
        else if (kind < 0.7) changeMembership(client.model, random() < 0.6 ? 'join' : 'leave')
        else if (kind < 0.75) runTraffic.start(chooseNode(), client.session)
        else request(client)
        await pause(random() * 20)
      }
    }

    // Faults.
    /** From now on, the others may treat these nodes as dead. The returned function records the outage when the fault is over. */
    const startOutage = (...affected: readonly ClusterNode[]): () => void => {
      const from = model.observe()
      const listPids = (): number[] => affected.map(({ pid }) => pid)
      const pids = listPids()
      return () => {
        // A node may have been restarted meanwhile.
        const to = model.observe() + 2 * LEASE * 1e6
        for (const pid of new Set([...pids, ...listPids()])) model.onFailure(String(pid), from, to)
        for (const node of affected) outages.push({ node, from, to })
      }
    }
    const restart = async (node: ClusterNode, from: number): Promise<void> => {
      await pause(random() * 1000)
      // A node does not start while Redis cannot be used, so a supervisor starts it again.
      const giveUpAt = performance.now() + DELIVERY_TIMEOUT
      while (!node.isLive) await node.start().catch((error: unknown) => { if (performance.now() > giveUpAt) throw error })
      stopped.delete(node)
      outages.push({ node, from, to: model.observe() + LEASE * 1e6 })
    }
    const inject: Record<string, (node: ClusterNode, link: RedisLink) => Promise<void>> = {
      kill: async node => {
        stopped.add(node)
        const from = model.observe()
        model.onFailure(String(node.pid), from, Infinity)
        await node.kill()
        await restart(node, from)
      },
      shutdown: async node => {
        stopped.add(node)
        const from = model.observe()
        const code = await node.close()
        if (code !== 0) model.fail('exit', `a node exited with ${code} after SIGTERM`)
        await restart(node, from)
      },
      pause: async node => {
        const endOutage = startOutage(node)
        node.pause()
        await pause(200 + random() * 2.5 * LEASE)
        node.resume()
        endOutage()
      },
      cut: async (_, link) => { link.cut(choose<ConnectionKind>(['commands', 'subscription', 'all'])) },
      'half-open': async (node, link) => {
        const endOutage = startOutage(node)
        link.halfOpen(choose<ConnectionKind>(['commands', 'subscription', 'all']))
        await pause(3 * LEASE)
        endOutage()
      },
      delay: async (node, link) => {
        const endOutage = startOutage(node)
        link.delay = random() * 1000
        await pause(random() * 3000)
        link.delay = 0
        endOutage()
      },
      unreachable: async (node, link) => {
        const endOutage = startOutage(node)
        link.isRefusing = true
        link.cut('all')
        await pause(random() * 2 * LEASE)
        link.isRefusing = false
        endOutage()
      },
      'restart-redis': async () => {
        const endOutage = startOutage(...nodes)
        await redis.kill()
        await pause(random() * 2000)
        await redis.start()
        endOutage()
      },
      'pause-redis': async () => {
        const endOutage = startOutage(...nodes)
        redis.pause()
        await pause(random() * 2 * LEASE)
        redis.resume()
        endOutage()
      },
      'kill-subscriptions': async () => { await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub') },
      'rolling-restart': async () => {
        for (const node of nodes) if (node.isLive) await inject.shutdown?.(node, links[0] as RedisLink)
      }
    }
    const injectFaults = async (): Promise<void> => {
      const end = performance.now() + minutes * 60_000
      const busy = new Set<string>()
      const pending = new Set<Promise<void>>()
      while (performance.now() < end) {
        await pause(200 + random() * 2500)
        const name = choose(Object.keys(inject))
        const index = below(nodes.length)
        const node = nodes[index] as ClusterNode
        // One fault of each node and one of all nodes at a time.
        const scope = name.includes('redis') || ['rolling-restart', 'kill-subscriptions'].includes(name) ? 'all' : String(index)
        if (busy.has(scope) || (name === 'rolling-restart' && busy.size > 0) || !node.isLive) continue
        busy.add(scope)
        faults[name] = (faults[name] ?? 0) + 1
        timeline.push(`${now()} ${name}, process ${node.pid}`)
        const fault = Promise.resolve(inject[name]?.(node, links[index] as RedisLink)).catch((error: unknown) => {
          model.fail('fault', `${name}: ${String(error)}`)
        }).finally(() => {
          busy.delete(scope)
          pending.delete(fault)
        })
        pending.add(fault)
        for (const other of nodes) if (!other.isLive && !stopped.has(other) && !busy.has(String(nodes.indexOf(other)))) model.fail('crash', `a node has exited during ${name}`)
      }
      await Promise.all(pending)
    }
    const loops = [traffic(), traffic(), traffic()]
    await injectFaults()
    stop.abort()
    await Promise.all(loops)

    // Everything arrives soon after the last fault. Runs may still produce.
    let deadline = performance.now() + RUN_TIMEOUT
    const wait = async (what: string, condition: () => boolean): Promise<void> => {
      await waitUntil(condition, what, Math.max(1, deadline - performance.now())).catch(() => { model.fail('stuck', `${what} long after the last fault`) })
    }
    await wait('a reader of a run had no outcome', () => runTraffic.isIdle)
    await wait('a producer was running after the end of its run', () => runTraffic.listRunning().length === 0)
    if (runTraffic.listRunning().length > 0) model.fail('running', runTraffic.listRunning().join())
    deadline = performance.now() + DELIVERY_TIMEOUT
    await wait('a message had no response', () => model.messages.every(({ resolvedAt }) => resolvedAt < Infinity))
    // The last events show what is missing before them.
    const confirm = async (properties: Parameters<typeof send>[0]): Promise<void> => {
      let event: SentEvent | undefined
      await wait('an event was not confirmed', () => {
        if (event === undefined || event.outcome === 'unknown') event = send(properties)
        return event?.outcome === 'confirmed'
      })
    }
    const last = [
      ...clients.map(({ model: client }) => ({ kind: 'session', channel: '', client, except: undefined } as const)),
      ...CHANNELS.map(channel => ({ kind: 'channel', channel, client: undefined, except: undefined } as const)),
      { kind: 'broadcast', channel: '', client: undefined, except: undefined } as const
    ]
    await Promise.all(last.map(confirm))
    let nextCheck = 0
    await wait('a client had not received everything', () => {
      if (performance.now() < nextCheck) return false
      nextCheck = performance.now() + 500
      return clients.every(({ model: client }) => model.hasReceivedAll(client))
    })
    await cluster.waitForReports()
    addHandlerRuns(model, cluster.handlerRuns)
    model.check()
    runTraffic.check()
    const outcomes = runTraffic.runs.flatMap(({ isRestartable, outcomes }) => [...outcomes].map(outcome => `${isRestartable ? 'restartable ' : ''}${(JSON.parse(outcome) as { status: string }).status}`))
    runCounts = JSON.stringify(countEach([...outcomes, ...runTraffic.subscriptions.map(({ result }) => `subscription ${result}`)]))

    // Nothing is left of the sessions.
    isEnding = true
    await Promise.all(clients.map(({ session }) => session.close()))
    const countKeys = async (): Promise<number> => {
      // Without the indexes of runs, which are kept longer than the sessions.
      const keys = (await redis.sendCommand('KEYS', '*') as string[]).filter(key => !/^\{sse\}:(run|producers)/.test(key))
      const expiries = await Promise.all(keys.map(key => redis.sendCommand('PTTL', key)))
      return expiries.filter(ttl => ttl === -1).length
    }
    await waitUntil(async () => await countKeys() <= 3, 'the keys of the sessions to be removed').catch(async () => { model.fail('keys', `${await countKeys()} keys without an expiry are left`) })
  } finally {
    await teardowns.run()
  }
  console.log(`seed ${seed}: ${model.events.length} events, ${model.messages.length} messages, ${model.handlerRuns.length} handler runs; runs ${runCounts}; faults ${JSON.stringify(faults)}`)
  const violations = model.violations.map(({ kind, text }) => `${kind}: ${text}`)
  return violations.length === 0 ? [] : [...violations.slice(0, 20), ...timeline]
}

function countEach (values: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1
  return counts
}

/** Adds the handler runs that the nodes have reported. */
function addHandlerRuns (model: Model, reported: ReadonlyArray<{ session: string, data: unknown, pid: number, startedAt: number, endedAt: number | undefined }>): void {
  for (const { data, pid, startedAt, endedAt = Infinity } of [...reported].sort((a, b) => a.startedAt - b.startedAt)) {
    const message = model.messages[Number(data)] as MessageModel
    const run = { name: `${pid}:${startedAt}`, message, process: String(pid), startedAt, endedAt }
    message.runs.push(run)
    model.handlerRuns.push(run)
  }
}

let failures = 0
for (let index = 0; index < Number(values.runs); index++) {
  const found = await run(Number(values.seed) + index, Number(values.minutes), Number(values.clients))
  if (found.length > 0) failures++
  for (const text of found) console.log(`  ${text}`)
}
console.log(`${failures} runs violate a guarantee`)
process.exit(failures === 0 ? 0 : 1)
