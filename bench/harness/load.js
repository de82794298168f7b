import { dialects } from './dialects.js'
import { PollingStream } from './polling.js'
import { Stream } from './stream.js'
import { verify } from './verify.js'

const PATIENCE = 120_000
const SAMPLED_EVERY = 100

/** Many clients of one server, and how much has come to all of them. */
export class Load {
  streams = []
  received = 0
  bytes = 0
  pulses = 0
  #server
  #dialect
  #failure
  #waiting

  constructor (server) {
    this.#server = server
    this.#dialect = dialects[server.dialect]
  }

  get dialect () {
    return this.#dialect
  }

  stream ({ port = this.#server.port, ...options } = {}) {
    if (this.#dialect.polls) return new PollingStream(this, { port })
    return new Stream(this, { dialect: this.#dialect, port }, options)
  }

  /** Opens streams, so many at a time. */
  async open (count, { atOnce = 100, options } = {}) {
    const opened = []
    const one = async () => {
      while (opened.length < count) {
        const sampled = opened.length % SAMPLED_EVERY === 0
        const stream = this.stream({ sampled, ...options })
        opened.push(stream)
        await stream.opened
      }
    }
    await Promise.all(Array.from({ length: atOnce }, one))
    if (new Set(opened.map(({ sessionId }) => sessionId)).size !== count && opened[0].sessionId !== undefined) throw new Error('Two sessions have one id')
    this.streams.push(...opened)
    return opened
  }

  close () {
    for (const stream of this.streams) stream.destroy()
    this.streams = []
  }

  add (count) {
    this.received += count
    this.check()
  }

  pulse () {
    this.pulses++
    this.check()
  }

  fail (error) {
    this.#failure ??= error
    this.check()
  }

  /** Waits for something to be the case, which is asked whenever something has come. */
  until (condition, what) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.fail(new Error(`${what} took too long; ${this.received} events have come`)) }, PATIENCE)
      this.#waiting = { condition, resolve, reject, timer }
      this.check()
    })
  }

  /** Looks whether what is waited for is the case. */
  check () {
    if (this.#waiting === undefined) return
    const { condition, resolve, reject, timer } = this.#waiting
    if (this.#failure === undefined && !condition()) return
    clearTimeout(timer)
    this.#waiting = undefined
    if (this.#failure === undefined) resolve()
    else reject(this.#failure)
  }

  /** Ticks of broadcasts, each sent when all have the one before. */
  async ticks (count, { perTick = 1, size = 128, readers = this.streams } = {}) {
    let n = readers[0].next
    for (let tick = 0; tick < count; tick++) {
      const due = this.received + perTick * readers.length
      this.#server.tell('tick', n, perTick, size)
      await this.until(() => this.received >= due, 'a tick')
      n += perTick
    }
    // Each stream has checked the order; this is that none has got what another is owed.
    if (readers.some(({ next }) => next !== n)) throw new Error('Not every client has every event')
  }

  /** Parses all that came to the sampled streams. */
  verify () {
    if (this.#failure !== undefined) throw this.#failure
    for (const { sample, sessionId, next } of this.streams) {
      if (sample !== undefined) verify(sample, { sessionId, count: next - 1, dialect: this.#server.dialect, ids: this.#server.ids })
    }
  }
}
