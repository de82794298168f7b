import assert from 'node:assert/strict'
import Fastify from 'fastify'
import type { Gap, LogBounds, StoreFactory, Session } from '../../../lib/index.js'
import { resolveOptions } from '../../../lib/options.js'
import { createSessions, type Sessions } from '../../../lib/sessions/sessions.js'
import type { EntryInput, Log } from '../../../lib/log/log.js'
import { MemoryLogs } from '../../../lib/store/memory/memory-logs.js'
import { MemoryStore } from '../../../lib/store/memory/memory-store.js'
import { frameEvent, REPLACED_FRAME } from '../../../lib/wire/frame.js'
import { kInternals } from '../../../lib/sessions/session.js'
import { LARGE_DATA_LENGTH, MemorySink, readEvents } from '../../support/memory-sink.js'
import { ReferenceLog, type ReferenceEntry } from '../../support/reference-log.js'

/** One step; each kind uses the fields that it needs. */
export interface Step {
  readonly kind: 'send' | 'publish' | 'broadcast' | 'join' | 'leave' | 'connect' | 'drop' | 'drain' | 'tick' | 'expire' | 'close'
  readonly client: number
  readonly channel: number
  /** The client that a message to a channel or a broadcast excludes. A number without a client excludes none. */
  readonly except: number
  /** The position that a client connects with: the last one that it has received, the last one that was written to it, one that the store has not reached, or a fraction of the list of those that it has received. */
  readonly cursor: 'last' | 'written' | 'ahead' | number
  readonly stalls: boolean
  readonly isLarge: boolean
  /** The option `latest` of a message. */
  readonly latest: boolean | string
}

/** Counts what happened in all histories, so that a test can assert that each case occurred. */
export const counts = { messages: 0, gaps: 0, replays: 0, partial: 0, closes: 0, ahead: 0, trims: 0, replaced: 0 }

interface Sent extends ReferenceEntry {
  readonly data: string
  readonly to: ReadonlySet<Client>
  readonly except: Client | undefined
  readonly log: ReferenceLog<Sent>
}

class Client {
  readonly session: Session
  readonly log: ReferenceLog<Sent>
  /** Positions that it has received as ids. */
  readonly receivedPositions: number[]
  readonly channels = new Set<number>()
  closed = false
  sink: MemorySink | undefined
  /** The last position that it has received on its newest stream. */
  cursor: number
  /** The position up to which its newest stream has reported gaps. */
  gapReportedThrough = 0

  constructor (session: Session | undefined, bounds: LogBounds) {
    if (session === undefined) throw new Error('no session')
    this.session = session
    this.log = new ReferenceLog(bounds)
    this.cursor = session[kInternals].cursor
    this.receivedPositions = [session[kInternals].cursor]
  }
}

/** The logs of the store. `sweep` expires their entries without waiting for the timer. */
class SweptLogs extends MemoryLogs {
  readonly #touched = new Set<Log>()

  override append (log: Log, entry: EntryInput): void {
    super.append(log, entry)
    this.#touched.add(log)
  }

  sweep (): void {
    for (const log of this.#touched) log.expire(performance.now())
  }
}

const AGE = 1_000_000
const MAX_CLOSED_BYTES = 64 * 1024
const logger = Fastify().log

/**
 * Runs steps on real sessions and on a model of them. The model records the recipients of each message, and its logs are
 * reference logs. A client must receive what the model predicts: every message after its cursor, except lost ones, in order,
 * and a gap before them if, and only if, something was lost.
 */
export class SessionModel {
  readonly #logs: SweptLogs
  readonly #sessions: Sessions
  readonly #bounds: LogBounds
  readonly #clients: Array<Client | undefined> = []
  readonly #channels = new Map<number, ReferenceLog<Sent>>()
  readonly #broadcasts: ReferenceLog<Sent>
  readonly #skew: (ms: number) => void
  readonly #sent: Sent[] = []
  #time = 0

  static async run (bounds: Omit<LogBounds, 'age'>, skew: (ms: number) => void, steps: Iterable<Step>): Promise<void> {
    const logs = new SweptLogs()
    const store: StoreFactory = (settings, callbacks) => new MemoryStore(settings, callbacks, logs)
    const fullBounds = { ...bounds, age: AGE }
    const sessions = await createSessions(resolveOptions({ store, heartbeatInterval: false, log: fullBounds, channelLog: fullBounds }, 0), logger)
    const model = new SessionModel(fullBounds, skew, logs, sessions)
    for (const step of steps) await model.#execute(step)
    for (const client of model.#openClients()) client.sink?.destroy()
    await model.#waitForTick()
    await sessions.close()
  }

  private constructor (bounds: LogBounds, skew: (ms: number) => void, logs: SweptLogs, sessions: Sessions) {
    this.#bounds = bounds
    this.#broadcasts = new ReferenceLog(bounds)
    this.#skew = skew
    this.#logs = logs
    this.#sessions = sessions
  }

  #openClients (): Client[] {
    return this.#clients.filter(client => client !== undefined)
  }

  async #execute (step: Step): Promise<void> {
    const client = this.#clients[step.client]
    const except = this.#clients[step.except]
    const name = `channel ${step.channel}`
    const { latest } = step
    const options = { except: except?.session, latest }
    if (step.kind === 'tick') return await this.#waitForTick()
    if (step.kind === 'expire') return this.#advanceTime()
    if (step.kind === 'connect') return await this.#connect(step)
    if (step.kind === 'broadcast') {
      const to = this.#openClients().filter(({ closed }) => !closed)
      return this.#append(this.#broadcasts, to, except, step, data => this.#sessions.broadcast('message', data, options))
    }
    if (step.kind === 'publish') {
      const to = this.#members(step.channel)
      return this.#append(this.#channels.get(step.channel), to, except, step, data => this.#sessions.channel(name).send(data, options))
    }
    if (client === undefined) return
    if (step.kind === 'send') {
      this.#append(client.closed ? undefined : client.log, [client], undefined, step, data => client.session.send(data, { latest }))
    } else if (step.kind === 'join') {
      client.session.join(name)
      if (client.closed) return
      if (this.#members(step.channel).length === 0) this.#channels.set(step.channel, new ReferenceLog(this.#bounds))
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
      // The sink notifies the session in a microtask.
      await Promise.resolve()
    } else {
      if (client.sink?.blocked !== true || client.sink.closed) return
      client.sink.drain(step.stalls)
      this.#check(client)
    }
  }

  #members (channel: number): Client[] {
    return this.#openClients().filter(({ channels }) => channels.has(channel))
  }

  #leave (client: Client, channel: number): void {
    client.channels.delete(channel)
    if (this.#members(channel).length === 0) this.#channels.delete(channel)
  }

  #append (log: ReferenceLog<Sent> | undefined, to: Client[], except: Client | undefined, { isLarge, latest }: Step, send: (data: string) => Promise<void>): void {
    const newestPosition = this.#logs.newestPosition
    const data = `${this.#sent.length}${isLarge ? '.'.repeat(LARGE_DATA_LENGTH) : ''}`
    send(data)
    const bytes = frameEvent('message', data).length
    if (log === undefined || bytes > this.#bounds.bytes) {
      assert.equal(this.#logs.newestPosition, newestPosition)
      return
    }
    const position = newestPosition + 1
    assert.equal(this.#logs.newestPosition, position)
    // The append may have flushed streams before it added the entry.
    for (const client of this.#openClients()) if (client.sink !== undefined && client.sink.text !== '') this.#check(client)
    const sent: Sent = { position, bytes, appendedAt: this.#time, data, to: new Set(to), except, log, key: latest === false ? undefined : `${String(latest)} except ${except?.session.id}` }
    const { length } = log.trimmed
    log.append(sent)
    this.#sent.push(sent)
    if ([...log.replaced.values()].includes(sent)) counts.replaced++
    for (const { entry } of log.trimmed.slice(length)) this.#checkTrimmed(entry)
  }

  /** Checks that a trimmed entry was written to every client whose connection accepts data. */
  #checkTrimmed ({ position, to, except }: Sent): void {
    for (const client of to) {
      const { sink, cursor, gapReportedThrough } = client
      if (client === except || sink === undefined || sink.closed || sink.blocked) continue
      assert.ok(Math.max(cursor, gapReportedThrough) >= position, 'an entry is trimmed only after all streams that can write have written it')
      counts.trims++
    }
  }

  /** Advances the clock and expires old entries in the store and in the model. */
  #advanceTime (): void {
    this.#skew(AGE * 0.6)
    this.#time += AGE * 0.6
    this.#logs.sweep()
    for (const { log } of this.#sent) log.expire(this.#time)
  }

  async #waitForTick (): Promise<void> {
    await new Promise(resolve => { setImmediate(resolve) })
    for (const client of this.#openClients()) this.#check(client)
  }

  async #connect ({ client: index, cursor: choice, stalls }: Step): Promise<void> {
    const newestPosition = this.#logs.newestPosition
    let client = this.#clients[index]
    const resumed = client !== undefined
    // When the stream of a closed session has written everything, the store drops all but the last MAX_CLOSED_BYTES.
    if (client?.closed === true && this.#bounds.bytes > MAX_CLOSED_BYTES && this.#hasWrittenAll(client)) return
    if (client === undefined) {
      const session = await this.#sessions.open(undefined)
      assert.equal(session?.[kInternals].cursor, newestPosition)
      client = this.#clients[index] = new Client(session, this.#bounds)
    }
    const { session, sink: replaced } = client
    if (resumed) session[kInternals].retainForResume()
    const finalFrame = replaced?.closed === false && !replaced.blocked ? REPLACED_FRAME : ''
    const cursor = this.#chooseCursor(client, choice, newestPosition)
    if (cursor < client.cursor) counts.replays++
    const sink = new MemorySink(stalls)
    assert.equal(await this.#sessions.acquireStream(session, cursor), newestPosition)
    Object.assign(client, { sink, cursor, gapReportedThrough: 0 })
    session[kInternals].setStream({ sink, cursor, newestPosition, welcome: '{}', resumed, requestedAt: performance.now(), logger })
    assert.equal(replaced?.read() ?? '', finalFrame, 'a replaced stream that can write receives only the event "replaced"')
    const [welcome, ...events] = readEvents(sink)
    assert.deepEqual(welcome, { event: 'welcome', position: cursor, data: {} })
    if (cursor > newestPosition) {
      assert.deepEqual(events.shift(), { event: 'gap', position: newestPosition, data: { after: cursor, resumedAt: newestPosition, reason: 'store' } })
      client.cursor = newestPosition
      counts.ahead++
    }
    this.#check(client, events)
    await Promise.resolve()
  }

  #chooseCursor (client: Client, choice: Step['cursor'], newestPosition: number): number {
    if (choice === 'ahead') return newestPosition + 5
    if (choice === 'last') return client.receivedPositions.at(-1) ?? 0
    if (choice !== 'written') return client.receivedPositions[Math.floor(choice * client.receivedPositions.length)] ?? 0
    const { session: { [kInternals]: { cursor } }, gapReportedThrough } = client
    assert.ok(cursor >= client.cursor)
    const skipped = this.#sentTo(client).filter(({ position }) => position > Math.max(client.cursor, gapReportedThrough) && position <= cursor)
    assert.deepEqual(skipped.filter(({ except }) => except !== client), [])
    return cursor
  }

  /** The messages of a client's logs, including those that exclude it. */
  #sentTo (client: Client): Sent[] {
    return this.#sent.filter(({ to }) => to.has(client))
  }

  #hasWrittenAll (client: Client): boolean {
    const { cursor } = client.session[kInternals]
    return this.#sentTo(client).every(({ position }) => position <= cursor)
  }

  /** Compares what a client has received with what the model predicts. */
  #check (client: Client, events = readEvents(client.sink)): void {
    const { sink } = client
    if (sink === undefined) return
    const addressed = this.#sentTo(client).filter(({ except }) => except !== client)
    const expected = addressed.filter(sent => sent.position > client.cursor && sent.log.kept.includes(sent))
    const unreported = (): Sent[] => addressed.filter(sent => sent.position > Math.max(client.cursor, client.gapReportedThrough) && isLost(sent, client))
    const ends = events.at(-1)?.event === 'close'
    if (ends) {
      assert.ok(client.closed)
      assert.deepEqual(events.pop(), { event: 'close', position: undefined, data: { reason: 'closed' } })
      counts.closes++
    }
    for (const { event, position, data } of events) {
      if (event === 'gap') {
        this.#checkGap(client, data as Gap, position ?? -1)
        assert.ok(expected.every(sent => sent.position > client.cursor), 'the id of a gap is before every message that follows')
      } else {
        assert.deepEqual(unreported(), [], 'a message comes only after the gap that reports the loss before it')
        const next = expected.shift()
        assert.deepEqual({ event, position, data }, { event: 'message', position: next?.position, data: next?.data })
        client.cursor = position ?? -1
        counts.messages++
      }
      client.receivedPositions.push(client.cursor)
    }
    if (sink.closed && !ends) assert.deepEqual(events, [], 'a stream that was destroyed receives nothing')
    else if (sink.blocked && !ends) counts.partial += expected.length > 0 ? 1 : 0
    else assert.deepEqual([...expected, ...unreported()], [], 'every message was received or reported as lost')
  }

  #checkGap (client: Client, { after, resumedAt, reason }: Gap, position: number): void {
    const sent = this.#sentTo(client).filter(sent => sent.position > Math.max(client.cursor, client.gapReportedThrough))
    assert.ok(after >= client.cursor)
    assert.deepEqual(sent.filter(sent => sent.position <= after && sent.except !== client), [], 'the gap starts before everything that was lost')
    const lost = sent.filter(sent => sent.position > after && isLost(sent, client))
    assert.equal(resumedAt, lost.at(-1)?.position, 'the gap ends at the last lost message, and there is one')
    assert.ok(lost.at(-1)?.log.trimmed.some(loss => loss.reason === reason))
    assert.ok(position >= after && position <= resumedAt)
    client.gapReportedThrough = resumedAt
    client.cursor = position
    counts.gaps++
  }
}

/** Whether a message that was sent to a client is lost for it. If it was replaced, the client receives the later message instead, unless that was not sent to it. */
function isLost (sent: Sent, client: Client): boolean {
  const { kept, replaced, trimmed } = sent.log
  if (kept.includes(sent)) return false
  const replacement = replaced.get(sent)
  return replacement === undefined || (!replacement.to.has(client) && trimmed.some(({ entry }) => entry.position > sent.position))
}
