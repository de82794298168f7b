import { Duplex } from 'node:stream'
import type { Socket } from 'node:net'
import { createRandom } from '../../support/random.js'
import { encodeArray, parseArray, type RedisEngine } from './redis-engine.js'
import type { Scheduler, SimulatedProcess } from './scheduler.js'

/** What a connection is for. It carries commands until the first SUBSCRIBE. */
export type ConnectionKind = 'commands' | 'subscription'
/** `up` is from the node to Redis. */
export type Direction = 'up' | 'down'

/** How long data take to arrive. */
export interface Latency {
  /** The maximum for usual data, in milliseconds. */
  readonly usual: number
  /** The maximum for slow data, in milliseconds. */
  readonly slow: number
  /** The share of slow data, from 0 to 1. */
  readonly slowShare: number
}

/** Bytes in one direction of a connection. They arrive in order. */
class Pipe {
  blockedUntil = 0
  readonly #queue: Array<{ bytes: Buffer, readyAt: number }> = []
  readonly #connection: Connection
  readonly #process: SimulatedProcess
  readonly #receive: (bytes: Buffer) => unknown
  #isScheduled = false

  constructor (connection: Connection, process: SimulatedProcess, receive: (bytes: Buffer) => unknown) {
    this.#connection = connection
    this.#process = process
    this.#receive = receive
  }

  send (bytes: Buffer): void {
    const { scheduler } = this.#connection.network
    this.#queue.push({ bytes, readyAt: scheduler.time + this.#connection.latency() })
    this.#schedule()
  }

  /** Empties the pipe, and returns what was in it. */
  take (): Buffer {
    return Buffer.concat(this.#queue.splice(0).map(({ bytes }) => bytes))
  }

  #schedule (): void {
    const [first] = this.#queue
    if (this.#isScheduled || first === undefined) return
    const { scheduler } = this.#connection.network
    this.#isScheduled = true
    scheduler.schedule(Math.max(0, Math.max(first.readyAt, this.blockedUntil) - scheduler.time), this.#process, async () => {
      this.#isScheduled = false
      const [next] = this.#queue
      if (next !== undefined && this.blockedUntil <= scheduler.time) {
        const { bytes } = next
        // Sometimes only a part arrives.
        if (bytes.length > 1 && this.#connection.random() < 0.03) {
          const length = 1 + Math.floor(this.#connection.random() * (bytes.length - 1))
          next.bytes = bytes.subarray(length)
          next.readyAt = scheduler.time + this.#connection.latency()
          await this.#receive(bytes.subarray(0, length))
        } else {
          this.#queue.shift()
          await this.#receive(bytes)
        }
      }
      this.#schedule()
    })
  }
}

/** A connection of a node to Redis. */
export class Connection {
  kind: ConnectionKind = 'commands'
  readonly network: Network
  readonly process: SimulatedProcess
  readonly random: () => number
  readonly #id: number
  readonly #socket: SimulatedSocket
  readonly #up: Pipe
  readonly #down: Pipe
  readonly #channels = new Set<string>()
  #received: Buffer = Buffer.alloc(0)
  #protocol = 2
  /** Whether the connection is open on the side of the node. */
  #isOpen = false
  /** Whether what is sent from now on is lost, in both directions. */
  #isLost = false

  constructor (network: Network, process: SimulatedProcess, id: number, seed: number) {
    this.network = network
    this.process = process
    this.random = createRandom(seed)
    this.#id = id
    this.#up = new Pipe(this, network.process, bytes => this.#receive(bytes))
    this.#down = new Pipe(this, process, bytes => {
      if (!this.#isOpen) return
      if (this.kind === 'commands') network.onReply(process)
      this.#socket.push(bytes)
    })
    this.#socket = new SimulatedSocket(this)
  }

  get socket (): Socket {
    return this.#socket as unknown as Socket
  }

  get isOpen (): boolean {
    return this.#isOpen
  }

  latency (): number {
    const { usual, slow, slowShare } = this.network.latency
    return 0.05 + this.random() * (this.random() < slowShare ? slow : usual)
  }

  open (): void {
    const { scheduler } = this.network
    const delay = this.latency() + this.latency()
    if (scheduler.time < this.network.unreachableUntil(this.process)) {
      scheduler.schedule(delay, this.process, () => { this.#socket.destroy(socketError('ECONNREFUSED', 'connect')) })
      return
    }
    scheduler.schedule(delay, this.process, () => {
      if (this.#socket.destroyed) return
      this.#isOpen = true
      this.#socket.connecting = false
      this.network.log(this, 'opens')
      this.#socket.emit('connect')
      this.#socket.emit('ready')
    })
  }

  send (bytes: Buffer): void {
    if (!this.#isLost) this.#up.send(bytes)
  }

  /** The node has closed the connection. What it has sent before can still arrive. */
  close (): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.network.log(this, 'is closed by the node')
    this.#channels.clear()
    this.network.connections.delete(this)
  }

  /** Resets the connection. A part of what is under way can still arrive. */
  cut (): void {
    if (!this.#isOpen) return
    this.#isLost = true
    this.network.log(this, 'is cut')
    const part = (bytes: Buffer): Buffer => this.random() < 0.5 ? Buffer.alloc(0) : bytes.subarray(0, Math.floor(this.random() * (bytes.length + 1)))
    const up = part(this.#up.take())
    if (up.length > 0) this.#up.send(up)
    this.#channels.clear()
    this.network.connections.delete(this)
    const down = part(this.#down.take())
    if (down.length > 0) this.#down.send(down)
    this.network.scheduler.schedule(this.latency() + this.latency(), this.process, () => {
      this.#isOpen = false
      this.#socket.destroy(socketError('ECONNRESET', 'read'))
    })
  }

  /** Loses everything that is sent from now on, without a notification. */
  halfOpen (): void {
    if (!this.#isOpen) return
    this.network.log(this, 'is half open')
    this.#isLost = true
    this.#up.take()
    this.#down.take()
  }

  block (direction: Direction, ms: number): void {
    this.network.log(this, `is blocked ${direction} for ${ms.toFixed(0)} ms`)
    const pipe = direction === 'up' ? this.#up : this.#down
    pipe.blockedUntil = this.network.scheduler.time + ms
  }

  publish (channel: string, message: Buffer): void {
    if (this.#channels.has(channel)) this.#reply(this.#array('message', channel, message))
  }

  toString (): string {
    return `${this.process.name}/${this.kind} ${this.#id}`
  }

  #reply (bytes: Buffer): void {
    if (!this.#isLost) this.#down.send(bytes)
  }

  /** A push in RESP3, an array in RESP2. */
  #array (...items: Array<string | Buffer>): Buffer {
    return encodeArray(items, this.#protocol === 3 ? '>' : '*')
  }

  async #receive (bytes: Buffer): Promise<void> {
    this.#received = Buffer.concat([this.#received, bytes])
    for (;;) {
      const command = parseArray(this.#received, 0)
      if (command === undefined) return
      this.#received = this.#received.subarray(command.end)
      await this.#execute(command.items)
    }
  }

  async #execute (command: readonly Buffer[]): Promise<void> {
    const [name = '', ...args] = command.map(String)
    switch (name.toUpperCase()) {
      case 'SUBSCRIBE':
      case 'SSUBSCRIBE':
        this.kind = 'subscription'
        for (const channel of args) {
          if (this.#isOpen) this.#channels.add(channel)
          this.#replySubscribed(name, channel)
        }
        return
      case 'UNSUBSCRIBE':
      case 'SUNSUBSCRIBE':
        for (const channel of args) {
          this.#channels.delete(channel)
          this.#replySubscribed(name, channel)
        }
        return
      case 'HELLO':
        this.#protocol = Number(args[0])
        break
      case 'PING':
        this.#reply(this.kind === 'subscription' && this.#protocol === 2 ? this.#array('pong', '') : Buffer.from('+PONG\r\n'))
        return
      case 'CLIENT':
        this.#reply(Buffer.from('+OK\r\n'))
        return
      case 'INFO':
        // The real one differs between servers.
        this.#reply(Buffer.from('$35\r\nredis_version:7.0.15\r\nloading:0\r\n\r\n\r\n'))
        return
    }
    const { bytes, publications } = await this.network.engine.execute(this.#protocol, command, this.network.scheduler.microseconds)
    this.network.logCommand(this, command, bytes)
    this.#reply(bytes)
    for (const { channel, message } of publications) this.network.publish(channel, message)
  }

  #replySubscribed (name: string, channel: string): void {
    const head = this.#protocol === 3 ? '>3' : '*3'
    this.#reply(Buffer.concat([Buffer.from(`${head}\r\n`), encodeArray([name.toLowerCase(), channel]).subarray(4), Buffer.from(`:${this.#channels.size}\r\n`)]))
  }
}

/** What a client library gets as its socket. */
class SimulatedSocket extends Duplex {
  connecting = true
  readonly remoteAddress = '127.0.0.1'
  readonly remotePort = 6379
  readonly #connection: Connection
  #timeout: NodeJS.Timeout | undefined

  constructor (connection: Connection) {
    super({ allowHalfOpen: false })
    this.#connection = connection
  }

  override _read (): void {}

  override _write (chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    this.#connection.send(chunk)
    callback()
  }

  override _writev (chunks: Array<{ chunk: Buffer, encoding: BufferEncoding }>, callback: () => void): void {
    this.#connection.send(Buffer.concat(chunks.map(({ chunk }) => chunk)))
    callback()
  }

  override _destroy (error: Error | null, callback: (error: Error | null) => void): void {
    clearTimeout(this.#timeout)
    this.#connection.close()
    callback(error)
  }

  setTimeout (ms: number, listener?: () => void): this {
    clearTimeout(this.#timeout)
    if (listener !== undefined) this.once('timeout', listener)
    if (ms > 0) this.#timeout = setTimeout(() => { this.emit('timeout') }, ms)
    return this
  }

  setNoDelay (): this { return this }
  setKeepAlive (): this { return this }
  ref (): this { return this }
  unref (): this { return this }
}

function socketError (code: string, syscall: string): Error {
  return Object.assign(new Error(`${syscall} ${code}`), { code, syscall })
}

/** The network between the nodes and Redis. */
export class Network {
  latency: Latency = { usual: 1, slow: 1, slowShare: 0 }
  readonly connections = new Set<Connection>()
  readonly scheduler: Scheduler
  readonly engine: RedisEngine
  readonly process: SimulatedProcess
  /** Is called when data arrive on a command connection of a process. */
  onReply: (process: SimulatedProcess) => void = () => {}
  readonly #unreachableUntil = new Map<SimulatedProcess, number>()
  #seed = 0
  #count = 0

  constructor (scheduler: Scheduler, engine: RedisEngine) {
    this.scheduler = scheduler
    this.engine = engine
    this.process = scheduler.driver
    scheduler.install(process => {
      const connection = new Connection(this, process, ++this.#count, this.#seed + this.#count)
      this.connections.add(connection)
      connection.open()
      return connection.socket
    })
  }

  async reset (seed: number, latency: Latency): Promise<void> {
    this.connections.clear()
    this.#unreachableUntil.clear()
    this.#seed = seed
    this.#count = 0
    this.latency = latency
    await this.engine.reset()
  }

  /** The open connections of a process, or of all. */
  find (process?: SimulatedProcess, kind?: ConnectionKind): Connection[] {
    return [...this.connections].filter(connection => connection.isOpen && (process === undefined || connection.process === process) && (kind === undefined || connection.kind === kind))
  }

  /** Refuses new connections of a process for a time. */
  refuse (process: SimulatedProcess, ms: number): void {
    this.#unreachableUntil.set(process, this.scheduler.time + ms)
  }

  unreachableUntil (process: SimulatedProcess): number {
    return this.#unreachableUntil.get(process) ?? 0
  }

  /** Removes the connections of a process that has died. What it has sent can still arrive. */
  remove (process: SimulatedProcess): void {
    for (const connection of this.find(process)) this.connections.delete(connection)
  }

  publish (channel: string, message: Buffer): void {
    if (this.scheduler.trace !== undefined) this.scheduler.log(`published ${channel}: ${describe(message)}`)
    for (const connection of this.connections) connection.publish(channel, message)
  }

  log (connection: Connection, text: string): void {
    this.scheduler.log(`${String(connection)} ${text}`)
  }

  logCommand (connection: Connection, command: readonly Buffer[], reply: Buffer): void {
    if (this.scheduler.trace === undefined) return
    // Leaves out EVALSHA, the hash of the script and the number of its keys.
    const isScript = String(command[0]).toUpperCase() === 'EVALSHA'
    this.log(connection, `executes ${(isScript ? command.slice(3) : command).map(describe).join(' ')} => ${describe(reply)}`)
  }
}

const describe = (bytes: Buffer): string => String(bytes).slice(0, 400).replaceAll('\r\n', ' ').replaceAll('\n', '\\n')
