import { setTimeout as sleep } from 'node:timers/promises'
import { CuttingProxy } from '../harness/cutting-proxy.js'
import { isQuick, scaled } from '../harness/quick.js'
import { createRandom } from '../harness/random.js'
import { reconnectingClients } from '../harness/reconnecting-clients.js'

const CLIENTS = scaled(200)
const SEED = 1
/** Milliseconds between two cuts of a client: at least, and at most. */
const CUT_DELAYS = [2000, 10_000]
/** Milliseconds in which events are sent. */
const DURATION = isQuick ? 12_000 : 60_000
/** Milliseconds between two events. */
const INTERVAL = 50
const EVENTS = DURATION / INTERVAL
/** Milliseconds after the last event, in which clients can reconnect. The longest delay before a reconnect of any client, by default, is about 10 s. */
const SETTLING_TIME = isQuick ? 12_000 : 20_000
const OPEN_TIMEOUT = 60_000

/** A client that counts what arrives, behind a proxy of its own. */
class CountingClient {
  /** Resolves with the first welcome. */
  opened
  proxy
  delivered = 0
  duplicated = 0
  reordered = 0
  #received = new Uint8Array(EVENTS + 1)
  #highest = 0
  #close

  static async connect (connect, serverPort) {
    const client = new CountingClient()
    client.proxy = await CuttingProxy.start(serverPort)
    client.opened = new Promise(resolve => {
      client.#close = connect(`http://127.0.0.1:${client.proxy.port}`, resolve, n => { client.#receive(n) })
    })
    return client
  }

  /** Cuts the connection of the client at random times. */
  scheduleCuts (random) {
    const [min, max] = CUT_DELAYS
    const nextDelay = () => min + random() * (max - min)
    for (let at = nextDelay(); at < DURATION; at += nextDelay()) setTimeout(() => { this.proxy.cut() }, at)
  }

  async close () {
    await Promise.race([this.#close(), sleep(1000)])
    this.proxy.close()
  }

  #receive (n) {
    if (this.#received[n] === 1) {
      this.duplicated++
      return
    }
    this.#received[n] = 1
    this.delivered++
    if (n < this.#highest) this.reordered++
    this.#highest = Math.max(this.#highest, n)
  }
}

export default {
  name: 'drops',
  seconds: 90,
  // All rounds have the same cuts.
  maxRounds: 1,
  title: `${EVENTS.toLocaleString('en')} events for each of ${CLIENTS} clients, whose connections are cut every ${CUT_DELAYS.map(delay => delay / 1000).join(' to ')} s`,
  subjects: Object.keys(reconnectingClients),
  measures: {
    cuts: { label: 'connections cut' },
    delivered: { label: 'events delivered' },
    lost: { label: 'lost' },
    duplicated: { label: 'duplicated' },
    reordered: { label: 'reordered' }
  },
  goals: ['lost', 'duplicated', 'reordered'].map(measure => ({ measure, atMost: 0 })),
  async run ({ server, subject }) {
    const connect = reconnectingClients[subject]
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => CountingClient.connect(connect, server.port)))
    const timeout = sleep(OPEN_TIMEOUT, undefined, { ref: false }).then(() => { throw new Error('Timed out waiting for a client') })
    await Promise.race([Promise.all(clients.map(({ opened }) => opened)), timeout])
    // All subjects get the same cuts.
    const random = createRandom(SEED)
    for (const client of clients) client.scheduleCuts(random)
    await server.execute('broadcastPaced', 1, EVENTS, INTERVAL)
    const sum = count => clients.reduce((total, client) => total + count(client), 0)
    const delivered = () => sum(client => client.delivered)
    for (const end = performance.now() + SETTLING_TIME; delivered() < CLIENTS * EVENTS && performance.now() < end;) await sleep(100)
    const result = {
      cuts: sum(({ proxy }) => proxy.cutCount),
      delivered: delivered(),
      lost: CLIENTS * EVENTS - delivered(),
      duplicated: sum(client => client.duplicated),
      reordered: sum(client => client.reordered)
    }
    await Promise.all(clients.map(client => client.close()))
    return result
  }
}
