import { setTimeout as sleep } from 'node:timers/promises'
import { assertComplete } from './assert-complete.js'
import { ClientStream } from './client-stream.js'
import { Http2Connection, Http2Stream } from './http2-stream.js'
import { now, summarizeLatencies } from './latency.js'
import { PollingStream } from './polling-stream.js'
import { protocols } from './protocols.js'

/** Milliseconds after which a wait fails. */
const TIMEOUT = 120_000
const CONCURRENT_OPENS = 100
const STREAMS_PER_HTTP2_CONNECTION = 100
/** One out of this number of streams is sampled. */
const SAMPLE_INTERVAL = 100

/** Many clients of one server, with a count of everything that they receive. */
export class LoadGenerator {
  streams = []
  eventCount = 0
  heartbeatCount = 0
  bytes = 0
  #server
  #failure
  /** The connection of the next HTTP/2 stream. */
  #http2Connection
  /** The numbers of the events that arrive while latencies are recorded, and the times in milliseconds. */
  #arrivals
  /** What `waitUntil` waits for. */
  #wait

  constructor (server) {
    this.#server = server
    this.protocol = protocols[server.protocol]
  }

  /** Starts to open one stream, which is not added to `streams`. */
  openStream ({ port = this.#server.port, ...options } = {}) {
    const { usesHttp2, usesPolling } = this.protocol
    if (usesHttp2) return new Http2Stream(this, this.#takeHttp2Connection(port), options.headers)
    return usesPolling ? new PollingStream(this, { port }) : new ClientStream(this, { port, ...options })
  }

  /** Opens streams, at most CONCURRENT_OPENS at a time, and adds them to `streams`. */
  async open (count, options) {
    const opened = []
    const openOneByOne = async () => {
      while (opened.length < count) {
        const isSampled = opened.length % SAMPLE_INTERVAL === 0
        const stream = this.openStream({ isSampled, ...options })
        opened.push(stream)
        await stream.opened
      }
    }
    await Promise.all(Array.from({ length: CONCURRENT_OPENS }, openOneByOne))
    const ids = opened.map(({ sessionId }) => sessionId).filter(id => id !== undefined)
    if (new Set(ids).size !== ids.length) throw new Error('Two sessions have the same id')
    this.streams.push(...opened)
    return opened
  }

  close () {
    for (const stream of this.streams) stream.destroy()
    this.streams = []
    this.#http2Connection = undefined
  }

  /** Counts `count` events that have just arrived on one stream, the first with the number `first`. */
  countEvents (first, count) {
    this.eventCount += count
    if (this.#arrivals !== undefined) {
      const at = now()
      for (let n = first; n < first + count; n++) this.#arrivals.push(n, at)
    }
    this.#checkWait()
  }

  /** Starts to record when each broadcast is sent, and when it arrives. */
  async startLatencies () {
    await this.#server.execute('takeSendTimes')
    this.#arrivals = []
  }

  /** Returns the percentiles of the time from the send in the server to the arrival, since `startLatencies`. */
  async stopLatencies () {
    const arrivals = this.#arrivals
    this.#arrivals = undefined
    const sendTimes = await this.#server.execute('takeSendTimes')
    return summarizeLatencies(Float64Array.from({ length: arrivals.length / 2 }, (_, i) => arrivals[2 * i + 1] - sendTimes[arrivals[2 * i]]))
  }

  countHeartbeat () {
    this.heartbeatCount++
    this.#checkWait()
  }

  /** Records the first failure of a client. It ends the current wait, or the next. */
  fail (error) {
    this.#failure ??= error
    this.#checkWait()
  }

  assertNotFailed () {
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Resolves when `condition` is true. It is checked whenever a client has received something. */
  waitUntil (condition, description) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.fail(new Error(`Timed out waiting for ${description}; ${this.eventCount} events have arrived`)) }, TIMEOUT)
      this.#wait = { condition, resolve, reject, timer }
      this.#checkWait()
    })
  }

  /** Makes the server send `count` broadcasts, one every `interval` milliseconds. */
  async broadcastPaced (count, interval) {
    const [{ next }] = this.streams
    const expected = this.eventCount + count * this.streams.length
    this.#server.notify('broadcastPaced', next, count, interval)
    await this.waitUntil(() => this.eventCount >= expected, 'the broadcasts')
    this.#assertReceived(this.streams, next + count)
  }

  /** Makes the server send `count` batches of `batchSize` broadcasts, each batch when all `readers` have received the one before. */
  async broadcast (count, { batchSize = 1, size = 128, readers = this.streams } = {}) {
    let n = readers[0].next
    for (let i = 0; i < count; i++) {
      const expected = this.eventCount + batchSize * readers.length
      this.#server.notify('broadcast', n, batchSize, size)
      await this.waitUntil(() => this.eventCount >= expected, 'a broadcast')
      n += batchSize
    }
    this.#assertReceived(readers, n)
  }

  /**
   * Makes `count` round trips with each client, one after the other, with all clients at once. Returns how long each took, in
   * milliseconds.
   */
  async runRoundTrips (clients, count) {
    const durations = []
    let busy = clients.length
    for (const client of clients) {
      let left = count
      const start = () => {
        if (left-- === 0) {
          if (--busy === 0) this.#checkWait()
          return
        }
        const startTime = now()
        client.roundTrip(() => {
          durations.push(now() - startTime)
          start()
        })
      }
      start()
    }
    await this.waitUntil(() => busy === 0, 'the round trips')
    return durations
  }

  /**
   * Makes the clients send `count` messages in turn, `rate` messages per second, and waits for all replies. Returns how long
   * each took, in milliseconds.
   */
  async sendMessages (clients, { rate, count }) {
    const durations = []
    const onReply = duration => {
      durations.push(duration)
      if (durations.length === count) this.#checkWait()
    }
    const start = now()
    for (let sent = 0; sent < count; await sleep(1)) {
      const due = Math.min(count, Math.floor((now() - start) * rate / 1000))
      for (; sent < due; sent++) clients[sent % clients.length].send(onReply)
    }
    await this.waitUntil(() => durations.length === count, 'the replies')
    return durations
  }

  /** Parses everything that the sampled streams received. Throws unless it is every event, in order. */
  assertComplete () {
    this.assertNotFailed()
    for (const { sample, sessionId, next } of this.streams) {
      if (sample === undefined) continue
      assertComplete(sample, { sessionId, count: next - 1, protocol: this.#server.protocol, hasEventIds: this.#server.hasEventIds })
    }
  }

  #takeHttp2Connection (port) {
    if (this.#http2Connection === undefined || this.#http2Connection.streamCount === STREAMS_PER_HTTP2_CONNECTION) {
      this.#http2Connection = new Http2Connection(this, port)
    }
    return this.#http2Connection
  }

  /** Each stream checks the order of its own events. This checks that all streams have received the same number. */
  #assertReceived (readers, next) {
    if (readers.some(stream => stream.next !== next)) throw new Error('Not every client received every event')
  }

  #checkWait () {
    if (this.#wait === undefined) return
    const { condition, resolve, reject, timer } = this.#wait
    if (this.#failure === undefined && !condition()) return
    clearTimeout(timer)
    this.#wait = undefined
    if (this.#failure === undefined) resolve()
    else reject(this.#failure)
  }
}
