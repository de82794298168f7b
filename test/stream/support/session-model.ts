import assert from 'node:assert/strict'
import Fastify from 'fastify'
import type { Gap, LogBounds, StoreFactory, Session } from '../../../lib/index.js'
import { resolveOptions } from '../../../lib/options.js'
import { createSessions, type Sessions } from '../../../lib/sessions/sessions.js'
import type { EntryInput, Log } from '../../../lib/log/log.js'
import { MemoryLogs } from '../../../lib/store/memory/memory-logs.js'
import { MemoryStore } from '../../../lib/store/memory/memory-store.js'
import { frameEvent, REPLACED_FRAME } from '../../../lib/wire/frame.js'
import { kStream } from '../../../lib/sessions/session.js'
import { HEAVY, MemorySink, received } from '../../support/memory-sink.js'
import { NaiveLog, type NaiveEntry } from '../../support/naive-log.js'

/** One step; each kind uses the fields that it needs. */
export interface Step {
  readonly kind: 'send' | 'emit' | 'broadcast' | 'join' | 'leave' | 'connect' | 'drop' | 'drain' | 'turn' | 'age' | 'close'
  readonly client: number
  readonly channel: number
  /** The client that an emit or a broadcast excepts; there is none of a high number. */
  readonly except: number
  /** Which of the positions that the client has heard of it comes back with. */
  readonly cursor: 'last' | 'written' | 'ahead' | number
  readonly stalls: boolean
  readonly heavy: boolean
}

/** What has happened in all worlds, so that a test can see that it has tested something. */
export const seen = { messages: 0, gaps: 0, replays: 0, partial: 0, closes: 0, ahead: 0, offered: 0 }

interface Sent extends NaiveEntry {
  readonly data: string
  readonly to: ReadonlySet<Client>
  readonly except: Client | undefined
  readonly log: NaiveLog<Sent>
}

class Client {
  readonly session: Session
  readonly log: NaiveLog<Sent>
  /** Positions that it was told, as ids. */
  readonly heard: number[]
  readonly channels = new Set<number>()
  closed = false
  sink: MemorySink | undefined
  /** The last position that came on its newest stream. */
  cursor: number
  /** Up to where its newest stream has told of holes. */
  told = 0

  constructor (session: Session | undefined, bounds: LogBounds) {
    if (session === undefined) throw new Error('no session')
    this.session = session
    this.log = new NaiveLog(bounds)
    this.cursor = session[kStream].cursor
    this.heard = [session[kStream].cursor]
  }
}

/** The store's logs, with their sweep to be called. */
class SweptLogs extends MemoryLogs {
  readonly #used = new Set<Log>()

  override append (log: Log, draft: EntryInput): void {
    super.append(log, draft)
    this.#used.add(log)
  }

  sweep (): void {
    for (const log of this.#used) log.expire(performance.now())
  }
}

const AGE = 1_000_000
const logger = Fastify().log

/**
 * Sessions beside a model of them. The model knows of each message to whom it was sent, and has a naive log; what comes
 * to a client has to be what those say: everything sent to it after its cursor and not lost, in order, and a gap before it
 * if, and only if, something was lost.
 */
export class World {
  readonly #logs: SweptLogs
  readonly #sessions: Sessions
  readonly #bounds: LogBounds
  readonly #clients: Array<Client | undefined> = []
  readonly #channels = new Map<number, NaiveLog<Sent>>()
  readonly #broadcasts: NaiveLog<Sent>
  readonly #skew: (ms: number) => void
  readonly #sent: Sent[] = []
  #time = 0

  static async run (bounds: Omit<LogBounds, 'age'>, skew: (ms: number) => void, steps: Iterable<Step>): Promise<void> {
    const logs = new SweptLogs()
    const store: StoreFactory = (settings, user) => new MemoryStore(settings, user, logs)
    const full = { ...bounds, age: AGE }
    const sessions = await createSessions(resolveOptions({ store, heartbeatInterval: false, log: full, channelLog: full }, 0), logger)
    const world = new World(full, skew, logs, sessions)
    for (const step of steps) await world.#take(step)
    for (const client of world.#open()) client.sink?.destroy()
    await world.#turn()
    await sessions.close()
  }

  private constructor (bounds: LogBounds, skew: (ms: number) => void, logs: SweptLogs, sessions: Sessions) {
    this.#bounds = bounds
    this.#broadcasts = new NaiveLog(bounds)
    this.#skew = skew
    this.#logs = logs
    this.#sessions = sessions
  }

  #open (): Client[] {
    return this.#clients.filter(client => client !== undefined)
  }

  async #take (step: Step): Promise<void> {
    const client = this.#clients[step.client]
    const except = this.#clients[step.except]
    const name = `channel ${step.channel}`
    const options = { except: except?.session }
    if (step.kind === 'turn') return await this.#turn()
    if (step.kind === 'age') return this.#grow()
    if (step.kind === 'connect') return await this.#connect(step)
    if (step.kind === 'broadcast') {
      const to = this.#open().filter(({ closed }) => !closed)
      return this.#append(this.#broadcasts, to, except, step.heavy, data => this.#sessions.broadcast('message', data, options))
    }
    if (step.kind === 'emit') {
      const to = this.#members(step.channel)
      return this.#append(this.#channels.get(step.channel), to, except, step.heavy, data => this.#sessions.channel(name).send(data, options))
    }
    if (client === undefined) return
    if (step.kind === 'send') {
      this.#append(client.closed ? undefined : client.log, [client], undefined, step.heavy, data => client.session.send(data))
    } else if (step.kind === 'join') {
      client.session.join(name)
      if (client.closed) return
      if (this.#members(step.channel).length === 0) this.#channels.set(step.channel, new NaiveLog(this.#bounds))
      client.channels.add(step.channel)
    } else if (step.kind === 'leave') {
      client.session.leave(name)
      this.#leave(client, step.channel)
    } else if (step.kind === 'close') {
      client.session.close()
      client.closed = true
      for (const channel of client.channels) this.#leave(client, channel)
    } else if (step.kind === 'drop') {
      client.sink?.destroy()
      // The session hears of it as of a socket's end: a little later.
      await Promise.resolve()
    } else {
      if (client.sink?.blocked !== true || client.sink.closed) return
      client.sink.drain(step.stalls)
      this.#check(client)
    }
  }

  #members (channel: number): Client[] {
    return this.#open().filter(({ channels }) => channels.has(channel))
  }

  #leave (client: Client, channel: number): void {
    client.channels.delete(channel)
    if (this.#members(channel).length === 0) this.#channels.delete(channel)
  }

  #append (log: NaiveLog<Sent> | undefined, to: Client[], except: Client | undefined, heavy: boolean, send: (data: string) => Promise<void>): void {
    const head = this.#logs.head
    const data = `${this.#sent.length}${heavy ? '.'.repeat(HEAVY) : ''}`
    send(data)
    const bytes = frameEvent('message', data).length
    if (log === undefined || bytes > this.#bounds.bytes) {
      assert.equal(this.#logs.head, head)
      return
    }
    const position = head + 1
    assert.equal(this.#logs.head, position)
    // Whoever was written to before the log grew.
    for (const client of this.#open()) if (client.sink !== undefined && client.sink.text !== '') this.#check(client)
    const sent: Sent = { position, bytes, appendedAt: this.#time, data, to: new Set(to), except, log }
    const { length } = log.lost
    log.push(sent)
    this.#sent.push(sent)
    for (const { entry } of log.lost.slice(length)) this.#checkOffered(entry)
  }

  /** An entry that a log drops has come to all whose connection takes what there is. */
  #checkOffered ({ position, to, except }: Sent): void {
    for (const client of to) {
      const { sink, cursor, told } = client
      if (client === except || sink === undefined || sink.closed || sink.blocked) continue
      assert.ok(Math.max(cursor, told) >= position, 'nothing is dropped that has not been offered')
      seen.offered++
    }
  }

  /** Time goes on; what is too old by then is swept, by the store and by the model. */
  #grow (): void {
    this.#skew(AGE * 0.6)
    this.#time += AGE * 0.6
    this.#logs.sweep()
    for (const { log } of this.#sent) log.expire(this.#time)
  }

  async #turn (): Promise<void> {
    await new Promise(resolve => { setImmediate(resolve) })
    for (const client of this.#open()) this.#check(client)
  }

  async #connect ({ client: index, cursor: wish, stalls }: Step): Promise<void> {
    const head = this.#logs.head
    let client = this.#clients[index]
    const resumed = client !== undefined
    if (client === undefined) {
      const session = await this.#sessions.open(undefined)
      assert.equal(session?.[kStream].cursor, head)
      client = this.#clients[index] = new Client(session, this.#bounds)
    }
    const { session, sink: replaced } = client
    const generation = resumed ? session[kStream].retainForResume() : 0
    const last = replaced?.closed === false && !replaced.blocked ? REPLACED_FRAME : ''
    const cursor = this.#choose(client, wish, head)
    if (cursor < client.cursor) seen.replays++
    const sink = new MemorySink(stalls)
    assert.equal(await this.#sessions.acquireStream(session, cursor), head)
    Object.assign(client, { sink, cursor, told: 0 })
    session[kStream].attach({ sink, cursor, head, welcome: '{}', resumed, generation, logger })
    assert.equal(replaced?.read() ?? '', last, 'a stream that is replaced hears so, if it keeps up, and nothing else')
    const [welcome, ...events] = received(sink)
    assert.deepEqual(welcome, { event: 'welcome', position: cursor, data: {} })
    if (cursor > head) {
      assert.deepEqual(events.shift(), { event: 'gap', position: head, data: { after: cursor, resumedAt: head, reason: 'store' } })
      client.cursor = head
      seen.ahead++
    }
    this.#check(client, events)
    await Promise.resolve()
  }

  #choose (client: Client, wish: Step['cursor'], head: number): number {
    if (wish === 'ahead') return head + 5
    if (wish === 'last') return client.heard.at(-1) ?? 0
    if (wish !== 'written') return client.heard[Math.floor(wish * client.heard.length)] ?? 0
    const { session: { [kStream]: { cursor } }, told } = client
    assert.ok(cursor >= client.cursor)
    const passed = this.#of(client).filter(({ position }) => position > Math.max(client.cursor, told) && position <= cursor)
    assert.deepEqual(passed.filter(({ except }) => except !== client), [])
    return cursor
  }

  /** What was sent to a client, including what excepts it. */
  #of (client: Client): Sent[] {
    return this.#sent.filter(({ to }) => to.has(client))
  }

  /** Holds what has come to a client against what had to come. */
  #check (client: Client, events = received(client.sink)): void {
    const { sink } = client
    if (sink === undefined) return
    const wanted = this.#of(client).filter(({ except }) => except !== client)
    const due = wanted.filter(sent => sent.position > client.cursor && !isLost(sent))
    const untold = (): Sent[] => wanted.filter(sent => sent.position > Math.max(client.cursor, client.told) && isLost(sent))
    const ends = events.at(-1)?.event === 'close'
    if (ends) {
      assert.ok(client.closed)
      assert.deepEqual(events.pop(), { event: 'close', position: undefined, data: { reason: 'closed' } })
      seen.closes++
    }
    for (const { event, position, data } of events) {
      if (event === 'gap') {
        this.#checkGap(client, data as Gap, position ?? -1)
        assert.ok(due.every(sent => sent.position > client.cursor), 'the id of a gap passes nothing that is still to come')
      } else {
        assert.deepEqual(untold(), [], 'a message comes only behind the gap that tells what was lost')
        const next = due.shift()
        assert.deepEqual({ event, position, data }, { event: 'message', position: next?.position, data: next?.data })
        client.cursor = position ?? -1
        seen.messages++
      }
      client.heard.push(client.cursor)
    }
    if (sink.closed && !ends) assert.deepEqual(events, [], 'nothing comes on a stream that is lost')
    else if (sink.blocked && !ends) seen.partial += due.length > 0 ? 1 : 0
    else assert.deepEqual([...due, ...untold()], [], 'everything that was sent has come, or is told as lost')
  }

  #checkGap (client: Client, { after, resumedAt, reason }: Gap, position: number): void {
    const sent = this.#of(client).filter(sent => sent.position > Math.max(client.cursor, client.told))
    assert.ok(after >= client.cursor)
    assert.deepEqual(sent.filter(sent => sent.position <= after && sent.except !== client), [], 'the gap begins before all that was lost')
    const lost = sent.filter(sent => sent.position > after && isLost(sent))
    assert.equal(resumedAt, lost.at(-1)?.position, 'the gap ends with the last that was lost, and there is one')
    assert.ok(lost.at(-1)?.log.lost.some(loss => loss.reason === reason))
    assert.ok(position >= after && position <= resumedAt)
    client.told = resumedAt
    client.cursor = position
    seen.gaps++
  }
}

function isLost (sent: Sent): boolean {
  return !sent.log.kept.includes(sent)
}
