import assert from 'node:assert/strict'
import type { Gap, Session, Sessions } from '../../../lib/index.js'
import { kInternals } from '../../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream, type MemoryStream } from '../../support/memory-stream.js'
import { ReferenceLog } from '../../support/reference-log.js'
import { waitUntil } from '../../support/wait.js'

/** One step; each kind uses the fields that it needs. */
export interface StoreStep {
  readonly kind: 'send' | 'publish' | 'broadcast' | 'join' | 'leave' | 'connect' | 'drop' | 'update' | 'close'
  readonly client: number
  readonly channel: number
  /** The client that a message excludes. A number without a client excludes none. */
  readonly except: number
  /** The node that executes the step. */
  readonly node: number
  /** The position to resume after, as a fraction of the list of those that the client has received; 1 is the latest. */
  readonly cursor: number
  /** The number of events that a join returns at most. */
  readonly history: number
  /** The option `latest` of a message. */
  readonly latest: boolean | string
}

/** Counts what happened in all histories, so that a test can assert that each case occurred. */
export interface Counts { messages: number, gaps: number, replays: number, moves: number, history: number, replaced: number }

interface Sent {
  readonly n: number
  readonly to: ReadonlySet<Client>
  readonly except: Client | undefined
  readonly log: ReferenceLog<ModelEntry>
}

interface ModelEntry { readonly position: number, readonly bytes: number, readonly appendedAt: number, readonly key: string | undefined }

interface Client {
  readonly session: Session
  readonly log: ReferenceLog<ModelEntry>
  /** The channels that it has joined, each with the newest message that was sent before. */
  readonly channels: Map<number, number>
  /** Positions that the client has received, each with the newest message that was sent before it. */
  readonly received: Array<{ position: number, n: number }>
  readonly data: Record<string, unknown>
  closed: boolean
  stream: MemoryStream | undefined
  /** The newest message before the cursor with which its stream was attached. */
  since: number
  nodeIndex: number
  /** The number of events of its stream that are already counted. */
  counted: number
}

let modelCount = 0

/** This channel is kept without members, so the model predicts its history. */
const KEPT_CHANNEL = 1
const KEEP = 600_000

/**
 * Runs steps on real sessions of several nodes and on a model of them. After every step, each stream must have received
 * every message to its client after the cursor, except lost ones, in order, and a gap if, and only if, something was lost.
 */
export class StoreModel {
  readonly #nodes: readonly Sessions[]
  readonly #counts: Counts
  readonly #name = ++modelCount
  readonly #bounds: { entries: number, bytes: number, age: number }
  readonly #clients: Array<Client | undefined> = []
  // One per name. A real channel starts with an empty log after its last member has left, so it may keep what the model has trimmed.
  readonly #channels = new Map<number, ReferenceLog<ModelEntry>>()
  readonly #broadcasts: ReferenceLog<ModelEntry>
  readonly #sent: Sent[] = []

  constructor (nodes: readonly Sessions[], entries: number, counts: Counts) {
    this.#nodes = nodes
    this.#counts = counts
    this.#bounds = { entries, bytes: Infinity, age: Infinity }
    this.#broadcasts = new ReferenceLog(this.#bounds)
  }

  async run (steps: Iterable<StoreStep>): Promise<void> {
    try {
      for (const step of steps) {
        await this.#execute(step)
        for (const client of this.#openClients()) await this.#check(client)
      }
    } finally {
      for (const client of this.#openClients()) {
        client.stream?.sink.destroy()
        await client.session.close()
      }
    }
  }

  #openClients (): Client[] {
    return this.#clients.filter(client => client !== undefined)
  }

  async #execute (step: StoreStep): Promise<void> {
    const index = step.node % this.#nodes.length
    const node = this.#nodes[index] as Sessions
    const client = this.#clients[step.client]
    const except = this.#clients[step.except]
    const { latest } = step
    const options = { except: except?.session, latest }
    const key = latest === false ? undefined : `${String(latest)} except ${step.kind === 'send' ? undefined : except?.session.id}`
    const name = `channel ${step.channel} of ${this.#name}`
    const n = this.#sent.length + 1
    if (step.kind === 'connect') return await this.#connect(step, node, index)
    if (step.kind === 'broadcast') {
      await node.broadcast('message', n, options)
      return this.#record(n, this.#broadcasts, this.#openClients().filter(({ closed }) => !closed), except, key)
    }
    if (step.kind === 'publish') {
      const isKept = step.channel === KEPT_CHANNEL
      await node.channel(name, isKept ? { keep: KEEP } : {}).send(n, options)
      const members = this.#openClients().filter(({ channels }) => channels.has(step.channel))
      if (members.length > 0 || isKept) this.#record(n, this.#channelLog(step.channel), members, except, key)
      return
    }
    if (client === undefined || client.closed) return
    if (step.kind === 'drop') {
      client.stream?.sink.destroy()
      client.stream = undefined
      // The sink notifies the session in a microtask.
      await Promise.resolve()
      return
    }
    const handle = await findSession(node, client.session)
    if (step.kind === 'send') {
      await handle.send(n, { latest })
      this.#record(n, client.log, [client], undefined, key)
    } else if (step.kind === 'join') {
      const history = await handle.join(name, { history: step.history })
      if (!client.channels.has(step.channel)) client.channels.set(step.channel, n - 1)
      if (step.channel === KEPT_CHANNEL) this.#checkHistory(client, history.map(({ data }) => data), step.history)
    } else if (step.kind === 'leave') {
      await handle.leave(name)
      client.channels.delete(step.channel)
    } else if (step.kind === 'update') {
      const change = { [name]: n }
      await handle.update(change)
      Object.assign(client.data, change)
      assert.deepEqual((await findSession(node, client.session)).data, client.data)
    } else {
      await handle.close()
      client.closed = true
      client.channels.clear()
    }
    const members = this.#openClients().filter(({ channels }) => channels.has(step.channel))
    assert.equal(await node.channel(name).count(), members.length)
    assert.deepEqual((await node.channel(name).sessions()).map(({ id }) => id).toSorted(), members.map(({ session }) => session.id).toSorted())
  }

  #checkHistory (client: Client, history: unknown[], count: number): void {
    const joinedAt = client.channels.get(KEPT_CHANNEL) ?? 0
    const kept = new Set(this.#channelLog(KEPT_CHANNEL).kept.map(({ position }) => position))
    const expected = this.#sent.filter(({ n, except }) => n <= joinedAt && kept.has(n) && except !== client).map(({ n }) => n)
    assert.deepEqual(history, expected.slice(Math.max(0, expected.length - count)))
    this.#counts.history += history.length
  }

  #channelLog (channel: number): ReferenceLog<ModelEntry> {
    let log = this.#channels.get(channel)
    if (log === undefined) this.#channels.set(channel, log = new ReferenceLog(this.#bounds))
    return log
  }

  #record (n: number, log: ReferenceLog<ModelEntry>, to: Client[], except: Client | undefined, key: string | undefined): void {
    const { size } = log.replaced
    log.append({ position: n, bytes: 1, appendedAt: 0, key })
    this.#counts.replaced += log.replaced.size - size
    this.#sent.push({ n, to: new Set(to), except, log })
  }

  async #connect ({ client: index, cursor }: StoreStep, node: Sessions, nodeIndex: number): Promise<void> {
    const n = this.#sent.length
    const client = this.#clients[index]
    if (client === undefined) {
      const session = await openSession(node)
      const created: Client = {
        session,
        log: new ReferenceLog(this.#bounds),
        channels: new Map(),
        data: {},
        closed: false,
        since: n,
        nodeIndex,
        counted: 0,
        received: [{ position: session[kInternals].cursor, n }],
        stream: await attachMemoryStream(node, session)
      }
      this.#clients[index] = created
      return
    }
    const from = client.received[Math.min(client.received.length - 1, Math.floor(cursor * client.received.length))]
    if (from === undefined) return
    if (from.n < n) this.#counts.replays++
    if (nodeIndex !== client.nodeIndex) this.#counts.moves++
    const before = client.stream
    client.since = from.n
    client.nodeIndex = nodeIndex
    client.counted = 0
    client.stream = await attachMemoryStream(node, await findSession(node, client.session), from.position)
    await waitUntil(() => before === undefined || before.sink.closed, 'the previous stream to end')
  }

  /** Waits for what the model predicts on the stream of a client, and checks everything that was received. */
  async #check (client: Client): Promise<void> {
    const { stream, since } = client
    if (stream === undefined) return
    const addressed = this.#sent.filter(({ n, to, except }) => n > since && to.has(client) && except !== client)
    const isKept = ({ n, log }: Sent): boolean => log.kept.some(({ position }) => position === n)
    const replacementOf = ({ n, log }: Sent): number | undefined => [...log.replaced].find(([{ position }]) => position === n)?.[1].position
    // Instead of a message that was replaced, the client receives the later one, unless that was not sent to it.
    const isLost = (sent: Sent): boolean => {
      const replacement = replacementOf(sent)
      return !isKept(sent) && (replacement === undefined || this.#sent.some(({ n, to }) => n === replacement && !to.has(client)))
    }
    const mayBeMissing = (sent: Sent): boolean => replacementOf(sent) !== undefined
    const isComplete = (): boolean => {
      const events = stream.read()
      const arrived = new Set(stream.messages())
      const missing = addressed.filter(sent => !arrived.has(sent.n) && !mayBeMissing(sent))
      if (missing.some(sent => !isLost(sent))) return false
      return missing.length === 0 || events.some(({ event }) => event === 'gap')
    }
    await waitUntil(isComplete, `all that was sent to the client: ${JSON.stringify({ since, addressed: addressed.map(({ n }) => n), events: stream.read() })}`)
    if (client.closed) await waitUntil(() => stream.sink.closed, 'the end')
    let last = since
    let gap: Gap | undefined
    for (const [index, { event, position = 0, data }] of stream.read().entries()) {
      const isNew = index >= client.counted
      if (event === 'gap') {
        gap = data as Gap
        const lost = this.#sent.some(sent => sent.n > since && sent.to.has(client) && isLost(sent))
        assert.ok(lost, 'a gap reports something that was lost')
        if (isNew) this.#counts.gaps++
      } else if (event === 'message') {
        const n = data as number
        assert.ok(n > last, 'messages are received in order and once')
        const skipped = addressed.filter(sent => sent.n > last && sent.n < n && !mayBeMissing(sent))
        if (skipped.length > 0) assert.ok(gap !== undefined, 'a gap is received before what follows skipped messages')
        assert.ok(addressed.some(sent => sent.n === n), 'the message was sent to this client')
        last = n
        if (isNew) this.#counts.messages++
        if (!client.received.some(known => known.position === position)) client.received.push({ position, n })
      }
    }
    client.counted = stream.events.length
    client.received.sort((a, b) => a.position - b.position)
  }
}
