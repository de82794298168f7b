import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { createParser } from 'eventsource-parser'
import { SessionUnknown, StoreUnavailable } from '../../../lib/errors.js'
import type { QueuedMessage, Session, Sessions, SseSessionsOptions, StoredResponse } from '../../../lib/index.js'
import { resolveOptions } from '../../../lib/options.js'
import { redisStore, type RedisClient } from '../../../lib/redis.js'
import { kInternals } from '../../../lib/sessions/session.js'
import { createSessions } from '../../../lib/sessions/sessions.js'
import type { Sink, SinkListener } from '../../../lib/stream/response-sink.js'
import { parseEventId } from '../../../lib/wire/event-id.js'
import type { ClientModel, MessageModel, Model } from './model.js'
import { createAnswer } from './model.js'
import type { Network } from './network.js'
import { SimulatedProcess, type Scheduler } from './scheduler.js'

const logger = Fastify({ logger: false }).log
const ignore = (): void => {}

/** Ends a hook after a tick of the event loop, so that a next hook that does not wait for it is detected. Takes no virtual time. */
async function runHook (onEnd: () => void): Promise<void> {
  await new Promise(resolve => { setImmediate(resolve) })
  onEnd()
}

export interface ClusterOptions {
  readonly lease: number
  readonly libraries: ReadonlyArray<'ioredis' | 'redis'>
  readonly plugin: SseSessionsOptions
}

export interface ClusterContext {
  readonly scheduler: Scheduler
  readonly network: Network
  readonly model: Model
  readonly options: ClusterOptions
  readonly nodes: Node[]
  /** A random number from 0 to 1. */
  readonly random: () => number
}

/** A node of the cluster: the registry of sessions of one simulated process, and what the routes do. */
export class Node {
  readonly index: number
  process: SimulatedProcess
  sessions: Sessions | undefined
  isClosing = false
  /** When it crashed last, or closed without Redis, in virtual milliseconds. The others remove it when its lease has ended. */
  crashedAt = -Infinity
  /** When data of Redis arrived last, in virtual milliseconds. */
  #lastReplyAt = 0
  /** The number of the observation at that time. */
  #lastReply = 0
  readonly #context: ClusterContext
  #disconnect = ignore
  #generation = 0

  constructor (context: ClusterContext, index: number) {
    this.#context = context
    this.index = index
    this.process = new SimulatedProcess(`node-${index}`)
  }

  /** Whether it accepts requests. */
  get isLive (): boolean {
    return this.process.isAlive && this.sessions !== undefined && !this.isClosing
  }

  /** Starts a process. Returns false, because the node is not live yet, so that a condition can start it. */
  start (): boolean {
    const { scheduler, options, model } = this.#context
    const process = this.process = new SimulatedProcess(`node-${this.index}${'\''.repeat(this.#generation++)}`)
    this.isClosing = false
    this.sessions = undefined
    this.#lastReplyAt = scheduler.time
    this.#lastReply = model.observe()
    scheduler.schedule(0, process, () => {
      const client = this.#connect()
      createSessions(resolveOptions({ heartbeatInterval: false, ...options.plugin, store: redisStore({ client, lease: options.lease }) }, 0), logger).then(sessions => {
        scheduler.log('has started')
        this.sessions = sessions
          .addHook('onClose', (session, reason) => runHook(model.onClose(session.id, reason, process.name, scheduler.time)))
          .addHook('onDisconnect', session => { model.onDisconnect(session.id, process.name) })
          .addHook('onGap', session => { model.onGap(session.id) })
          .addHook('onJoin', (session, channel) => runHook(model.onMembership('join', session.id, channel.name, process.name)))
          .addHook('onLeave', (session, channel) => runHook(model.onMembership('leave', session.id, channel.name, process.name)))
      }, (error: unknown) => {
        scheduler.log(`has not started: ${String(error)}`)
        // A supervisor starts the process again.
        this.crash()
        scheduler.schedule(100, scheduler.driver, () => { if (this.process === process) this.start() })
      })
    })
    return false
  }

  onReply (): void {
    const { scheduler, model } = this.#context
    this.checkSilence()
    this.#lastReplyAt = scheduler.time
    this.#lastReply = model.observe()
  }

  /** Records a failure if Redis has been silent for so long that the other nodes can have treated this one as dead. */
  checkSilence (): void {
    const { scheduler, model, options } = this.#context
    if (scheduler.time - this.#lastReplyAt > options.lease / 2) model.onFailure(this.process.name, this.#lastReply, this.process.isAlive ? model.observe() : Infinity)
  }

  crash (): void {
    const { scheduler, network, model } = this.#context
    scheduler.log(`${this.process.name} crashes`)
    this.process.isAlive = false
    this.crashedAt = scheduler.time
    network.remove(this.process)
    model.onFailure(this.process.name, model.observe(), Infinity)
  }

  /** Closes the node gracefully. */
  close (): void {
    const { sessions, process } = this
    if (sessions === undefined || this.isClosing) return
    const { scheduler, network, model } = this.#context
    this.isClosing = true
    scheduler.schedule(0, process, () => {
      scheduler.log('closes')
      sessions.close().then(() => {
        scheduler.log('has closed')
        // With Redis, it has just received the reply to its last command. Without, others have to treat it as dead.
        if (scheduler.time - this.#lastReplyAt > 10) {
          this.crashedAt = scheduler.time
          model.onFailure(process.name, this.#lastReply, Infinity)
        }
        this.#disconnect()
        process.isAlive = false
        network.remove(process)
      }, (error: unknown) => { model.fail('rejection', `close() rejected with ${String(error)}`) })
    })
  }

  /** Responds to a GET, as the route does. */
  async openStream (sink: ResponseSink, sessionId: string | undefined, position: number | undefined): Promise<void> {
    const { sessions } = this
    const requestedAt = performance.now()
    const retry = (): void => { sink.end('') }
    if (sessions === undefined || this.isClosing) {
      retry()
      return
    }
    try {
      const existing = sessionId === undefined ? undefined : await sessions.findForResume(sessionId, undefined)
      if (sink.closed) return
      let session = existing
      if (session === undefined) {
        session = await sessions.open(undefined)
        if (session === undefined) {
          retry()
          return
        }
      } else session[kInternals].retainForResume()
      const cursor = position ?? session[kInternals].cursor
      const release = (): void => {
        if (existing === undefined) sessions.discard(session, 'aborted')
        else session[kInternals].releaseAborted()
      }
      let newestPosition: number | undefined
      try {
        if (!sink.closed) newestPosition = await sessions.acquireStream(session, cursor, requestedAt)
      } finally {
        if (sink.closed) release()
        else sink.listener = { onDrain: ignore, onClose: release }
      }
      if (sink.closed) return
      if (newestPosition === undefined) {
        retry()
        return
      }
      if (this.isClosing) {
        retry()
        if (existing === undefined) session.close('shutdown').catch(ignore)
        return
      }
      const welcome = JSON.stringify({ sessionId: session.id, resumed: existing !== undefined, isUnknown: sessionId !== undefined && existing === undefined })
      session[kInternals].setStream({ sink, cursor, newestPosition, welcome, resumed: existing !== undefined, requestedAt, logger })
    } catch (error) {
      this.#context.model.expectUnavailable(error, 'a GET')
      retry()
    }
  }

  /** Responds to a POST, as the route does: with the name of the handler run for each message. */
  async handleMessages (sessionId: string, messages: readonly MessageModel[]): Promise<Array<PromiseSettledResult<string>>> {
    const { sessions } = this
    const handle = async (): Promise<Array<Promise<string>>> => {
      if (sessions === undefined || this.isClosing) throw new StoreUnavailable()
      const session = await sessions.findCached(sessionId)
      if (session === undefined) throw new SessionUnknown()
      const queue = session[kInternals].messageQueue
      const [first, ...others] = this.#toQueuedMessages(session, messages) as [QueuedMessage, ...QueuedMessage[]]
      const results = others.length === 0 ? [queue.enqueue(first)] : await queue.enqueueAll([first, ...others])
      return results.map(async result => String((await result).response.body))
    }
    try {
      return await Promise.allSettled(await handle())
    } catch (reason) {
      return messages.map(() => ({ status: 'rejected', reason }))
    }
  }

  /** Responds to a POST with an answer. Resolves with whether the client should repeat it. */
  async handleAnswer (sessionId: string, answer: object): Promise<boolean> {
    const { sessions } = this
    try {
      if (sessions === undefined || this.isClosing) throw new StoreUnavailable()
      const session = await sessions.findCached(sessionId)
      if (session !== undefined) await sessions.runs.requests.answer(session.id, answer)
      return false
    } catch (error) {
      if ((error as { code?: string }).code === 'FST_SSE_REQUEST_UNKNOWN') return false
      this.#context.model.expectUnavailable(error, 'an answer')
      return true
    }
  }

  /** Creates the messages of one request. As in the route of batches, those after a message that has failed because of the store are refused. */
  #toQueuedMessages (session: Session, messages: readonly MessageModel[]): QueuedMessage[] {
    const { model, scheduler, options } = this.#context
    let failure: unknown
    const handle = async (message: MessageModel, assertMayStart: () => void): Promise<StoredResponse> => {
      if (failure !== undefined) throw failure
      if (session.closed) throw new SessionUnknown()
      if (message.checks > 0) await new Promise(resolve => { setTimeout(resolve, message.checks) })
      try {
        assertMayStart()
      } catch (error) {
        scheduler.log(`starts no handler for message ${message.n}`)
        throw failure = error
      }
      if (scheduler.time > this.#lastReplyAt + options.lease) model.fail('fenced-run', `${this.process.name} starts the handler of message ${message.n} without a lease`)
      if (message.isRefused) {
        message.isRefused = false
        scheduler.log(`refuses message ${message.n}`)
        throw failure = new StoreUnavailable()
      }
      const run = model.onHandlerStart(message, this.process.name)
      scheduler.log(`handles message ${message.n} (run ${run.name})`)
      await new Promise(resolve => { setTimeout(resolve, message.duration) })
      model.onHandlerEnd(run)
      return { status: 200, headers: {}, body: run.name }
    }
    return messages.map(message => ({ key: message.key, fingerprint: () => String(message.n), handle: (assertMayStart = ignore) => handle(message, assertMayStart) }))
  }

  #connect (): RedisClient {
    if (this.#context.options.libraries[this.index] === 'ioredis') {
      const client = new Redis({ disableClientInfo: true })
      client.on('error', ignore)
      this.#disconnect = () => { client.disconnect() }
      return client
    }
    const client = createClient({ disableClientInfo: true, maintNotifications: 'disabled' })
    client.on('error', ignore)
    this.#disconnect = () => { client.destroy() }
    client.connect().catch(ignore)
    return client
  }
}

/** The response to a GET, over a connection that needs time and can break. */
export class ResponseSink implements Sink {
  listener: SinkListener | undefined
  closed = false
  readonly #context: ClusterContext
  readonly #node: Node
  readonly #process: SimulatedProcess
  readonly #onText: (text: string) => void
  readonly #onEnd: () => void
  /** Whether the connection is open on the side of the client. */
  #isConnected = true
  #arrivesAt = 0

  constructor (context: ClusterContext, node: Node, onText: (text: string) => void, onEnd: () => void) {
    this.#context = context
    this.#node = node
    this.#process = node.process
    this.#onText = onText
    this.#onEnd = onEnd
  }

  write (chunk: string): boolean {
    if (this.closed) return false
    this.#send(() => { this.#onText(chunk) })
    if (this.#context.random() > 0.05) return true
    this.#context.scheduler.schedule(this.#latency() * 3, this.#process, () => { if (!this.closed) this.listener?.onDrain() })
    return false
  }

  end (chunk: string): void {
    if (this.closed) return
    if (chunk !== '') this.#send(() => { this.#onText(chunk) })
    this.destroy()
  }

  destroy (): void {
    this.#send(() => { this.#lose() })
    this.#close()
  }

  /** Breaks the connection. What was under way is lost. The node detects it after a time. */
  cut (): void {
    if (!this.#isConnected) return
    this.#lose()
    const { scheduler, random } = this.#context
    scheduler.schedule(random() < 0.8 ? this.#latency() : random() * 2000, this.#process, () => { this.#close() })
  }

  get isProcessDead (): boolean {
    return !this.#process.isAlive
  }

  get node (): Node {
    return this.#node
  }

  #lose (): void {
    if (!this.#isConnected) return
    this.#isConnected = false
    this.#onEnd()
  }

  #close (): void {
    if (this.closed) return
    this.closed = true
    process.nextTick(() => { this.listener?.onClose() })
  }

  #send (receive: () => void): void {
    const { scheduler } = this.#context
    this.#arrivesAt = Math.max(this.#arrivesAt, scheduler.time + this.#latency())
    scheduler.schedule(this.#arrivesAt - scheduler.time, scheduler.driver, () => { if (this.#isConnected) receive() })
  }

  #latency (): number {
    return 0.1 + this.#context.random() * 3
  }
}

// Longer than the store takes to reject a call.
const REQUEST_TIMEOUT = 4000

/** A client: it has one stream, reconnects, and repeats its messages until it gets a response. */
export class Client {
  readonly model: ClientModel
  /** Whether it keeps a stream. */
  isActive = true
  isConnected = false
  readonly #context: ClusterContext
  #lastEventId: { sessionId: string, position: number } | undefined
  #sink: ResponseSink | undefined

  constructor (context: ClusterContext, model: ClientModel) {
    this.#context = context
    this.model = model
  }

  get sessionId (): string | undefined {
    return this.model.sessionId
  }

  /** The node of its stream. */
  get node (): Node | undefined {
    return this.#sink?.node
  }

  /** Opens a stream on a node, or on any live node. */
  connect (node = this.chooseNode()): void {
    const { scheduler, model } = this.#context
    if (!this.isActive || this.#sink !== undefined) return
    if (node === undefined) {
      this.#reconnectLater()
      return
    }
    const parser = createParser({ onEvent: event => { if (this.#sink === sink) this.#onEvent(event) } })
    const sink: ResponseSink = new ResponseSink(this.#context, node, text => { parser.feed(text) }, () => {
      if (this.#sink === sink) this.#onDisconnect()
    })
    this.#sink = sink
    if (this.#lastEventId === undefined) model.onOpening(this.model)
    model.onConnect(this.model)
    const { sessionId, position } = this.#lastEventId ?? {}
    scheduler.log(`client ${this.model.index} connects to ${node.process.name} after ${String(position)}`)
    // Requests arrive in order, because nodes treat the one that arrives last as the newest.
    this.#arrival = Math.max(this.#arrival, scheduler.time + this.#latency())
    scheduler.schedule(this.#arrival - scheduler.time, node.process, () => { node.openStream(sink, sessionId, position) })
    scheduler.schedule(REQUEST_TIMEOUT, scheduler.driver, () => { if (this.#sink === sink && !this.isConnected) sink.cut() })
    this.#watch(sink)
  }

  /** Disconnects for good. */
  abandon (): void {
    if (!this.isActive) return
    this.isActive = false
    this.#context.model.onAbandon(this.model)
    this.#sink?.cut()
  }

  /** Loses the stream, and connects to another node after a time. */
  cut (node?: Node, ms = this.#latency()): void {
    const sink = this.#sink
    if (sink === undefined) return
    this.#nextNode = node
    this.#nextDelay = ms
    sink.cut()
  }

  /** When the last request for a stream arrives. */
  #arrival = 0
  #nextNode: Node | undefined
  #nextDelay: number | undefined

  chooseNode (): Node | undefined {
    const live = this.#context.nodes.filter(node => node.isLive)
    return live[Math.floor(this.#context.random() * live.length)]
  }

  /** Sends messages in one request, and repeats those without a response on other nodes. */
  send (messages: readonly MessageModel[], node = this.chooseNode()): void {
    const { scheduler, model, random } = this.#context
    const { sessionId } = this
    const retry = (pending: readonly MessageModel[]): void => {
      if (pending.length > 0) scheduler.schedule(50 + random() * 150, scheduler.driver, () => { this.send(pending) })
    }
    if (node === undefined) {
      retry(messages)
      return
    }
    if (sessionId === undefined) return
    const process = node.process
    for (const message of messages) model.onAttempt(message)
    let isOver = false
    const finish = (results: ReadonlyArray<PromiseSettledResult<string>>): void => {
      if (isOver) return
      isOver = true
      retry(messages.filter((message, index) => model.onAttemptEnd(message, process.name, results[index])))
    }
    const isReplyLost = random() < 0.1
    scheduler.schedule(this.#latency(), process, async () => {
      node.handleMessages(sessionId, messages).then(results => {
        if (!isReplyLost) scheduler.schedule(this.#latency(), scheduler.driver, () => { finish(results) })
      })
    })
    // The client gets no response from a process that has died or is paused.
    scheduler.schedule(isReplyLost ? 10 + random() * 300 : REQUEST_TIMEOUT, scheduler.driver, () => { finish([]) })
  }

  /** Answers a request, and repeats the answer until there is a response. */
  answer (request: string, data: string): void {
    const { scheduler, random } = this.#context
    const { sessionId } = this
    const node = this.chooseNode()
    if (!this.isActive || sessionId === undefined) return
    const retry = (): void => { scheduler.schedule(50 + random() * 150, scheduler.driver, () => { this.answer(request, data) }) }
    if (node === undefined) {
      retry()
      return
    }
    let isOver = false
    const finish = (isRepeated: boolean): void => {
      if (isOver) return
      isOver = true
      if (isRepeated) retry()
    }
    const isReplyLost = random() < 0.1
    scheduler.schedule(this.#latency(), node.process, () => {
      node.handleAnswer(sessionId, { request, data }).then(isRepeated => {
        if (!isReplyLost) scheduler.schedule(this.#latency(), scheduler.driver, () => { finish(isRepeated) })
      })
    })
    scheduler.schedule(isReplyLost ? 10 + random() * 300 : REQUEST_TIMEOUT, scheduler.driver, () => { finish(true) })
  }

  #watch (sink: ResponseSink): void {
    const { scheduler, random } = this.#context
    scheduler.schedule(20 + random() * 200, scheduler.driver, () => {
      if (this.#sink !== sink) return
      // A crash closes the connections of the process.
      if (sink.isProcessDead) sink.cut()
      else this.#watch(sink)
    })
  }

  #onEvent ({ event = 'message', id = '', data }: { event?: string | undefined, id?: string | undefined, data: string }): void {
    const { model, scheduler } = this.#context
    const parsed = JSON.parse(data) as Record<string, unknown>
    const position = parseEventId(id)?.position
    scheduler.log(`client ${this.model.index} receives ${event} ${data} at ${String(position)}`)
    if (event === 'welcome') {
      this.isConnected = true
      model.onWelcome(this.model, String(parsed.sessionId), parsed.isUnknown === true)
      // Its new session is not a part of the history.
      if (this.model.isLost) {
        this.isActive = false
        this.#sink?.cut()
        return
      }
      this.model.offlineSince = Infinity
    } else if (event === 'request') {
      const n = Number(parsed.data)
      model.onRequest(this.model, n, position)
      this.answer(String(parsed.request), createAnswer(n))
    } else model.onEvent(this.model, event, parsed, position)
    if (event === 'close' || event === 'replaced') this.isActive = false
    if (event === 'replaced') model.onReplaced(this.model)
    if (position !== undefined) this.#lastEventId = { sessionId: this.model.sessionId ?? '', position }
  }

  #onDisconnect (): void {
    this.#sink = undefined
    this.isConnected = false
    if (this.model.offlineSince === Infinity) this.model.offlineSince = this.#context.scheduler.time
    this.#reconnectLater()
  }

  #reconnectLater (): void {
    if (!this.isActive) return
    const { scheduler, random } = this.#context
    const node = this.#nextNode
    const delay = this.#nextDelay ?? 10 + random() * 100
    this.#nextNode = this.#nextDelay = undefined
    scheduler.schedule(delay, scheduler.driver, () => { this.connect(node?.isLive === true ? node : undefined) })
  }

  #latency (): number {
    return 0.1 + this.#context.random() * 2
  }
}
