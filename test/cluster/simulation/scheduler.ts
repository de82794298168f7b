import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import net, { type Socket } from 'node:net'
import timersPromises from 'node:timers/promises'
import { createRandom } from '../../support/random.js'

// The real functions, for what is not simulated.
const { setImmediate: setRealImmediate } = globalThis

/** A simulated process. What it schedules does not run any more when it is dead, and runs later when it is paused. */
export class SimulatedProcess {
  readonly name: string
  isAlive = true
  pausedUntil = 0

  constructor (name: string) {
    this.name = name
  }
}

interface Scheduled {
  at: number
  readonly order: number
  readonly process: SimulatedProcess
  readonly run: () => unknown
  isCanceled: boolean
}

/** A timer, with the methods of a timer of Node. */
class SimulatedTimer {
  readonly #start: () => Scheduled
  #scheduled: Scheduled

  constructor (start: () => Scheduled) {
    this.#start = start
    this.#scheduled = start()
  }

  ref (): this { return this }
  unref (): this { return this }
  hasRef (): boolean { return true }
  close (): this { return this.cancel() }

  refresh (): this {
    this.#scheduled.isCanceled = true
    this.#scheduled = this.#start()
    return this
  }

  cancel (): this {
    this.#scheduled.isCanceled = true
    return this
  }
}

// No history needs so many events: with more, something repeats without an end.
const MAX_EVENTS = 60_000
// Date and positions are times in this year, so that they have as many digits as in production.
const EPOCH = Date.UTC(2030, 0, 1)
/** Milliseconds between the start of a process and the start of a history. A monotonic clock does not start at 0 either. */
const UPTIME = 1000

/**
 * Runs everything that happens in a history from one queue, in the order of virtual time, and lets all of its consequences
 * finish before the next event. The same seed gives the same order. `install` replaces the clocks, timers and random numbers
 * of Node; after that, the program can run nothing but simulations.
 */
export class Scheduler {
  /** Milliseconds since the start of the history. */
  time = 0
  /** Is called with each unhandled rejection. */
  onUnhandled: (error: unknown) => void = () => {}
  /** Lines that describe what happened; `undefined` unless they are wanted. */
  trace: string[] | undefined
  readonly driver = new SimulatedProcess('driver')
  #current = this.driver
  /** The next event is the last element. */
  #queue: Scheduled[] = []
  #immediates: Scheduled[] = []
  #order = 0
  #events = 0
  #random = createRandom(0)

  /** The process that the code that runs now belongs to. */
  get current (): SimulatedProcess {
    return this.#current
  }

  /** Microseconds since 1970. */
  get microseconds (): number {
    return EPOCH * 1000 + Math.floor(this.time * 1000)
  }

  reset (seed: number): void {
    this.time = 0
    this.#queue = []
    this.#immediates = []
    this.#order = 0
    this.#events = 0
    this.#random = createRandom(seed)
    this.#current = this.driver
  }

  log (text: string): void {
    this.trace?.push(`${this.time.toFixed(2).padStart(10)} ${this.#current.name.padEnd(7)} ${text}`)
  }

  schedule (ms: number, process: SimulatedProcess, run: () => unknown): Scheduled {
    const scheduled: Scheduled = { at: this.time + ms, order: ++this.#order, process, run, isCanceled: false }
    this.#insert(scheduled)
    return scheduled
  }

  /** Runs events until a condition is true. Returns whether it became true before the given number of milliseconds had passed. */
  async runUntil (condition: () => boolean, ms: number): Promise<boolean> {
    const end = this.time + Math.max(0, ms)
    while (!condition()) {
      const next = this.#queue.at(-1)
      if (next === undefined || next.at > end) {
        this.time = end
        return false
      }
      await this.#runNext()
    }
    return true
  }

  install (connect: (process: SimulatedProcess) => Socket): void {
    const startTimer = (callback: (...args: unknown[]) => void, ms: number, args: unknown[], repeats: boolean): SimulatedTimer => {
      const process = this.#current
      const delay = ms >= 1 ? Math.floor(ms) : 1
      const start = (): Scheduled => this.schedule(delay, process, () => {
        if (repeats) timer.refresh()
        callback(...args)
      })
      const timer = new SimulatedTimer(start)
      return timer
    }
    const clear = (timer: unknown): void => { if (timer instanceof SimulatedTimer) timer.cancel() }
    const setTimeout = (callback: () => void, ms = 1, ...args: unknown[]): SimulatedTimer => startTimer(callback, ms, args, false)
    Object.assign(globalThis, {
      setTimeout,
      setInterval: (callback: () => void, ms = 1, ...args: unknown[]) => startTimer(callback, ms, args, true),
      setImmediate: (callback: (...args: unknown[]) => void, ...args: unknown[]) => new SimulatedTimer(() => {
        const immediate: Scheduled = { at: 0, order: 0, process: this.#current, run: () => { callback(...args) }, isCanceled: false }
        this.#immediates.push(immediate)
        return immediate
      }),
      clearTimeout: clear,
      clearInterval: clear,
      clearImmediate: clear,
      // Garbage collections are not reproducible, so a WeakRef never loses its object here.
      WeakRef: class <T> {
        readonly #target: T
        constructor (target: T) { this.#target = target }
        deref (): T { return this.#target }
      }
    })
    performance.now = () => UPTIME + this.time
    Date.now = () => EPOCH + Math.floor(this.time)
    Math.random = () => this.#random()
    Object.assign(timersPromises, { setTimeout: (ms: number) => new Promise(resolve => { setTimeout(() => { resolve(undefined) }, ms) }) })
    const fill = <T extends Uint8Array>(bytes: T): T => {
      for (let index = 0; index < bytes.length; index++) bytes[index] = Math.floor(this.#random() * 256)
      return bytes
    }
    Object.assign(crypto, { randomFillSync: fill, randomBytes: (size: number) => fill(Buffer.alloc(size)) })
    Object.assign(net, { createConnection: () => connect(this.#current), connect: () => connect(this.#current) })
    syncBuiltinESMExports()
    process.on('unhandledRejection', error => { this.onUnhandled(error) })
    process.on('uncaughtException', error => { this.onUnhandled(error) })
  }

  async #runNext (): Promise<void> {
    const next = this.#queue.pop()
    if (next === undefined || next.isCanceled || !next.process.isAlive) return
    if (next.process.pausedUntil > next.at) {
      // After the pause, everything that is due runs in the order in which it was due.
      next.at = next.process.pausedUntil
      this.#insert(next)
      return
    }
    if (++this.#events > MAX_EVENTS) throw new Error(`more than ${MAX_EVENTS} events`)
    this.time = next.at
    this.#current = next.process
    await next.run()
    await this.#settle()
    this.#current = this.driver
  }

  /** Waits for all microtasks, and runs all immediates. */
  async #settle (): Promise<void> {
    for (;;) {
      await new Promise(resolve => { setRealImmediate(resolve) })
      const immediate = this.#immediates.shift()
      if (immediate === undefined) return
      if (immediate.isCanceled || !immediate.process.isAlive) continue
      this.#current = immediate.process
      immediate.run()
    }
  }

  #insert (scheduled: Scheduled): void {
    let low = 0
    let high = this.#queue.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const other = this.#queue[middle] as Scheduled
      if (other.at > scheduled.at || (other.at === scheduled.at && other.order > scheduled.order)) low = middle + 1
      else high = middle
    }
    this.#queue.splice(low, 0, scheduled)
  }
}
