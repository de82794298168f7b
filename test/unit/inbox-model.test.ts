import assert from 'node:assert/strict'
import t from 'tap'
import { nextPositionIn } from '../../lib/log/log-range.js'
import { noop } from '../../lib/awaitable.js'
import type { CommandName } from '../../lib/store/redis/script.js'
import { Inbox, type MarkedResult } from '../../lib/store/redis/replica/inbox.js'
import { Loader } from '../../lib/store/redis/replica/loader.js'
import type { LogPart } from '../../lib/store/redis/replica/log-replica.js'
import { Reducer } from '../../lib/store/redis/replica/reducer.js'
import { parseRecord, SessionReplica, type SessionRecord } from '../../lib/store/redis/replica/session-replica.js'
import { createRandom, chooseSeed } from '../support/random.js'

// Publications and replies arrive over two connections in any interleaving, replies are lost, commands are executed again,
// and the connection of the publications breaks. Every stream must still write exactly the entries that are for it, and every close must be noticed.

const STEPS = 100_000
const STEPS_PER_HISTORY = 400
const NODE = 'node'
const OTHER = 'other'
const PREFIX = '{p}'
const UNBOUNDED = { entries: Infinity, bytes: Infinity, age: Infinity }
/** After the last fault, everything must have arrived after this many deliveries. A history needs some hundreds. */
const MAX_DELIVERIES = 10_000

interface StoredEntry { readonly position: number, readonly except: string }
interface StoredLog { last: number, readonly entries: StoredEntry[] }
interface StoredSession {
  readonly id: string
  readonly log: StoredLog
  readonly members: Map<string, number>
  readonly left: Array<{ channel: string, from: number, to: number }>
  version: number
  epoch: number
  owner: string
  broadcastEndPosition: number | undefined
}

/** What the scripts do in Redis, with the two connections to one node. */
class StoreModel {
  readonly sessions = new Map<string, StoredSession>()
  readonly channels = new Map<string, StoredLog>()
  readonly broadcasts: StoredLog = { last: 0, entries: [] }
  /** Commands and replies that are on their way. */
  readonly commands: Array<{ readonly execute: (isRetry: boolean) => unknown, readonly resolve: (reply: unknown) => void, isRetry: boolean }> = []
  readonly replies: Array<() => void> = []
  /** Publications that are on their way, and the subscriptions of the connection. */
  publications: Array<readonly [channel: string, text: string]> = []
  subscriptions = new Set<string>()
  position = 0
  #inboxNumber = 0

  publish (channel: string, text: string): void {
    if (this.subscriptions.has(channel)) this.publications.push([channel, text])
  }

  notify (owner: string, text: string): number {
    if (owner !== NODE) return 0
    this.publish(`${PREFIX}:n:${NODE}`, `${++this.#inboxNumber} ${text}`)
    return this.#inboxNumber
  }

  append (log: StoredLog, except = ''): string {
    const previous = log.last
    log.last = ++this.position
    log.entries.push({ position: this.position, except })
    return `${previous} ${this.position}`
  }

  channel (name: string): StoredLog {
    let log = this.channels.get(name)
    if (log === undefined) this.channels.set(name, log = { last: 0, entries: [] })
    return log
  }

  record ({ version, epoch, owner, members, left, broadcastEndPosition }: StoredSession): string[] {
    return [
      'startPosition', '0', 'cursor', '0', 'version', String(version), 'epoch', String(epoch), 'owner', owner,
      ...[...members].flatMap(([name, from]) => [`m:${name}`, String(from)]),
      ...left.flatMap(({ channel, from, to }) => [`l:${to}:${channel}`, String(from)]),
      ...broadcastEndPosition === undefined ? [] : ['closeReason', 'closed', 'broadcastEndPosition', String(broadcastEndPosition)]
    ]
  }

  execute (name: CommandName, isRetry: boolean, token: number, args: ReadonlyArray<string | number>, budget: number): unknown {
    let value: unknown
    if (name === 'acquire') {
      const session = this.sessions.get(String(args[0])) as StoredSession
      if (!isRetry) {
        session.epoch++
        session.version++
        session.owner = NODE
      }
      value = session.owner === NODE ? [...this.#read(session.log, Number(args[1]), Infinity, budget), this.record(session)] : 'outdated'
    } else {
      const values: unknown[] = []
      for (let i = 0; i < args.length && i < 7 * budget; i += 7) {
        const [kind, id = '', after, through, , epoch, version] = args.slice(i, i + 7) as Array<string | number>
        const session = this.sessions.get(String(id))
        const log = kind === 'broadcasts' ? this.broadcasts : kind === 'channel' ? this.channel(String(id)) : (session as StoredSession).log
        if (kind === 'unverified_session') values.push(String(session?.version))
        else if (kind === 'session' && session?.epoch !== Number(epoch)) values.push('replaced 1')
        else values.push([...this.#read(log, Number(after), Number(through), budget), session !== undefined && session.version !== Number(version) ? this.record(session) : []])
      }
      value = values
    }
    return [String(this.notify(NODE, `reply ${token}`)), String(this.position), '0', value]
  }

  #read ({ last, entries }: StoredLog, after: number, through: number, budget: number): LogPart {
    const found = entries.filter(({ position }) => position > after && position <= through)
    return [String(last), '0', 'count', found.slice(0, budget).map(({ position }) => [`${position}-0`, ['f', `data: ${position}\n\n`]]), found.length > budget ? 1 : 0]
  }
}

/** What happened in all histories, to show that each case occurred. */
interface Counts { applied: number, lost: number, written: number, closed: number }

/** One history: a node with two sessions, and another node that changes them. */
class History {
  readonly #next: () => number
  readonly #counts: Counts
  readonly #store = new StoreModel()
  readonly #known = new Map<string, SessionReplica>()
  readonly #inbox: Inbox
  readonly #reducer: Reducer
  readonly #loader: Loader
  readonly #subscriber = { isReady: false, add: async (channels: readonly string[]) => { await this.#subscribe(channels) } }
  readonly #subscribing: Array<() => void> = []
  readonly #written = new Map<SessionReplica, number[]>()
  readonly #attaching = new Set<SessionReplica>()
  readonly #since = new Map<SessionReplica, number>()

  constructor (next: () => number, counts: Counts) {
    this.#next = next
    this.#counts = counts
    this.#reducer = new Reducer({ log: UNBOUNDED, channelLog: UNBOUNDED, runLog: UNBOUNDED, compressionScope: () => undefined }, this.#known, new Map(), {
      onBroadcast: () => { for (const state of this.#known.values()) this.#write(state) },
      onMissedPublication: () => { this.#inbox.invalidate() },
      onIncomplete: () => { this.#loader.start() },
      onRollback: noop,
      onTurn: noop,
      onResponse: noop,
      onQueuesChanged: noop,
      onSessionClosed: noop,
      onUnknownClose: noop,
      onNoStream: noop,
      onCursorRequest: noop,
      onStale: state => { state.apply(parseRecord(this.#store.record(this.#store.sessions.get(state.id) as StoredSession)) as SessionRecord, NODE) }
    })
    this.#inbox = new Inbox(PREFIX, Infinity, this.#reducer, {
      send: (name, token, ...args) => this.#send(name, token, args),
      onInvalidate: () => {
        this.#reducer.invalidate([...this.#known.values()].filter(({ closeReason }) => closeReason === undefined), [])
        this.#loader.start()
      },
      onRestore: noop
    })
    this.#loader = new Loader(this.#reducer, this.#inbox, this.#subscriber, name => `${PREFIX}:c:${name}`)
    this.#reducer.nodeId = NODE
    this.#inbox.reset(NODE)
    const guard = { isFenced: false, get mayMissBroadcasts () { return !reducer.broadcasts.isLive } }
    const reducer = this.#reducer
    for (const id of ['a', 'b']) {
      this.#store.sessions.set(id, { id, log: { last: 0, entries: [] }, members: new Map(), left: [], version: 1, epoch: 0, owner: '', broadcastEndPosition: undefined })
      const state = new SessionReplica(id, undefined, 0, guard)
      state.listener = {
        cursor: 0,
        onAppend: () => { this.#write(state) },
        onReplaced: noop,
        onEnd: noop,
        onLost: noop,
        onAbort: noop
      }
      this.#known.set(id, state)
      this.#written.set(state, [])
    }
  }

  async run (steps: number): Promise<void> {
    this.#reconnect()
    for (let step = 0; step < steps; step++) {
      await this.#step()
      if (step % 20 === 0) for (const state of this.#known.values()) this.#check(state, false)
    }
    // Without further faults, everything arrives.
    if (!this.#subscriber.isReady) this.#reconnect()
    let deliveries = 0
    for (let heartbeat = 0; heartbeat < 5; heartbeat++) {
      this.#loader.start()
      await settle()
      while (this.#deliver()) {
        assert.ok(++deliveries < MAX_DELIVERIES, 'the same is read again and again')
        await settle()
      }
    }
    for (const state of this.#known.values()) this.#check(state, true)
  }

  #choose<T> (items: Iterable<T>): T {
    const list = [...items]
    return list[Math.floor(this.#next() * list.length)] as T
  }

  async #step (): Promise<void> {
    const { sessions } = this.#store
    const session = this.#choose(sessions.values())
    const state = this.#known.get(session.id) as SessionReplica
    const channel = this.#choose(['x', 'y', 'z'])
    const kind = this.#next()
    if (kind < 0.45) this.#deliver()
    else if (kind < 0.6) this.#publish(session, channel)
    else if (kind < 0.68) this.#join(session, channel)
    else if (kind < 0.74) this.#leave(session, channel)
    else if (kind < 0.8) this.#attach(state)
    else if (kind < 0.82) this.#acquireElsewhere(session)
    else if (kind < 0.83) this.#disconnect()
    else if (kind < 0.87) {
      if (!this.#subscriber.isReady) this.#reconnect()
    } else if (kind < 0.89) this.#loseReplies()
    else if (kind < 0.91) this.#loader.start()
    // Rarely, because little happens to a closed session.
    else if (kind < 0.911) this.#close(session)
    await settle()
  }

  /** Delivers one thing that is on its way. Returns false if there is none. */
  #deliver (): boolean {
    const { commands, replies, publications } = this.#store
    const choices: Array<() => void> = []
    const [command] = commands
    if (command !== undefined) {
      choices.push(() => {
        commands.shift()
        const reply = command.execute(command.isRetry)
        const deliver = (): void => { command.resolve(reply) }
        replies.push(Object.assign(deliver, { command }))
      })
    }
    if (replies.length > 0) choices.push(() => { replies.shift()?.() })
    if (publications.length > 0) {
      choices.push(() => {
        const [channel = '', text = ''] = publications.shift() ?? []
        this.#inbox.receive(channel, text)
      })
    }
    if (this.#subscribing.length > 0) choices.push(() => { this.#subscribing.shift()?.() })
    if (choices.length === 0) return false
    this.#choose(choices)()
    return true
  }

  #send (name: CommandName, token: number, args: ReadonlyArray<string | number>): Promise<unknown> {
    const budget = 1 + Math.floor(this.#next() * 4)
    return new Promise<unknown>(resolve => {
      this.#store.commands.push({ execute: isRetry => this.#store.execute(name, isRetry, token, args, budget), resolve, isRetry: false })
    })
  }

  /** The command connection breaks: commands without a reply are executed again, in order. */
  #loseReplies (): void {
    const { commands, replies } = this.#store
    const lost = replies.splice(0).map(reply => (reply as unknown as { readonly command: typeof commands[number] }).command)
    for (const command of lost) command.isRetry = true
    commands.unshift(...lost)
  }

  async #subscribe (channels: readonly string[]): Promise<void> {
    const { subscriptions } = this.#store
    await new Promise<void>((resolve, reject) => {
      this.#subscribing.push(() => {
        if (subscriptions !== this.#store.subscriptions) {
          reject(new Error('The connection was lost'))
          return
        }
        for (const channel of channels) subscriptions.add(channel)
        resolve()
      })
    })
  }

  #disconnect (): void {
    this.#store.publications = []
    this.#store.subscriptions = new Set()
    this.#subscriber.isReady = false
    this.#inbox.invalidate()
  }

  #reconnect (): void {
    this.#store.subscriptions = new Set([`${PREFIX}:all`, `${PREFIX}:n:${NODE}`, ...[...this.#reducer.channels.keys()].map(name => `${PREFIX}:c:${name}`)])
    this.#subscriber.isReady = true
    this.#inbox.invalidate()
  }

  #publish (session: StoredSession, channel: string): void {
    const store = this.#store
    const kind = this.#choose(['own', 'channel', 'all'])
    if (kind === 'own') {
      if (session.broadcastEndPosition !== undefined) return
      const positions = store.append(session.log)
      store.notify(session.owner, `entry ${session.id} ${positions}  \ndata: ${store.position}\n\n`)
    } else if (kind === 'channel') store.publish(`${PREFIX}:c:${channel}`, `0 ${store.append(store.channel(channel))}  \ndata: ${store.position}\n\n`)
    else store.publish(`${PREFIX}:all`, `entry ${store.append(store.broadcasts)}  \ndata: ${store.position}\n\n`)
  }

  #join (session: StoredSession, channel: string): void {
    if (session.broadcastEndPosition !== undefined || session.members.has(channel)) return
    const { position } = this.#store
    session.members.set(channel, position)
    this.#store.notify(session.owner, `joined ${session.id} ${++session.version} ${position} ${channel}`)
  }

  #leave (session: StoredSession, channel: string): void {
    const from = session.members.get(channel)
    if (from === undefined) return
    session.members.delete(channel)
    const to = this.#store.channel(channel).last
    if (to > from) session.left.push({ channel, from, to })
    this.#store.notify(session.owner, `left ${session.id} ${++session.version} ${to} ${channel}`)
  }

  #close (session: StoredSession): void {
    if (session.broadcastEndPosition !== undefined) return
    const store = this.#store
    const left = [...session.members].map(([channel, from]) => ({ channel, from, to: store.channel(channel).last }))
    session.left.push(...left.filter(({ from, to }) => to > from))
    session.members.clear()
    session.broadcastEndPosition = store.broadcasts.last
    session.version++
    if (left.length > 0) store.notify(session.owner, `left_all ${session.id} ${session.version} ${JSON.stringify(left.map(({ channel, to }) => [channel, String(to)]))}`)
    store.notify(NODE, `closed ${session.id} ${session.broadcastEndPosition} closed`)
    // A node that has received `left_all`, but not `closed`, must find a newer version.
    session.version++
    this.#counts.closed++
  }

  #acquireElsewhere (session: StoredSession): void {
    session.epoch++
    session.version++
    const { owner } = session
    session.owner = OTHER
    this.#store.notify(owner, `replaced ${session.id} ${session.epoch} 1`)
  }

  /** A client resumes at one of the last positions that it has received. */
  #attach (state: SessionReplica): void {
    if (this.#attaching.has(state)) return
    const written = this.#written.get(state) as number[]
    const cursor = this.#next() < 0.5 ? written.at(-1) ?? 0 : written.at(-Math.ceil(this.#next() * 5)) ?? 0
    this.#attaching.add(state)
    const acquired = (): void => {
      this.#written.set(state, (this.#written.get(state) as number[]).filter(position => position <= cursor))
      this.#since.set(state, cursor)
    }
    this.#inbox.execute<LogPart | 'outdated'>('acquire', [state.id, cursor], part => {
      if (part === 'outdated') return
      acquired()
      this.#reducer.applyAcquire(state, cursor, part)
    }).then(({ value, isApplied }: MarkedResult<LogPart | 'outdated'>) => {
      this.#counts[isApplied ? 'applied' : 'lost']++
      if (!isApplied && value !== 'outdated') {
        acquired()
        this.#reducer.applyOutdatedAcquire(state, cursor, value)
      }
      this.#loader.start()
      this.#attaching.delete(state)
      this.#write(state)
    }).catch(noop)
  }

  /** Writes as a stream does. */
  #write (state: SessionReplica): void {
    const written = this.#written.get(state) as number[]
    while (state.epoch !== 0 && state.canWrite) {
      const position = Math.min(...state.ranges.map(range => nextPositionIn(range, written.at(-1) ?? 0)))
      if (position === Infinity) return
      written.push(position)
    }
  }

  /** Compares what was written with what is for the session. */
  #check (state: SessionReplica, isComplete: boolean): void {
    const { log, members, left, broadcastEndPosition = Infinity } = this.#store.sessions.get(state.id) as StoredSession
    const written = this.#written.get(state) as number[]
    if (isComplete) assert.equal(state.closeReason !== undefined, broadcastEndPosition !== Infinity, `whether session ${state.id} is closed`)
    const isIn = (channel: string, position: number): boolean => [...left.map(range => ({ ...range })), ...[...members].map(([name, from]) => ({ channel: name, from, to: Infinity }))]
      .some(range => range.channel === channel && position > range.from && position <= range.to)
    const expected = [
      ...log.entries,
      ...this.#store.broadcasts.entries.filter(({ position }) => position <= broadcastEndPosition),
      ...[...this.#store.channels].flatMap(([name, { entries }]) => entries.filter(({ position }) => isIn(name, position)))
    ].map(({ position }) => position).sort((a, b) => a - b)
    if (isComplete && state.epoch !== 0) this.#counts.written += written.length
    if (isComplete && state.epoch !== 0) assert.deepEqual(written, expected, `session ${state.id}, read from ${this.#since.get(state)}`)
    else if (written.some((position, index) => position !== expected[index])) assert.deepEqual(written, expected.slice(0, written.length))
  }
}

// The code continues in microtasks only, and a tick that is started in a microtask comes after all of them.
const settle = async (): Promise<void> => { await new Promise<void>(resolve => { process.nextTick(resolve) }) }

t.test('streams write exactly their entries, however publications and replies interleave', async t => {
  const next = createRandom(chooseSeed(t))
  const counts = { applied: 0, lost: 0, written: 0, closed: 0 }
  for (let n = 0; n < STEPS / STEPS_PER_HISTORY; n++) await new History(next, counts).run(STEPS_PER_HISTORY)
  t.ok(counts.applied > 1000 && counts.lost > 100 && counts.written > 10_000 && counts.closed > 10, JSON.stringify(counts))
})

t.test('the log of a stream that has moved to another node is not read again', t => {
  const record = (epoch: number): string[] => ['startPosition', '0', 'cursor', '0', 'version', String(epoch), 'epoch', String(epoch), 'owner', NODE]
  const state = new SessionReplica('a', undefined, 0, { isFenced: false, mayMissBroadcasts: false })
  const reducer = new Reducer({ log: UNBOUNDED, channelLog: UNBOUNDED, runLog: UNBOUNDED, compressionScope: () => undefined }, new Map([['a', state]]), new Map(), {
    onBroadcast: noop, onMissedPublication: noop, onIncomplete: noop, onRollback: noop, onTurn: noop, onResponse: noop, onQueuesChanged: noop, onSessionClosed: noop, onUnknownClose: noop, onNoStream: noop, onCursorRequest: noop, onStale: noop
  })
  reducer.nodeId = NODE
  reducer.applyOutdatedAcquire(state, 0, ['0', '0', 'count', [], 0, record(1)])
  const replica = state.ownLog as NonNullable<typeof state.ownLog>
  const read = { replica, after: 0, through: Infinity, epoch: 1, version: 0 }
  reducer.applyAcquire(state, 0, ['0', '0', 'count', [], 0, record(2)])
  reducer.applyNotification('replaced', 'a 3 1')
  reducer.applyRead([read], ['replaced 1'])
  t.notOk(reducer.incomplete.has(replica))
  t.end()
})

t.test('a close is applied while notifications may be missing', t => {
  const state = new SessionReplica('a', undefined, 0, { isFenced: false, mayMissBroadcasts: false })
  let unknownCloses = 0
  const reducer = new Reducer({ log: UNBOUNDED, channelLog: UNBOUNDED, runLog: UNBOUNDED, compressionScope: () => undefined }, new Map([['a', state]]), new Map(), {
    onBroadcast: noop, onMissedPublication: noop, onIncomplete: noop, onRollback: noop, onTurn: noop, onResponse: noop, onQueuesChanged: noop, onSessionClosed: noop, onUnknownClose: () => { unknownCloses++ }, onNoStream: noop, onCursorRequest: noop, onStale: noop
  })
  const inbox = new Inbox(PREFIX, Infinity, reducer, { send: () => new Promise(noop), onInvalidate: noop, onRestore: noop })
  inbox.reset(NODE)
  inbox.receive(`${PREFIX}:n:${NODE}`, '5 closed a 0 banned')
  t.equal(state.closeReason, 'banned')
  inbox.receive(`${PREFIX}:n:${NODE}`, '6 closed b 0 banned')
  t.equal(unknownCloses, 1)
  t.end()
})

t.test('publications are complete from the first reply after a loss, although logs are missing', async t => {
  const reducer = new Reducer({ log: UNBOUNDED, channelLog: UNBOUNDED, runLog: UNBOUNDED, compressionScope: () => undefined }, new Map(), new Map(), {
    onBroadcast: noop, onMissedPublication: noop, onIncomplete: noop, onRollback: noop, onTurn: noop, onResponse: noop, onQueuesChanged: noop, onSessionClosed: noop, onUnknownClose: noop, onNoStream: noop, onCursorRequest: noop, onStale: noop
  })
  let restored = 0
  let number = 0
  const inbox = new Inbox(PREFIX, Infinity, reducer, { send: async () => [String(++number), '0', '0', []], onInvalidate: noop, onRestore: () => { restored++ } })
  inbox.reset(NODE)
  for (let token = 1; token <= 3; token++) {
    if (token === 3) inbox.invalidate()
    const read = inbox.execute('read', [], noop)
    inbox.receive(`${PREFIX}:n:${NODE}`, `${token} reply ${token}`)
    t.match(await read, { isApplied: true })
    t.equal(restored, token === 3 ? 2 : 1)
  }
  t.ok(reducer.incomplete.size > 0)
})

t.test('the publications that wait for a reply are limited in bytes', t => {
  let invalidations = 0
  const reducer = {} as unknown as Reducer
  const inbox = new Inbox(PREFIX, 2000, reducer, { send: () => new Promise(() => {}), onInvalidate: () => { invalidations++ }, onRestore: () => {} })
  inbox.reset('node')
  inbox.execute('read', [], () => {}).catch(() => {})
  inbox.receive(`${PREFIX}:n:node`, '1 reply 1')
  const text = 'x'.repeat(1024 * 1024)
  for (let n = 0; n < 64; n++) inbox.receive(`${PREFIX}:c:room`, text)
  t.equal(invalidations, 1, 'by the reset')
  inbox.receive(`${PREFIX}:c:room`, text)
  t.equal(invalidations, 2)
  t.end()
})
