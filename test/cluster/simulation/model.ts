/** What the nodes have done with a call. A call that rejected as unavailable, or whose node died, may have been executed. */
type Outcome = 'pending' | 'confirmed' | 'unknown' | 'refused'

export interface Call {
  /** The observation at which it started. */
  readonly startedAt: number
  /** The observation at which its outcome was known. */
  settledAt: number
  outcome: Outcome
}

export interface SentEvent extends Call {
  readonly n: number
  readonly kind: 'session' | 'channel' | 'broadcast'
  /** The channel. */
  readonly channel: string
  /** The client of the session that it is sent to. */
  readonly client: ClientModel | undefined
  /** The client that does not receive it. */
  readonly except: ClientModel | undefined
  /** The key of an event of which only the latest matters. */
  readonly key: string | undefined
  readonly process: { readonly isAlive: boolean }
  /** Its position, once a client has received it. */
  position: number | undefined
}

interface RequestModel {
  readonly n: number
  readonly client: ClientModel
  readonly process: { readonly isAlive: boolean }
  /** How often the client has received it. */
  handled: number
  isSettled: boolean
}

interface Close extends Call {
  /** The name of the process that was called. */
  readonly process: string
}

interface Membership extends Call {
  readonly kind: 'join' | 'leave'
  /** The name of the process that was called. */
  readonly process: string
  readonly channel: string
}

interface Update extends Call {
  readonly property: string
}

interface ReceivedGap {
  readonly after: number
  readonly resumedAt: number
  readonly reason: string
}

export class ClientModel {
  readonly index: number
  sessionId: string | undefined
  /** When it received its first welcome. */
  openedAt = Infinity
  /** When it first requested a stream. */
  openingAt = Infinity
  /** When it requested its stream last. */
  connectingAt = Infinity
  isClosed = false
  /** Whether it has disconnected for good, so that its session expires. */
  isAbandoned = false
  /** When it has disconnected for good. */
  abandonedAt = Infinity
  /** Since when it has no stream, in virtual milliseconds; `Infinity` while it has one. */
  offlineSince = Infinity
  /** Whether it has lost its session. */
  isLost = false
  /** The calls that close its session. All have the same reason. */
  readonly closes: Close[] = []
  readonly received: SentEvent[] = []
  readonly gaps: ReceivedGap[] = []
  readonly memberships: Membership[] = []
  readonly updates: Update[] = []
  lastPosition = 0

  constructor (index: number) {
    this.index = index
  }

  /** The first call that closes its session. */
  get close (): Close | undefined {
    return this.closes[0]
  }
}

/** A process detects that a stream is lost at most this long before its client, in milliseconds. */
const MAX_DETECTION_TIME = 300
/** The reason with which sessions are closed. */
export const CLOSE_REASON = 'done'

/** A call of a hook of the app. */
interface HookCall {
  readonly process: string
  readonly startedAt: number
  endedAt: number
}

interface CloseHook extends HookCall {
  readonly reason: string
  /** For how long the client had no stream then, in virtual milliseconds. */
  readonly offlineFor: number
}

interface MembershipHook extends HookCall {
  readonly kind: 'join' | 'leave'
  readonly channel: string
}

export interface HandlerRun {
  readonly name: string
  readonly message: MessageModel
  readonly process: string
  readonly startedAt: number
  endedAt: number
}

export interface MessageModel {
  readonly n: number
  readonly client: ClientModel
  readonly key: string | undefined
  /** Messages of one batch have the same number. */
  readonly batch: number
  /** Milliseconds that its handler runs. */
  readonly duration: number
  /** Milliseconds that the validators and hooks before the handler take. */
  readonly checks: number
  /** Whether the first call of its handler fails because the store is unavailable, so that the message is refused. */
  isRefused: boolean
  readonly runs: HandlerRun[]
  /** The names of handler runs in the responses. */
  readonly responses: string[]
  firstSentAt: number
  /** When the first response arrived. */
  respondedAt: number
  /** When the client got a response or gave up. */
  resolvedAt: number
}

interface Failure {
  readonly process: string
  readonly from: number
  readonly to: number
}

export interface Violation {
  /** A short name of the invariant. */
  readonly kind: string
  readonly text: string
}

/** Records what the participants do and receive, and checks the guarantees. Its times are observations: numbers that increase with each event that is recorded. */
export class Model {
  readonly violations: Violation[] = []
  readonly clients: ClientModel[] = []
  readonly events: SentEvent[] = []
  readonly requests: RequestModel[] = []
  readonly messages: MessageModel[] = []
  readonly handlerRuns: HandlerRun[] = []
  /** The calls of the hook `onClose` by session id. */
  readonly #closeHooks = new Map<string, CloseHook[]>()
  /** The calls of the hooks `onJoin` and `onLeave` by session id. */
  readonly #membershipHooks = new Map<string, MembershipHook[]>()
  /** The number of calls of the hook `onGap` by session id. */
  readonly #gapHooks = new Map<string, number>()
  /** When a process was dead, or could be treated as dead. */
  readonly #failures: Failure[] = []
  /** How many entries a log keeps. */
  readonly #maxEntries: number
  /** Milliseconds after which a session expires during the faults; `Infinity` if all sessions survive them. */
  readonly #resumeTimeout: number
  readonly #clock: (() => number) | undefined
  #observations = 0

  /** `maxEntries` is how many entries a log keeps; `Infinity` if it is large enough for everything. `clock` returns numbers that increase. Default: a counter. `resumeTimeout` is given if sessions may expire. */
  constructor (maxEntries: number, clock?: () => number, resumeTimeout = Infinity) {
    this.#maxEntries = maxEntries
    this.#resumeTimeout = resumeTimeout
    this.#clock = clock
  }

  addClient (index: number): ClientModel {
    const client = new ClientModel(index)
    this.clients.push(client)
    return client
  }

  addMessage (client: ClientModel, hasKey: boolean, batch: number, duration: number, isRefused = false, checks = 0): MessageModel {
    const n = this.messages.length
    const message: MessageModel = { n, client, key: hasKey ? `key ${n}` : undefined, batch, duration, checks, isRefused, runs: [], responses: [], firstSentAt: Infinity, respondedAt: Infinity, resolvedAt: Infinity }
    this.messages.push(message)
    return message
  }

  fail (kind: string, text: string): void {
    this.violations.push({ kind, text })
  }

  expectUnavailable (error: unknown, what: string): void {
    const { code } = error as { code?: string }
    if (code !== 'FST_SSE_STORE_UNAVAILABLE' && code !== 'FST_SSE_CLOSING') this.fail('error', `${what} rejected with ${String((error as Error).stack)}`)
  }

  /** Returns the number of an observation. Later ones have higher numbers. */
  observe (): number {
    return this.#clock?.() ?? ++this.#observations
  }

  /** Records a call from its start to its outcome. */
  record<T extends object> (properties: T, call: Promise<unknown>, what: string): T & Call {
    const record = { ...properties, startedAt: this.observe(), settledAt: Infinity, outcome: 'pending' as Outcome }
    call.then(() => { record.outcome = 'confirmed' }, (error: unknown) => {
      const { code } = error as { code?: string }
      if (code === 'FST_SSE_SESSION_OVER' || code === 'SESSION_MISSING') record.outcome = 'refused'
      else {
        this.expectUnavailable(error, what)
        record.outcome = 'unknown'
      }
    }).finally(() => { record.settledAt = this.observe() })
    return record
  }

  /** A process sends a request to a client. It must end with the answer of the client, or with an error that a fault explains. */
  sendRequest (client: ClientModel, process: RequestModel['process'], send: (n: number) => Promise<unknown>): void {
    const n = this.requests.length
    const request: RequestModel = { n, client, process, handled: 0, isSettled: false }
    this.requests.push(request)
    send(n).then(answer => {
      if (answer !== createAnswer(n) || request.handled !== 1) this.fail('request', `request ${n} was handled ${request.handled} times, and got ${String(answer)}`)
    }, (error: unknown) => {
      const { code } = error as { code?: string }
      const isExpected = code === 'FST_SSE_SESSION_OVER' || code === 'SESSION_MISSING' ? this.#canBeClosed(client) : code === 'FST_SSE_REQUEST_TIMEOUT' && this.#maxEntries < Infinity
      if (!isExpected) this.expectUnavailable(error, `request ${n}`)
    }).finally(() => { request.isSettled = true })
  }

  onRequest (client: ClientModel, n: number, position = 0): void {
    this.observe()
    const request = this.requests[n]
    if (request === undefined || request.client !== client || ++request.handled > 1) this.fail('request', `client ${client.index} received request ${n}, ${request?.handled} times so far`)
    if (client.isClosed) this.fail('after-close', `client ${client.index} received request ${n} after close`)
    if (position <= client.lastPosition) this.fail('position', `client ${client.index} received request ${n} at ${position} after ${client.lastPosition}`)
    client.lastPosition = position
  }

  /** The others may have treated a process as dead between two observations. */
  onFailure (process: string, from: number, to: number): void {
    this.#failures.push({ process, from, to })
  }

  onOpening (client: ClientModel): void {
    client.openingAt = Math.min(client.openingAt, this.observe())
  }

  onAbandon (client: ClientModel): void {
    client.isAbandoned = true
    client.abandonedAt = this.observe()
  }

  onConnect (client: ClientModel): void {
    client.connectingAt = this.observe()
  }

  onWelcome (client: ClientModel, sessionId: string, isUnknown: boolean): void {
    if (client.sessionId === undefined) {
      client.sessionId = sessionId
      client.openedAt = this.observe()
    } else if (isUnknown || client.sessionId !== sessionId) {
      client.isLost = true
      if (!this.#canBeClosed(client)) this.fail('session-lost', `client ${client.index} got another session`)
    }
  }

  onReplaced (client: ClientModel): void {
    this.fail('replaced', `client ${client.index} has one stream, and it was replaced`)
  }

  onEvent (client: ClientModel, name: string, data: Record<string, unknown>, position: number | undefined): void {
    this.observe()
    if (client.isLost || name === 'replaced') return
    const who = `client ${client.index}`
    if (name === 'close') {
      client.isClosed = true
      if (data.reason === 'expired' && this.#resumeTimeout < Infinity) client.isLost = true
      else if (client.close === undefined) this.fail('closed', `${who} received close ${JSON.stringify(data)}, but nobody has closed its session`)
      return
    }
    if (client.isClosed) this.fail('after-close', `${who} received ${name} after close`)
    if (name === 'gap') {
      client.gaps.push(data as unknown as ReceivedGap)
      if (!this.#canLogsDrop(client)) this.fail('false-gap', `${who} received a gap ${JSON.stringify(data)}, but no log was full`)
      return
    }
    const event = this.events[Number(data.n)]
    if (event === undefined) {
      this.fail('unknown-event', `${who} received ${JSON.stringify(data)}`)
      return
    }
    if (position !== undefined) {
      if (position <= client.lastPosition) this.fail('position', `${who} received ${event.n} at ${position} after ${client.lastPosition}`)
      client.lastPosition = position
      if (event.position !== undefined && event.position !== position) this.fail('position', `event ${event.n} has the positions ${event.position} and ${position}`)
      event.position = position
    }
    if (client.received.includes(event)) this.fail('duplicate', `${who} received ${event.n} twice`)
    const replacement = this.#findReplacements(event).find(other => other.startedAt > event.settledAt && other.settledAt < client.connectingAt && this.isFor(other, client) === 'yes')
    if (replacement !== undefined) this.fail('replaced-event', `${who} received ${describeEvent(event)} over a connection that it requested after ${describeEvent(replacement)} was confirmed`)
    client.received.push(event)
  }

  onAttempt (message: MessageModel): void {
    if (message.firstSentAt === Infinity) message.firstSentAt = this.observe()
  }

  /** Records the response to a message from a process; `undefined` if there is none. Returns whether the client should repeat the message. */
  onAttemptEnd (message: MessageModel, process: string, result: PromiseSettledResult<string> | undefined): boolean {
    const { client } = message
    const at = this.observe()
    if (result?.status === 'fulfilled') {
      message.responses.push(result.value)
      message.respondedAt = Math.min(message.respondedAt, at)
      message.resolvedAt = Math.min(message.resolvedAt, at)
      return false
    }
    if (result !== undefined) {
      const { code } = result.reason as { code?: string }
      if (code === 'FST_SSE_SESSION_UNKNOWN' || code === 'FST_SSE_SESSION_OVER') {
        if (!this.#canBeClosed(client)) this.fail('session-lost', `${process} rejected message ${message.n} of client ${client.index} with ${code}`)
        message.resolvedAt = at
        return false
      }
      if (code !== 'FST_SSE_TOO_MANY_WAITING') this.expectUnavailable(result.reason, `message ${message.n}`)
    }
    if (message.key !== undefined && message.resolvedAt === Infinity) return true
    // Without a key, a message is not repeated.
    message.resolvedAt = Math.min(message.resolvedAt, at)
    return false
  }

  onHandlerStart (message: MessageModel, process: string): HandlerRun {
    const run: HandlerRun = { name: `${message.n}.${message.runs.length}`, message, process, startedAt: this.observe(), endedAt: Infinity }
    message.runs.push(run)
    this.handlerRuns.push(run)
    return run
  }

  onHandlerEnd (run: HandlerRun): void {
    run.endedAt = this.observe()
  }

  /** `time` is the virtual time. Returns the function to call when the hook ends. */
  onClose (sessionId: string, reason: string, process: string, time: number): () => void {
    const calls = this.#closeHooks.get(sessionId) ?? []
    const offlineFor = time - (this.clients.find(client => client.sessionId === sessionId)?.offlineSince ?? 0)
    const call: CloseHook = { reason, offlineFor, process, startedAt: this.observe(), endedAt: Infinity }
    calls.push(call)
    this.#closeHooks.set(sessionId, calls)
    return () => { call.endedAt = this.observe() }
  }

  onDisconnect (sessionId: string, process: string): void {
    const at = this.observe()
    const close = this.#closeHooks.get(sessionId)?.find(call => call.process === process)
    if (close !== undefined) this.fail('disconnect-hook', `onDisconnect of ${sessionId} ran on ${process} at ${at}, after onClose at ${close.startedAt}`)
  }

  onGap (sessionId: string): void {
    this.observe()
    this.#gapHooks.set(sessionId, (this.#gapHooks.get(sessionId) ?? 0) + 1)
  }

  /** Returns the function to call when the hook ends. */
  onMembership (kind: 'join' | 'leave', sessionId: string, channel: string, process: string): () => void {
    const calls = this.#membershipHooks.get(sessionId) ?? []
    const call: MembershipHook = { kind, channel, process, startedAt: this.observe(), endedAt: Infinity }
    calls.push(call)
    this.#membershipHooks.set(sessionId, calls)
    return () => { call.endedAt = this.observe() }
  }

  /** Whether a client must (`yes`), may or must not receive an event. */
  isFor (event: SentEvent, client: ClientModel): 'yes' | 'maybe' | 'no' {
    if (event.except === client) return 'no'
    if (event.kind === 'session' && event.client !== client) return 'no'
    if (event.settledAt < client.openingAt) return 'no'
    const { close } = client
    if (close?.outcome === 'confirmed' && close.settledAt < event.startedAt) return 'no'
    const member = event.kind === 'channel' ? this.#isMember(event, client) : 'yes'
    if (member === 'no') return 'no'
    if (event.outcome !== 'confirmed' || event.startedAt < client.openedAt || (close !== undefined && close.startedAt < event.settledAt)) return 'maybe'
    return member
  }

  #isMember ({ channel, startedAt, settledAt }: Pick<SentEvent, 'channel' | 'startedAt' | 'settledAt'>, { memberships }: Pick<ClientModel, 'memberships'>): 'yes' | 'maybe' | 'no' {
    const calls = memberships.filter(call => call.channel === channel && call.startedAt < settledAt)
    const last = calls.at(-1)
    if (last === undefined) return 'no'
    const isLastKnown = last.outcome === 'confirmed' && last.settledAt < startedAt && calls.every(call => call === last || call.settledAt < last.startedAt)
    return !isLastKnown ? 'maybe' : last.kind === 'join' ? 'yes' : 'no'
  }

  /** Whether a client has received everything that it must receive, or a gap for it. */
  hasReceivedAll (client: ClientModel): boolean {
    return this.#findMissing(client).length === 0
  }

  /** Compares what a node finds of an open session with the confirmed calls. */
  checkState (client: ClientModel, process: string, data: object, channels: readonly string[]): void {
    if (this.#isExpired(client)) return
    const who = `${process} has of client ${client.index}`
    const missing = client.updates.filter(({ outcome, property }) => outcome === 'confirmed' && !(property in data))
    if (missing.length > 0) this.fail('data', `${who} the data ${JSON.stringify(data)}, without ${missing.map(({ property }) => property).join(', ')}`)
    for (const channel of new Set(client.memberships.map(call => call.channel))) {
      const now = this.observe()
      const expected = this.#isMember({ channel, startedAt: now, settledAt: now }, client)
      if (expected !== 'maybe' && (expected === 'yes') !== channels.includes(channel)) this.fail('channels', `${who} the channels ${channels.join(', ')}; is it in ${channel}: ${expected}`)
    }
  }

  /** Compares the members of a channel that a node finds with the confirmed calls. `startedAt` is the observation at which it began to search. */
  checkMembers (process: string, channel: string, sessionIds: readonly string[], count: number, startedAt: number): void {
    const settledAt = this.observe()
    let isKnown = true
    for (const client of this.clients) {
      const { close } = client
      const isClosing = close !== undefined && !(close.outcome === 'confirmed' && close.settledAt < startedAt)
      if (isClosing || client.isAbandoned || this.#resumeTimeout < Infinity) isKnown = false
      if (client.sessionId === undefined || client.isLost || client.isAbandoned || close !== undefined || this.#isExpired(client)) continue
      const expected = this.#isMember({ channel, startedAt, settledAt }, client)
      if (expected === 'maybe') isKnown = false
      else if ((expected === 'yes') !== sessionIds.includes(client.sessionId)) this.fail('members', `${process} lists of ${channel} ${sessionIds.join(', ')}; is client ${client.index} (${client.sessionId}) in it: ${expected}`)
    }
    // A member whose state is not known may join or leave between the two calls.
    if (isKnown && count !== sessionIds.length) this.fail('members', `${process} counts ${count} members of ${channel}, but lists ${sessionIds.join(', ')}`)
  }

  /** Whether the session of a client has expired, which its client may find out only later. */
  #isExpired ({ sessionId = '' }: ClientModel): boolean {
    return this.#resumeTimeout < Infinity && this.#closeHooks.get(sessionId)?.some(({ reason }) => reason === 'expired') === true
  }

  /** Checks all guarantees that can be checked only at the end. */
  check (): void {
    for (const client of this.clients) this.#checkEvents(client)
    for (const client of this.clients) this.#checkRuns(client)
    for (const message of this.messages) this.#checkMessage(message)
    for (const client of this.clients) this.#checkClose(client)
    for (const client of this.clients) this.#checkMembershipHooks(client)
    for (const client of this.clients) this.#checkGapHooks(client)
  }

  /** Whether the session of a client may be closed. */
  #canBeClosed (client: ClientModel): boolean {
    return client.close !== undefined || client.isAbandoned || client.isLost || this.#resumeTimeout < Infinity
  }

  #findMissing (client: ClientModel): SentEvent[] {
    if (client.isLost || client.isAbandoned) return []
    const received = new Set(client.received)
    const isCovered = (event: SentEvent): boolean => received.has(event) || client.gaps.some(gap => this.#canCover(gap, event))
    return this.events.filter(event => this.isFor(event, client) === 'yes' && !isCovered(event) &&
      // A send that rejects because the session is closed may have been executed before that, if its first reply was lost.
      !this.#findReplacements(event).some(other => isCovered(other) || (other.outcome !== 'refused' && !this.#mustReceive(other, client))))
  }

  /** Returns the events that can have replaced an event. */
  #findReplacements (event: SentEvent): SentEvent[] {
    const { key, kind, channel, client, except, startedAt, position = 0 } = event
    if (key === undefined) return []
    return this.events.filter(other => other !== event && other.key === key && other.kind === kind && other.channel === channel && other.client === client &&
      other.except === except && other.settledAt > startedAt && (other.position ?? Infinity) > position)
  }

  /** Whether a client must receive an event that was sent after it opened its session, if the event was appended to its log. */
  #mustReceive (event: SentEvent, client: ClientModel): boolean {
    if (client.close !== undefined && client.close.startedAt < event.settledAt) return false
    return event.kind !== 'channel' || this.#isMember(event, client) === 'yes'
  }

  /** Whether a log of which a client receives events can have had more entries than it keeps. */
  #canLogsDrop (client: ClientModel): boolean {
    const counts = new Map<string, Set<unknown>>()
    const add = (log: string, entry: unknown): void => { counts.set(log, (counts.get(log) ?? new Set()).add(entry)) }
    for (const event of this.events) {
      if (event.kind === 'session' && event.client !== client) continue
      // Of the events with one key, the log keeps one.
      add(`${event.kind} ${event.channel}`, event.key === undefined ? event : `${event.key} ${event.except?.index}`)
    }
    for (const request of this.requests) if (request.client === client) add('session ', request)
    return Array.from(counts.values()).some(({ size }) => size > this.#maxEntries)
  }

  /** Whether an event can be in a gap: no event with a known position shows that it is before or after it. */
  #canCover ({ after, resumedAt }: ReceivedGap, event: SentEvent): boolean {
    return !this.events.some(({ position, startedAt, settledAt }) => position !== undefined &&
      ((position <= after && event.settledAt < startedAt) || (position >= resumedAt && event.startedAt > settledAt)))
  }

  #checkEvents (client: ClientModel): void {
    if (client.isLost) return
    for (const event of this.#findMissing(client)) this.fail('event-lost', `client ${client.index} has not received ${describeEvent(event)}`)
    let latest: SentEvent | undefined
    for (const event of client.received) {
      if (this.isFor(event, client) === 'no') this.fail('not-for-it', `client ${client.index} received ${describeEvent(event)}`)
      if (latest !== undefined && event.settledAt < latest.startedAt) this.fail('event-order', `client ${client.index} received ${describeEvent(event)} after ${describeEvent(latest)}`)
      if (latest === undefined || event.startedAt > latest.startedAt) latest = event
    }
  }

  /** Handlers of one session run one at a time, and in the order of the messages. */
  #checkRuns (client: ClientModel): void {
    const runs = this.handlerRuns.filter(({ message }) => message.client === client)
    let previous: HandlerRun | undefined
    for (const run of runs) {
      if (previous !== undefined && previous.endedAt > run.startedAt && !this.hasFailed(previous.process, previous.startedAt, run.startedAt)) {
        this.fail('handler-overlap', `${describeRun(run)} started while ${describeRun(previous)} ran`)
      }
      previous = run
    }
    for (const [index, run] of runs.entries()) {
      if (run.message.runs[0] !== run) continue
      const late = runs.slice(0, index).find(({ message }) => message.firstSentAt > run.message.respondedAt)
      if (late !== undefined) this.fail('handler-order', `${describeRun(late)} ran before ${describeRun(run)}`)
      // A batch stops at a message that is refused, and its client repeats all of them in the same order.
      const skipped = this.messages.find(({ n, batch, runs: [first] }) => batch === run.message.batch && n < run.message.n && (first === undefined || first.startedAt > run.startedAt))
      if (skipped !== undefined) this.fail('batch-order', `${describeRun(run)} started before message ${skipped.n} of the same batch`)
    }
  }

  #checkMessage ({ n, client, key, runs, responses, resolvedAt }: MessageModel): void {
    if (client.close === undefined && !client.isLost && !client.isAbandoned && resolvedAt === Infinity) this.fail('stuck', `message ${n} of client ${client.index} has no response`)
    let isRepeatAllowed = false
    for (const [index, run] of runs.entries()) {
      const previous = runs[index - 1]
      if (previous === undefined) continue
      if (this.hasFailed(previous.process, previous.startedAt, run.startedAt)) isRepeatAllowed = true
      else this.fail('handled-twice', `message ${n} of client ${client.index}, ${key === undefined ? 'without a key' : `key ${key}`}: ${describeRun(previous)}, ${describeRun(run)}`)
    }
    if (new Set(responses).size > 1 && !isRepeatAllowed) this.fail('responses', `message ${n} got the responses of the runs ${responses.join(', ')}`)
    for (const response of responses) if (!runs.some(({ name }) => name === response)) this.fail('responses', `message ${n} got the response of run ${response}, which is not its own`)
  }

  /** Exactly one process runs `onClose`, within the call that closes the session, unless a process fails meanwhile. */
  #checkClose ({ index, sessionId, closes, isAbandoned, isLost }: ClientModel): void {
    const calls = this.#closeHooks.get(sessionId ?? '') ?? []
    const fail = (why: string): void => {
      this.fail('close-hook', `onClose of client ${index} ran ${calls.length} times: ${calls.map(({ reason, process }) => `${reason} on ${process}`).join(', ')}; ${why}`)
    }
    if (calls.length > 1 && !calls.slice(0, -1).every(({ process, startedAt }) => this.hasFailed(process, startedAt, Infinity))) fail('no process has failed')
    for (const { reason, offlineFor, process, startedAt, endedAt } of calls) {
      if (reason === 'expired') {
        if (!isAbandoned && this.#resumeTimeout === Infinity) fail('its session was not to expire')
        // The others treat the streams of a process that has failed as lost, also if the client still has one.
        if (offlineFor < this.#resumeTimeout - MAX_DETECTION_TIME && this.#resumeTimeout < Infinity && this.#failures.length === 0) fail(`its client had no stream for ${offlineFor} ms`)
        continue
      }
      if (reason !== CLOSE_REASON || !closes.some(call => isDuring({ process, startedAt, endedAt }, call))) fail(`nobody has closed its session on ${process} with the reason ${reason}`)
    }
    if (calls.length > 0) return
    if (closes.length === 0) {
      if (isAbandoned || isLost) fail('its session has expired')
      return
    }
    const isExplained = closes.some(({ outcome, process, startedAt, settledAt }) => outcome === 'pending' || this.hasFailed(process, startedAt, settledAt))
    if (!isExplained) fail('its session was closed')
  }

  /**
   * `onJoin` and `onLeave` run within the calls that have changed the channels. When the session is closed, `onLeave` runs for each
   * channel that it is in, in the process of `onClose` and before it.
   */
  #checkMembershipHooks ({ index, sessionId = '', memberships, isLost, close, isAbandoned, abandonedAt }: ClientModel): void {
    if (isLost || (close === undefined && !isAbandoned)) return
    const hooks = this.#membershipHooks.get(sessionId) ?? []
    const closeHooks = this.#closeHooks.get(sessionId) ?? []
    const isCaused = (hook: MembershipHook, isConfirmed = false): boolean => memberships.some(call => call.kind === hook.kind && call.channel === hook.channel && (!isConfirmed || call.outcome === 'confirmed') && isDuring(hook, call))
    const describe = ({ kind, channel, process, startedAt, endedAt }: MembershipHook): string => `${kind} ${channel} on ${process} from ${startedAt} to ${endedAt}`
    for (const hook of hooks) {
      const isBeforeClose = ({ process, startedAt }: CloseHook): boolean => process === hook.process && startedAt > hook.endedAt
      // If the process of a close fails between the hooks, `onClose` runs in another one.
      if (isCaused(hook) || (hook.kind === 'leave' && (closeHooks.some(isBeforeClose) || this.hasFailed(hook.process, hook.startedAt, Infinity)))) continue
      this.fail('membership-hooks', `client ${index}: ${describe(hook)} belongs to no call, and to no onClose: ${closeHooks.map(({ process, startedAt }) => `on ${process} at ${startedAt}`).join(', ')}`)
    }
    const closedAt = Math.min(close?.startedAt ?? Infinity, abandonedAt)
    for (const channel of new Set(memberships.map(call => call.channel))) {
      for (const { process, startedAt } of closeHooks) {
        // A session can expire although its client still tries to reconnect.
        const expected = this.#isMember({ channel, startedAt: Math.min(closedAt, startedAt), settledAt: startedAt }, { memberships })
        const leaves = hooks.filter(hook => hook.kind === 'leave' && hook.channel === channel && hook.process === process && hook.endedAt < startedAt && !isCaused(hook, true))
        const allowedCounts = expected === 'yes' ? [1] : expected === 'no' ? [0] : [0, 1]
        // Those during a call that has rejected may have been caused by it or by the close.
        const maxCount = leaves.length
        const minCount = leaves.filter(hook => !isCaused(hook)).length
        if (!allowedCounts.some(count => count >= minCount && count <= maxCount)) this.fail('membership-hooks', `client ${index}: before onClose on ${process} at ${startedAt}, onLeave ran ${minCount === maxCount ? maxCount : `${minCount} to ${maxCount}`} times for ${channel}; was it a member: ${expected}`)
      }
      const calls = memberships.filter(call => call.channel === channel)
      if (closeHooks.length !== 1 || calls.some(({ outcome }) => outcome !== 'confirmed' && outcome !== 'refused')) continue
      const count = (kind: string): number => hooks.filter(hook => hook.kind === kind && hook.channel === channel).length
      const [joins, leaves, joinCalls] = [count('join'), count('leave'), calls.filter(({ kind, outcome }) => kind === 'join' && outcome === 'confirmed').length]
      if (joins !== leaves || joins > joinCalls || (joins === 0 && joinCalls > 0)) this.fail('membership-hooks', `client ${index} has joined ${channel} with ${joinCalls} calls; onJoin ran ${joins} times, onLeave ${leaves} times`)
    }
  }

  /** `onGap` runs for every gap that a client has received. The stream may have written more, over connections that broke. */
  #checkGapHooks ({ index, sessionId = '', gaps }: ClientModel): void {
    const count = this.#gapHooks.get(sessionId) ?? 0
    if (count < gaps.length) this.fail('gap-hook', `client ${index} received ${gaps.length} gaps; onGap ran ${count} times`)
  }

  /** Whether a process was dead, or could be treated as dead, between two observations. */
  hasFailed (process: string, from: number, to: number): boolean {
    return this.#failures.some(failure => failure.process === process && failure.from <= to && failure.to >= from)
  }
}

const describeEvent = ({ n, kind, channel, client, except, key, outcome }: SentEvent): string =>
  `event ${n} (${outcome}, to ${kind === 'session' ? `client ${client?.index}` : kind === 'channel' ? `channel ${channel}` : 'all'}${except === undefined ? '' : `, not to client ${except.index}`}${key === undefined ? '' : `, latest ${key}`})`

/** Whether a hook ran within a call, in the same process. If the call has rejected, the hook may end later. */
const isDuring = (hook: HookCall, { process, outcome, startedAt, settledAt }: Close): boolean =>
  process === hook.process && startedAt < hook.startedAt && (outcome !== 'confirmed' || hook.endedAt < settledAt)

const describeRun = ({ name, process }: HandlerRun): string => `run ${name} on ${process}`

/** The answer of a client to a request. */
export const createAnswer = (n: number): string => `answer ${n}`
