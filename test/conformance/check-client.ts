import Fastify from 'fastify'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'
import sseSessions, { type Session } from '../../lib/index.js'
import { startFaultProxy, type Fault, type FaultPlan, type FaultProxy } from '../support/fault-proxy.js'
import { createRandom } from '../support/random.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { Report } from './report.js'

const COUNT = 1000
/** The maximum number of events without a response, so that no log drops one. */
const WINDOW = 200
const RETRY = 100
const HEARTBEAT = 1000
const RETRY_AFTER = 1000
const LOG_ENTRIES = 300
const BODY_LIMIT = 65_536
const OUTAGE = 4000
/** GETs and POSTs with delays that grow are attempted about 13 times in the outage, GETs alone with delays that do not grow about 26 times. */
const MAX_ATTEMPTS = 19
/** With delays that grow, a client attempts at least this often. */
const MIN_ATTEMPTS = 2
/** A client doubles its delay after each failure, so more failures in a row would only make it wait. */
const MAX_FAULTS_IN_A_ROW = 3
/** Milliseconds by which a timer of the client can be early. */
const TOLERANCE = 10
const LONG_RETRY = 600
/** Milliseconds without data that a client has to accept if no heartbeat interval applies: longer than after a welcome with one. */
const LONG_SILENCE = 4 * HEARTBEAT
/** The number in an event that the server does not complete. */
const INCOMPLETE = 99_999
/** Maximum number of characters of the client's output in a problem. */
const MAX_OUTPUT = 1000
/**
 * Milliseconds in which a client has to detect a silent stream, and reconnect: 2.5 heartbeat intervals, of which it may have spent one
 * before; at most much less than the timeouts of HTTP clients, because a busy machine makes a client late.
 */
const SILENCE = [1.5 * HEARTBEAT - TOLERANCE, 15 * HEARTBEAT] as const
/** The messages that a client sends. */
const MESSAGES = ['echo', 'missed', 'lost', 'refused']
const EVENT_STREAM = { 'Content-Type': 'text/event-stream', Connection: 'close' }
const UNKNOWN_SESSION = 'A'.repeat(24)

const R = {
  open: 'opens a session with a GET that names no session',
  lost: 'loses no event and no message, over all faults',
  duplicated: 'handles no event twice, and sends no message twice',
  ordered: 'keeps the order of events and messages',
  resume: 'sends the id of the last event that it has received completely as Last-Event-ID',
  retry: 'waits at least the latest retry time before it reconnects',
  oneGet: 'has at most one GET in progress',
  onePost: 'has at most one POST in progress',
  key: 'sends an idempotency key with each message',
  repeat: 'repeats messages with the same key and the same data',
  batch: 'sends several messages in one batch',
  silence: 'reconnects when a stream is silent for 2.5 heartbeat intervals',
  silenceAfterWelcome: 'reconnects when a stream is silent from its welcome event on',
  lateWelcome: 'waits longer than 2.5 heartbeat intervals of the previous stream for a response to a GET',
  noHeartbeats: 'does not reconnect when a stream without a heartbeat interval is silent',
  growing: 'waits longer after each failed attempt',
  getRetryAfter: 'does not repeat a GET before Retry-After',
  postRetryAfter: 'does not repeat a POST before Retry-After',
  retryDate: 'accepts a Retry-After with a date, by the clock of the server',
  storedResponse: 'accepts a stored response as final, also with the status 503',
  invalidResults: 'repeats a batch after 200 without exactly one result for each message',
  temporary: 'repeats a message after 502 with an unknown body, and after an incomplete response',
  noWelcome: 'reconnects after a stream without welcome, with the same cursor, after its retry time',
  parsing: 'parses LF, CR and CRLF, comments, unknown fields and data in several lines',
  incomplete: 'discards an event that is incomplete at the end of the stream, with its id',
  unknownEvents: 'ignores events with unknown names',
  gap: 'reports a gap to its user, with its range',
  tooLarge: 'does not repeat a message that is too large',
  afterTooLarge: 'delivers the messages before and after one that is too large, once and in order',
  lostSession: 'reports a new session to its user after 404 FST_SSE_SESSION_UNKNOWN for a message',
  uncertain: 'does not repeat messages with an unknown outcome in a new session',
  close: 'stops after close, without another GET',
  replaced: 'stops after replaced, without another GET',
  refused: 'stops after 403, without another GET',
  delete: 'closes its session with DELETE',
  failedDelete: 'does not fail when the response to its DELETE is lost',
  secret: 'sends no session id in a URL'
} as const

const createReport = (): Report => new Report([
  ['must', R.open], ['must', R.lost], ['must', R.duplicated], ['must', R.ordered], ['must', R.resume], ['must', R.retry], ['must', R.oneGet],
  ['must', R.onePost], ['must', R.key], ['must', R.repeat], ['may', R.batch], ['should', R.silence], ['should', R.silenceAfterWelcome], ['should', R.lateWelcome], ['must', R.noHeartbeats],
  ['should', R.growing], ['must', R.getRetryAfter],
  ['must', R.postRetryAfter], ['should', R.retryDate], ['should', R.storedResponse], ['must', R.invalidResults], ['must', R.temporary], ['must', R.noWelcome], ['must', R.parsing], ['must', R.incomplete],
  ['must', R.unknownEvents], ['should', R.gap], ['must', R.tooLarge], ['should', R.afterTooLarge], ['must', R.lostSession], ['must', R.uncertain],
  ['must', R.close], ['must', R.replaced], ['must', R.refused], ['should', R.delete], ['should', R.failedDelete], ['must', R.secret]
])

export interface CheckClientOptions {
  /** A shell command. `$URL` and the environment variable `URL` are the base URL. */
  readonly command: string
  readonly seed: number
  /** Milliseconds that each step may take. */
  readonly stepTimeout?: number
  /** Receives what the client prints. */
  readonly log?: (text: string) => void
}

interface StreamRecord {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly lastEventId: string | undefined
  readonly startedAt: number
  readonly connection: Connection | undefined
  /** The time in milliseconds that the client has to wait after this stream. */
  retry: number
  /** When the server has ended the stream, as of `performance.now()`. */
  endedAt?: number
}

/** What the messages of the client contain. */
interface MessageData {
  readonly n?: number
  readonly status?: number
  readonly after?: number
  readonly resumedAt?: number
  readonly reason?: string
}

type Connection = FaultProxy['connections'][number]
type Handle = (request: IncomingMessage, response: ServerResponse) => void
type Intercept = (request: IncomingMessage, response: ServerResponse, handler: Handle) => void

const pause = (ms: number): Promise<void> => new Promise(resolve => { setTimeout(resolve, ms) })

/** The data of an event. Its text has escapes in JSON, and characters of different lengths in UTF-8, which a cut can split. */
const dataOf = (n: number): { n: number, text: string } => ({ n, text: `naïve "quoted\n" 日本語 🚀 ${'.'.repeat(n % 50)}` })

class ClientExited extends Error {}

/** One process of the client, with its own server and proxy. */
class ClientRun {
  readonly streams: StreamRecord[] = []
  readonly messages: Array<{ readonly event: string, readonly data: MessageData, readonly key: string | undefined, readonly session: Session }> = []
  readonly urls: string[] = []
  readonly sessions: Session[] = []
  readonly closeReasons: string[] = []
  readonly timeout: number
  readonly random: () => number
  /** Ids of sessions that the server does not find any more. */
  readonly #lost = new Set<string>()
  readonly #closes: Array<() => unknown> = []
  serverUrl = ''
  #proxy: FaultProxy | undefined
  #process: ChildProcess | undefined
  #exited: Promise<number | null> = Promise.resolve(null)
  /** The status with which the client has exited; `null` if a signal has ended it. */
  #exitCode: number | null | undefined
  /** The end of what the client has printed. */
  #output = ''
  isCutting = false
  #faultsInARow = 0
  postsInProgress = 0
  mostPosts = 0
  replays = 0
  reused = 0
  batches = 0
  repeatedGets = 0
  /** Handles the next request with this method instead of the server. */
  interceptGet: Intercept | undefined
  interceptPost: Intercept | undefined
  interceptDelete: Intercept | undefined
  /** Runs after each message `echo`. */
  onEcho: (n: number) => unknown = () => {}

  constructor ({ seed, stepTimeout = 30_000 }: CheckClientOptions) {
    this.random = createRandom(seed)
    this.timeout = stepTimeout
  }

  get session (): Session {
    return this.sessions.at(-1) as Session
  }

  get stream (): StreamRecord {
    return this.streams.at(-1) as StreamRecord
  }

  get cuts (): number {
    return this.#proxy?.connections.filter(({ faulted }) => faulted).length ?? 0
  }

  get hasExited (): boolean {
    return this.#exitCode !== undefined
  }

  get echoes (): number[] {
    return this.messages.filter(({ event }) => event === 'echo').map(({ data }) => data.n ?? 0)
  }

  async start (t: Test, { command, log = () => {} }: CheckClientOptions): Promise<void> {
    const app = Fastify({
      bodyLimit: BODY_LIMIT,
      serverFactory: handler => createServer((request, response) => { this.#handle(request, response, handler) })
    })
    this.#closes.push(() => app.close())
    await app.register(sseSessions, { prefix: '/sessions', retry: RETRY, heartbeatInterval: HEARTBEAT, closeTimeout: 100, log: { entries: LOG_ENTRIES } })
    app.sseSessions.addHook('onOpen', session => { this.sessions.push(session) })
    app.sseSessions.addHook('onClose', (_session, reason) => { this.closeReasons.push(reason) })
    app.sseSessions.addHook('onMessage', (session, { event, data, id: key }) => {
      // A message may have no data.
      const message = { event, data: (data ?? {}) as MessageData, key, session }
      this.messages.push(message)
      if (event === 'echo') this.onEcho(message.data.n ?? 0)
      if (event === 'echo' && message.data.status !== undefined) throw Object.assign(new Error('This message fails'), { statusCode: message.data.status })
      return { received: event }
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    this.#proxy = await startFaultProxy(t, port, () => this.#planFault())
    this.#closes.push(this.#proxy.close)
    this.serverUrl = `http://127.0.0.1:${port}/sessions`
    const child = spawn(command, { shell: true, detached: true, env: { ...process.env, URL: `${this.#proxy.url}/sessions` }, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const output of [child.stdout, child.stderr]) {
      output.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-MAX_OUTPUT)
        log(text)
      })
    }
    this.#process = child
    this.#exited = once(child, 'exit').then(([code]) => code)
    // When its output is complete.
    child.once('close', code => { this.#exitCode = code })
    await this.waitUntil(() => this.sessions.length > 0, 'the first GET', 60_000)
  }

  chooseFault (): Fault {
    return this.random() < 0.5 ? 'cut' : 'reset'
  }

  /** Most connections break, at a random byte in one of the two directions. */
  #planFault (): FaultPlan | undefined {
    if (!this.isCutting || this.#faultsInARow === MAX_FAULTS_IN_A_ROW || this.random() < 0.4) {
      this.#faultsInARow = 0
      return undefined
    }
    this.#faultsInARow++
    const fault = this.chooseFault()
    const bytes = Math.floor(200 + this.random() * 6000)
    return this.random() < 0.5 ? { fault, afterBytes: bytes } : { fault, afterBytes: Infinity, afterBytesUp: Math.ceil(bytes / 4) }
  }

  #handle (request: IncomingMessage, response: ServerResponse, handler: Handle): void {
    const { method, url = '', headers } = request
    this.urls.push(url)
    if (method === 'GET') this.#recordStream(request, response)
    if (method === 'POST') this.#recordPost(response)
    for (const id of this.#lost) {
      if (headers['x-session-id'] === id) headers['x-session-id'] = UNKNOWN_SESSION
      if (headers['last-event-id']?.toString().startsWith(id) === true) headers['last-event-id'] = `${UNKNOWN_SESSION}.0`
    }
    if (method === 'GET' && this.interceptGet !== undefined) {
      const intercept = this.interceptGet
      this.interceptGet = undefined
      intercept(request, response, handler)
    } else if (method === 'POST' && this.interceptPost !== undefined) {
      const intercept = this.interceptPost
      this.interceptPost = undefined
      intercept(request, response, handler)
    } else if (method === 'DELETE' && this.interceptDelete !== undefined) {
      const intercept = this.interceptDelete
      this.interceptDelete = undefined
      intercept(request, response, handler)
    } else {
      handler(request, response)
    }
  }

  #recordStream (request: IncomingMessage, response: ServerResponse): void {
    const last = this.streams.at(-1)
    const previous = last?.connection?.client
    const connection = this.#proxy?.connections.find(({ server }) => server.localPort === request.socket.remotePort)
    // A client can keep the connection of a response that has ended.
    if (previous !== undefined && last?.response.writableEnded === false && !previous.destroyed && previous !== connection?.client) {
      // The client may have ended it in the same moment.
      setTimeout(() => { if (!previous.destroyed) this.repeatedGets++ }, 500).unref()
    }
    this.streams.push({ request, response, lastEventId: request.headers['last-event-id'] as string | undefined, startedAt: performance.now(), connection, retry: RETRY })
  }

  #recordPost (response: ServerResponse): void {
    this.mostPosts = Math.max(this.mostPosts, ++this.postsInProgress)
    response.once('close', () => { this.postsInProgress-- })
    const { end } = response
    response.end = (...args: unknown[]) => {
      const text = String(args[0])
      if (text.startsWith('[') && text.split('"received"').length > 2) this.batches++
      if (text.includes('"replayed":true') || response.getHeader('idempotent-replayed') !== undefined) this.replays++
      if (text.includes('KEY_REUSED')) this.reused++
      return Reflect.apply(end, response, args) as ServerResponse
    }
  }

  async emit (...numbers: number[]): Promise<void> {
    for (const n of numbers) await this.session.emit('echo', dataOf(n))
  }

  /** Breaks the connection of the stream. */
  breakStream (fault: Fault): void {
    this.#proxy?.breakConnection(fault, this.stream.connection)
  }

  setDown (isDown: boolean): void {
    this.#proxy?.setDown(isDown)
  }

  get refusedConnections (): number {
    return this.#proxy?.refused() ?? 0
  }

  /** The server does not find this session any more. */
  lose (session: Session): void {
    this.#lost.add(session.id)
  }

  async waitUntil (condition: () => boolean, what: string, ms = this.timeout): Promise<void> {
    await waitUntil(() => {
      if (condition()) return true
      if (this.#exitCode !== undefined) throw new ClientExited(`The client has exited with ${this.#exitCode}, before ${what}${this.#output === '' ? '' : `:\n${this.#output}`}`)
      return false
    }, what, ms)
  }

  async waitForEcho (n: number): Promise<void> {
    await this.waitUntil(() => this.echoes.includes(n), `the message ${n}`)
  }

  async waitForStream (count: number): Promise<StreamRecord> {
    await this.waitUntil(() => this.streams.length > count, 'another GET')
    return this.streams[count] as StreamRecord
  }

  /** Resolves with the exit code of the client. */
  async waitForExit (): Promise<number | null> {
    const streams = this.streams.length
    return await withTimeout(this.#exited, 'the end of the client', this.timeout).catch((error: Error) => {
      const states = this.sessions.map(({ closed, connected }) => closed ? 'closed' : connected ? 'connected' : 'open')
      throw new Error(`${error.message}; its sessions are ${states.join(', ')}, and it has sent ${this.streams.length - streams} GETs meanwhile`)
    })
  }

  async end (): Promise<void> {
    const child = this.#process
    if (child?.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      process.kill(-child.pid, 'SIGKILL')
      await this.#exited
    }
    for (const close of this.#closes.reverse()) await close()
  }
}

const SCENARIOS = [checkExchange, checkSilence, checkReplaced, checkRefused, checkDelete, checkFailedDelete]

/** Runs a client against a server behind a proxy that breaks connections. Resolves with the table of requirements. */
export async function checkClient (t: Test, options: CheckClientOptions): Promise<Report> {
  const report = createReport()
  for (const scenario of SCENARIOS) {
    const run = new ClientRun(options)
    try {
      await run.start(t, options)
      await scenario(run, report)
    } catch (error) {
      report.problems.push(`${scenario.name}: ${String(error)}`)
      // The other runs would end in the same way.
      if (error instanceof ClientExited && run.streams.length === 0) return report
    } finally {
      await run.end()
    }
    report.check(R.secret, run.urls.length > 0 && !run.urls.some(url => run.sessions.some(({ id }) => url.includes(id))))
  }
  return report
}

async function checkExchange (run: ClientRun, report: Report): Promise<void> {
  report.check(R.open, (run.stream.lastEventId ?? '') === '' && (run.stream.request.headers['x-session-id'] ?? '') === '')
  await run.emit(1)
  await run.waitForEcho(1)

  // The exchange of COUNT events and messages.
  let sent = 1
  const proceed = async (handled: number): Promise<void> => {
    if (run.isCutting && run.random() < 0.03) run.breakStream(run.chooseFault())
    while (sent < COUNT && sent - handled < WINDOW) await run.emit(++sent)
  }
  run.onEcho = proceed
  run.isCutting = true
  run.breakStream('cut')
  await proceed(1)
  try {
    await run.waitUntil(() => run.echoes.includes(COUNT), `the message ${COUNT}`, 4 * run.timeout)
  } finally {
    run.isCutting = false
    run.onEcho = () => {}
    const { echoes } = run
    const unique = new Set(echoes)
    report.check(R.lost, unique.size === COUNT, `${unique.size} of ${COUNT} in each direction, ${run.cuts} connections broken`)
    report.check(R.duplicated, echoes.length > 0 && unique.size === echoes.length, `${run.replays} repeats`)
    report.check(R.ordered, unique.size > 0 && [...unique].every((n, index, all) => index === 0 || n > (all[index - 1] as number)))
    report.check(R.key, run.messages.length > 0 && run.messages.every(({ key }) => key !== undefined))
    report.check(R.batch, run.batches > 0, `${run.batches} batches`)
  }
  report.check(R.resume, run.sessions.length === 1 && run.streams.length > 1 && run.streams.slice(1).every(({ lastEventId }) => (lastEventId ?? '') !== ''), `${run.streams.length - 1} times`)
  let n = COUNT
  /** Sends one more event, and waits until the client has responded to it. */
  const exchangeOne = async (): Promise<void> => {
    await run.emit(++n)
    await run.waitForEcho(n)
  }
  await exchangeOne()

  // A silent stream.
  let streams = run.streams.length
  run.breakStream('stall')
  const silentAt = performance.now()
  await run.emit(++n)
  const silence = (await run.waitForStream(streams)).startedAt - silentAt
  await run.waitForEcho(n)
  report.check(R.silence, silence >= SILENCE[0] && silence <= SILENCE[1], `after ${Math.round(silence)} ms`)

  // An outage.
  run.setDown(true)
  await run.emit(++n)
  await pause(OUTAGE)
  const attempts = run.refusedConnections
  run.setDown(false)
  await run.waitForEcho(n)
  report.check(R.growing, attempts >= MIN_ATTEMPTS && attempts <= MAX_ATTEMPTS, `${attempts} attempts in ${OUTAGE} ms`)

  // Responses with Retry-After.
  streams = run.streams.length
  run.interceptGet = respond(503, { 'Retry-After': RETRY_AFTER / 1000 })
  run.breakStream('cut')
  const refused = await run.waitForStream(streams)
  const after = await run.waitForStream(streams + 1)
  report.check(R.getRetryAfter, after.startedAt - refused.startedAt >= RETRY_AFTER - TOLERANCE, `${Math.round(after.startedAt - refused.startedAt)} ms`)
  await exchangeOne()
  for (const [status, requirement] of [[503, R.postRetryAfter], [429, R.postRetryAfter], [503, R.retryDate]] as const) {
    const postedAt: number[] = []
    run.interceptPost = (request, response, handler) => {
      postedAt.push(performance.now())
      run.interceptPost = (request, response, handler) => {
        postedAt.push(performance.now())
        handler(request, response)
      }
      const headers = requirement === R.retryDate
        // The clock of the server is an hour late.
        ? { Date: dateIn(-3_600_000), 'Retry-After': dateIn(RETRY_AFTER - 3_600_000) }
        : { 'Retry-After': RETRY_AFTER / 1000 }
      respond(status, headers)(request, response, handler)
    }
    await exchangeOne()
    const [first = 0, second = 0] = postedAt
    report.check(requirement, second - first >= RETRY_AFTER - TOLERANCE, `${Math.round(second - first)} ms after ${status}`)
  }

  // Responses that are not those of this server, although their status is 200.
  const bodies: Array<(count: number) => unknown> = [
    count => ({ results: Array(count).fill({ status: 200 }) }),
    count => Array(count - 1).fill({ status: 200 }),
    count => Array(count + 1).fill({ status: 200 })
  ]
  const sendInvalidResults: Intercept = (request, response, handler) => {
    // A client that sends each message alone gets no results.
    if (request.headers['content-type']?.startsWith('application/x-ndjson') !== true) {
      run.interceptPost = sendInvalidResults
      handler(request, response)
      return
    }
    text(request).then(lines => {
      const body = bodies.shift()?.(lines.trim().split('\n').length)
      if (bodies.length > 0) run.interceptPost = sendInvalidResults
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(body))
    }, () => { run.interceptPost = sendInvalidResults })
  }
  run.interceptPost = sendInvalidResults
  await run.emit(++n, ++n)
  await exchangeOne()
  run.interceptPost = undefined
  report.check(R.invalidResults, run.echoes.slice(-3).join() === [n - 2, n - 1, n].join(), bodies.length > 0 ? 'not tested: it sends no batches' : '')

  // Responses of a proxy, and incomplete ones.
  run.interceptPost = respond(502, { 'Content-Type': 'text/html' }, '<h1>Bad gateway</h1>')
  await exchangeOne()
  run.interceptPost = (request, response, handler) => {
    const { end } = response
    response.end = (...args: unknown[]) => {
      const body = Buffer.from(String(args[0]))
      response.write(body.subarray(0, body.length - 1), () => { response.destroy() })
      response.end = end
      return response
    }
    handler(request, response)
  }
  const { replays } = run
  await exchangeOne()
  await exchangeOne()
  report.check(R.temporary, run.echoes.filter(echo => echo >= n - 2).join() === [n - 2, n - 1, n].join())
  report.check(R.repeat, run.replays > replays && run.reused === 0, `${run.replays} repeats, ${run.reused} with other data`)

  // A handler that fails with a status that the server also sends itself, then without storing a response.
  await run.session.emit('echo', { n: ++n, status: 503 })
  await exchangeOne()
  await run.waitUntil(() => run.messages.some(({ event, data }) => event === 'refused' && data.status === 503), 'the message "refused" with the status 503')
  report.check(R.storedResponse, run.echoes.filter(echo => echo === n - 1).length === 1)

  // A stream without a welcome.
  streams = run.streams.length
  run.interceptGet = (_request, response) => {
    const stream = run.stream
    stream.retry = LONG_RETRY
    response.writeHead(200, EVENT_STREAM).end(`retry: ${LONG_RETRY}\n\n`)
    stream.endedAt = performance.now()
  }
  run.breakStream('reset')
  const empty = await run.waitForStream(streams)
  const next = await run.waitForStream(streams + 1)
  const waited = next.startedAt - (empty.endedAt ?? 0)
  report.check(R.noWelcome, next.lastEventId === empty.lastEventId && waited >= LONG_RETRY - TOLERANCE, `${Math.round(waited)} ms`)
  await exchangeOne()

  // The syntax of streams.
  streams = run.streams.length
  run.interceptGet = (_request, response) => {
    const cursor = run.stream.lastEventId ?? ''
    response.writeHead(200, EVENT_STREAM).end([
      `:comment\r\nretry:${RETRY}\r\nevent:welcome\r\nid: ${cursor}\r\ndata: {"sessionId":"${run.session.id}","resumed":true,"heartbeatInterval":${HEARTBEAT},"other":1}\r\n\r\n`,
      `event: echo\r:comment\rother: field\rdata: {"n":\rdata: ${n + 1}}\rid: ${cursor}\r\r`,
      `event: echo\ndata: {"n":${n + 2}}\n\nevent: unknown\ndata: "text"\n\nevent:echo\ndata:{"n":${n + 3}}\n\n`,
      `id: ${run.session.id}.zzz\nevent: echo\ndata: {"n":${INCOMPLETE}}\n`
    ].join(''))
  }
  run.breakStream('cut')
  const scripted = await run.waitForStream(streams)
  const last = await run.waitForStream(streams + 1)
  await run.emit(n + 4)
  await run.waitForEcho(n + 4)
  report.check(R.parsing, run.echoes.slice(-4).join() === [n + 1, n + 2, n + 3, n + 4].join(), `expected ${n + 1} to ${n + 4}, received ${run.echoes.slice(-4).join()}`)
  report.check(R.incomplete, last.lastEventId === scripted.lastEventId && !run.echoes.includes(INCOMPLETE))
  n += 4

  // A gap.
  run.setDown(true)
  for (let index = 0; index <= LOG_ENTRIES; index++) await run.session.emit('unknown', index)
  run.setDown(false)
  await exchangeOne()
  await run.waitUntil(() => run.messages.some(({ event }) => event === 'missed'), 'the message "missed"')
  const gap = run.messages.find(({ event }) => event === 'missed')?.data ?? {}
  report.check(R.gap, (gap.after ?? 0) > 0 && (gap.resumedAt ?? 0) > (gap.after ?? 0) && gap.reason === 'count')
  // A client that handles the events with the name `unknown` would send messages without a number, or with other names.
  report.check(R.unknownEvents, run.messages.every(({ event }) => MESSAGES.includes(event)) && !run.echoes.includes(0))

  // A message that is too large, between two others.
  await run.emit(++n)
  await run.session.emit('echo', { n: ++n, text: 'x'.repeat(BODY_LIMIT) })
  await exchangeOne()
  await run.waitUntil(() => run.messages.some(({ event, data }) => event === 'refused' && data.status === 413), 'the message "refused" with the status 413')
  report.check(R.tooLarge, !run.echoes.includes(n - 1))
  await exchangeOne()
  report.check(R.afterTooLarge, run.echoes.slice(-3).join() === [n - 3, n - 1, n].join())

  checkStreams(run, report)

  // The session is lost, which a message shows.
  run.lose(run.session)
  await run.emit(++n)
  await run.waitUntil(() => run.sessions.length === 2, 'a new session')
  await run.waitUntil(() => run.messages.some(({ event, session }) => event === 'lost' && session === run.session), 'the message "lost"')
  report.check(R.lostSession, true)

  // The session is lost while the outcome of a message is unknown.
  const loseResponses: Array<(socket: Socket) => void> = [
    socket => {
      run.breakStream('reset')
      socket.resetAndDestroy()
    },
    // As a proxy does. The next POST shows that the session is lost.
    socket => { socket.end('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n') }
  ]
  let isRepeated = false
  for (const [index, loseResponse] of loseResponses.entries()) {
    run.interceptPost = (request, response, handler) => {
      response.end = () => {
        run.lose(run.session)
        loseResponse(request.socket)
        return response
      }
      handler(request, response)
    }
    await run.emit(++n)
    await run.waitUntil(() => run.sessions.length === 3 + index, 'a new session')
    await run.waitUntil(() => run.messages.some(({ event, session }) => event === 'lost' && session === run.session), 'the message "lost"')
    await exchangeOne()
    isRepeated ||= run.echoes.filter(echo => echo === n - 1).length > 1
  }
  report.check(R.uncertain, !isRepeated)

  report.check(R.oneGet, run.repeatedGets === 0, `${run.repeatedGets} overlapped`)
  report.check(R.onePost, run.mostPosts === 1, `at most ${run.mostPosts}`)
  streams = run.streams.length
  // Not the session that was opened last: a GET that the client has given up can also open one.
  await run.messages.at(-1)?.session.close('done')
  report.check(R.close, await run.waitForExit() === 0 && run.streams.length === streams, 'and exits with 0')
}

/** Whether the client has waited after each stream that it did not end itself. */
function checkStreams ({ streams }: ClientRun, report: Report): void {
  const waits = streams.slice(1).flatMap(({ startedAt }, index) => {
    const { endedAt, connection, retry } = streams[index] as StreamRecord
    const end = endedAt ?? connection?.faultedAt
    return end === undefined || end > startedAt || connection?.endedByClient === true ? [] : [{ waited: startedAt - end, retry }]
  })
  const shortest = Math.min(...waits.map(({ waited, retry }) => waited - retry))
  report.check(R.retry, waits.length > 0 && shortest >= -TOLERANCE, `${RETRY + Math.round(shortest)} ms or more, ${waits.length} times`)
}

/** Checks how long a client waits for data. The streams here are not those of the server, which has no silent ones. */
async function checkSilence (run: ClientRun, report: Report): Promise<void> {
  await run.emit(1)
  await run.waitForEcho(1)
  const writeWelcome = (response: ServerResponse, options: { heartbeatInterval?: number }): void => {
    response.writeHead(200, EVENT_STREAM).write(`event: welcome\nid: ${run.stream.lastEventId ?? ''}\ndata: ${JSON.stringify({ sessionId: run.session.id, resumed: true, ...options })}\n\n`)
  }
  let streams = run.streams.length
  run.interceptGet = () => {}
  run.breakStream('cut')
  const { response } = await run.waitForStream(streams)
  await pause(LONG_SILENCE)
  report.check(R.lateWelcome, !response.destroyed && run.streams.length === streams + 1)
  writeWelcome(response, {})
  await pause(LONG_SILENCE)
  report.check(R.noHeartbeats, !response.destroyed && run.streams.length === streams + 1)
  streams = run.streams.length
  let silentAt = 0
  run.interceptGet = (_request, response) => {
    writeWelcome(response, { heartbeatInterval: HEARTBEAT })
    silentAt = performance.now()
  }
  response.destroy()
  await run.waitForStream(streams)
  const silence = (await run.waitForStream(streams + 1)).startedAt - silentAt
  report.check(R.silenceAfterWelcome, silence >= SILENCE[0] && silence <= SILENCE[1], `after ${Math.round(silence)} ms`)
}

async function checkReplaced (run: ClientRun, report: Report): Promise<void> {
  await run.emit(1)
  await run.waitForEcho(1)
  const controller = new AbortController()
  const response = await fetch(`${run.serverUrl}/downward`, { headers: { 'X-Session-ID': run.session.id }, signal: controller.signal })
  const code = await run.waitForExit()
  controller.abort()
  report.check(R.replaced, response.ok && code !== 0 && run.streams.length === 2, 'and exits with an error')
}

async function checkRefused (run: ClientRun, report: Report): Promise<void> {
  await run.emit(1)
  await run.waitForEcho(1)
  run.interceptGet = respond(403)
  const streams = run.streams.length
  run.breakStream('cut')
  const code = await run.waitForExit()
  report.check(R.refused, code !== 0 && run.streams.length === streams + 1, 'and exits with an error')
}

async function checkDelete (run: ClientRun, report: Report): Promise<void> {
  await run.session.emit('leave', {})
  const code = await run.waitForExit()
  report.check(R.delete, code === 0 && run.closeReasons.join() === 'deleted', 'and exits with 0')
}

async function checkFailedDelete (run: ClientRun, report: Report): Promise<void> {
  let isReset = false
  run.interceptDelete = request => {
    request.socket.resetAndDestroy()
    isReset = true
  }
  await run.session.emit('leave', {})
  await run.waitUntil(() => isReset, 'the DELETE')
  await run.emit(1)
  // The client may go on, repeat the DELETE, or exit.
  await run.waitUntil(() => run.echoes.includes(1) || run.session.closed || run.hasExited, 'the message 1')
  await run.session.close('done')
  report.check(R.failedDelete, await run.waitForExit() === 0, 'and exits with 0')
}

const dateIn = (ms: number): string => new Date(Date.now() + ms).toUTCString()

const respond = (status: number, headers: OutgoingHttpHeaders = {}, body = ''): Intercept => (request, response) => {
  request.resume()
  response.writeHead(status, { ...headers, 'Content-Length': body.length }).end(body)
}
