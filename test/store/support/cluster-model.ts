import assert from 'node:assert/strict'
import type { Gap, Session, Sessions } from '../../../lib/index.js'
import { kStream } from '../../../lib/sessions/session.js'
import { handleOf, openSession, stream, type MemoryStream } from '../../support/memory-client.js'
import { NaiveLog } from '../../support/naive-log.js'
import { until } from '../../support/wait.js'

/** One step; each kind uses the fields that it needs. */
export interface SharedStep {
  readonly kind: 'send' | 'publish' | 'broadcast' | 'join' | 'leave' | 'connect' | 'drop' | 'update' | 'close'
  readonly client: number
  readonly channel: number
  /** The client that a message excepts; there is none of a high number. */
  readonly except: number
  /** The process that does it. */
  readonly process: number
  /** Which of the positions that the client has heard of it comes back with: 1 is the latest. */
  readonly cursor: number
}

/** What has happened in all worlds, so that a test can see that it has tested something. */
export interface Seen { messages: number, gaps: number, replays: number, moves: number }

interface Sent {
  readonly n: number
  readonly to: ReadonlySet<Client>
  readonly except: Client | undefined
  readonly log: NaiveLog<Naive>
}

interface Naive { readonly position: number, readonly bytes: number, readonly appendedAt: number }

interface Client {
  readonly session: Session
  readonly log: NaiveLog<Naive>
  readonly channels: Set<number>
  /** Positions that it has heard, each with the newest message that was sent before it. */
  readonly heard: Array<{ position: number, n: number }>
  readonly data: Record<string, unknown>
  closed: boolean
  stream: MemoryStream | undefined
  /** The newest message before its stream's cursor, when that was attached. */
  since: number
  process: number
  /** How many of its stream's events are counted. */
  counted: number
}

let worlds = 0

/**
 * Sessions over several processes beside a model of them. After every step, each stream is to have all that was sent to its
 * client after the cursor and is not lost, in order, with a gap where something was lost, and nowhere else.
 */
export class SharedWorld {
  readonly #processes: readonly Sessions[]
  readonly #seen: Seen
  readonly #name = ++worlds
  readonly #bounds: { entries: number, bytes: number, age: number }
  readonly #clients: Array<Client | undefined> = []
  // One for each name, though a channel may begin anew where its last member has left: what that keeps, this may have lost.
  readonly #channels = new Map<number, NaiveLog<Naive>>()
  readonly #broadcasts: NaiveLog<Naive>
  readonly #sent: Sent[] = []

  constructor (processes: readonly Sessions[], entries: number, seen: Seen) {
    this.#processes = processes
    this.#seen = seen
    this.#bounds = { entries, bytes: Infinity, age: Infinity }
    this.#broadcasts = new NaiveLog(this.#bounds)
  }

  async run (steps: Iterable<SharedStep>): Promise<void> {
    try {
      for (const step of steps) {
        await this.#take(step)
        for (const client of this.#open()) await this.#check(client)
      }
    } finally {
      for (const client of this.#open()) {
        client.stream?.sink.destroy()
        await client.session.close()
      }
    }
  }

  #open (): Client[] {
    return this.#clients.filter(client => client !== undefined)
  }

  async #take (step: SharedStep): Promise<void> {
    const index = step.process % this.#processes.length
    const process = this.#processes[index] as Sessions
    const client = this.#clients[step.client]
    const except = this.#clients[step.except]
    const options = { except: except?.session }
    const name = `channel ${step.channel} of ${this.#name}`
    const n = this.#sent.length + 1
    if (step.kind === 'connect') return await this.#connect(step, process, index)
    if (step.kind === 'broadcast') {
      await process.broadcast('message', n, options)
      return this.#record(n, this.#broadcasts, this.#open().filter(({ closed }) => !closed), except)
    }
    if (step.kind === 'publish') {
      await process.channel(name).send(n, options)
      const members = this.#open().filter(({ channels }) => channels.has(step.channel))
      if (members.length > 0) this.#record(n, this.#channelLog(step.channel), members, except)
      return
    }
    if (client === undefined || client.closed) return
    if (step.kind === 'drop') {
      client.stream?.sink.destroy()
      client.stream = undefined
      // The session hears of it as of a socket's end: a little later.
      await Promise.resolve()
      return
    }
    const handle = await handleOf(process, client.session)
    if (step.kind === 'send') {
      await handle.send(n)
      this.#record(n, client.log, [client], undefined)
    } else if (step.kind === 'join') {
      await handle.join(name)
      client.channels.add(step.channel)
    } else if (step.kind === 'leave') {
      await handle.leave(name)
      client.channels.delete(step.channel)
    } else if (step.kind === 'update') {
      const change = { [name]: n }
      await handle.update(change)
      Object.assign(client.data, change)
      assert.deepEqual((await handleOf(process, client.session)).data, client.data)
    } else {
      await handle.close()
      client.closed = true
      client.channels.clear()
    }
    const members = this.#open().filter(({ channels }) => channels.has(step.channel))
    assert.equal(await process.channel(name).count(), members.length)
  }

  #channelLog (channel: number): NaiveLog<Naive> {
    let log = this.#channels.get(channel)
    if (log === undefined) this.#channels.set(channel, log = new NaiveLog(this.#bounds))
    return log
  }

  #record (n: number, log: NaiveLog<Naive>, to: Client[], except: Client | undefined): void {
    log.push({ position: n, bytes: 1, appendedAt: 0 })
    this.#sent.push({ n, to: new Set(to), except, log })
  }

  async #connect ({ client: index, cursor }: SharedStep, process: Sessions, at: number): Promise<void> {
    const n = this.#sent.length
    const client = this.#clients[index]
    if (client === undefined) {
      const session = await openSession(process)
      const made: Client = {
        session,
        log: new NaiveLog(this.#bounds),
        channels: new Set(),
        data: {},
        closed: false,
        since: n,
        process: at,
        counted: 0,
        heard: [{ position: session[kStream].cursor, n }],
        stream: await stream(process, session)
      }
      this.#clients[index] = made
      return
    }
    const from = client.heard[Math.min(client.heard.length - 1, Math.floor(cursor * client.heard.length))]
    if (from === undefined) return
    if (from.n < n) this.#seen.replays++
    if (at !== client.process) this.#seen.moves++
    const before = client.stream
    client.since = from.n
    client.process = at
    client.counted = 0
    client.stream = await stream(process, await handleOf(process, client.session), from.position)
    await until(() => before === undefined || before.sink.closed, 'the stream before to end')
  }

  /** Waits for what has to come on a client's stream, and holds it against what may. */
  async #check (client: Client): Promise<void> {
    const { stream, since } = client
    if (stream === undefined) return
    const wanted = this.#sent.filter(({ n, to, except }) => n > since && to.has(client) && except !== client)
    const isLost = ({ n, log }: Sent): boolean => !log.kept.some(({ position }) => position === n)
    const told = (): boolean => {
      const events = stream.read()
      const came = new Set(stream.messages())
      const missing = wanted.filter(({ n }) => !came.has(n))
      if (missing.some(sent => !isLost(sent))) return false
      return missing.length === 0 || events.some(({ event }) => event === 'gap')
    }
    await until(told, `all that was sent to the client: ${JSON.stringify({ since, wanted: wanted.map(({ n }) => n), events: stream.read() })}`, 5000)
    if (client.closed) await until(() => stream.sink.closed, 'the end')
    let last = since
    let gap: Gap | undefined
    for (const [index, { event, position = 0, data }] of stream.read().entries()) {
      const isNew = index >= client.counted
      if (event === 'gap') {
        gap = data as Gap
        const lost = this.#sent.some(sent => sent.n > since && sent.to.has(client) && isLost(sent))
        assert.ok(lost, 'a gap tells of something that is lost')
        if (isNew) this.#seen.gaps++
      } else if (event === 'message') {
        const n = data as number
        assert.ok(n > last, 'in order, and once')
        const skipped = wanted.filter(sent => sent.n > last && sent.n < n)
        if (skipped.length > 0) assert.ok(gap !== undefined, 'what is skipped is told before')
        assert.ok(wanted.some(sent => sent.n === n), 'it was for this client')
        last = n
        if (isNew) this.#seen.messages++
        if (!client.heard.some(known => known.position === position)) client.heard.push({ position, n })
      }
    }
    client.counted = stream.events.length
    client.heard.sort((a, b) => a.position - b.position)
  }
}
