import { setTimeout as sleep } from 'node:timers/promises'
import { EchoClient } from '../harness/echo-client.js'
import { LoadGenerator } from '../harness/load-generator.js'
import { measure } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'

const SESSIONS = scaled(10_000)
const LIVE_SESSIONS = 20
/** Half of them are broadcasts, half are sent to each session separately. */
const MISSED_EVENTS = 100
const EVENT_SIZE = 128
/** Milliseconds between two round trips of a live session, and between two polls. */
const PAUSE = 10

/** Opens the next stream of a session after the delay from the server, as an EventSource does. */
async function resumeSession (load, { sessionId, retry, welcomeId }) {
  await sleep(retry)
  const stream = load.openStream({ headers: [`Last-Event-ID: ${welcomeId}`] })
  load.streams.push(stream)
  await stream.opened
  if (stream.sessionId !== sessionId) throw new Error('A session was not resumed')
}

/** Sessions that stay connected and make round trips during the measurement. */
class LiveSessions {
  #load
  #clients
  #isStopped = false
  #loops
  #longestRoundTrip = 0

  static async open (server) {
    const sessions = new LiveSessions()
    sessions.#load = new LoadGenerator(server)
    const streams = await sessions.#load.open(LIVE_SESSIONS)
    sessions.#clients = streams.map(stream => new EchoClient(sessions.#load, server, stream))
    return sessions
  }

  start () {
    this.#loops = this.#clients.map(async client => {
      while (!this.#isStopped) {
        const start = performance.now()
        await new Promise(resolve => { client.roundTrip(resolve) })
        this.#longestRoundTrip = Math.max(this.#longestRoundTrip, performance.now() - start)
        await sleep(PAUSE)
      }
    })
  }

  /** Returns how long the longest round trip took, in milliseconds. */
  async stop () {
    this.#isStopped = true
    await Promise.all(this.#loops)
    this.#load.assertNotFailed()
    for (const client of this.#clients) client.destroy()
    return this.#longestRoundTrip
  }
}

export default {
  name: 'resume',
  seconds: 20,
  title: `${SESSIONS.toLocaleString('en')} sessions lose their streams at once, miss ${MISSED_EVENTS} events each, and resume`,
  subjects: ['ours'],
  options: { keepSessions: true },
  measures: {
    seconds: { label: 'until all have received everything, s' },
    longestRoundTrip: { label: 'longest round trip of live sessions, ms' },
    longestPause: { label: "longest pause of the server's event loop, ms" },
    cpu: { label: 'server CPU, µs per session' }
  },
  goals: [
    { measure: 'seconds', atMost: 10 },
    { measure: 'longestRoundTrip', atMost: 200 }
  ],
  async run ({ server, load }) {
    const sessions = (await load.open(SESSIONS)).map(({ sessionId, retry, welcomeId }) => ({ sessionId, retry, welcomeId }))
    load.close()
    while (await server.execute('call', 'streamCount') > 0) await sleep(PAUSE)
    for (let n = 1; n <= MISSED_EVENTS; n++) await server.execute(n % 2 === 1 ? 'broadcast' : 'sendToEach', n, 1, EVENT_SIZE)
    const liveSessions = await LiveSessions.open(server)
    const { seconds, cpu, longestPause } = await measure(server, async () => {
      liveSessions.start()
      await Promise.all(sessions.map(session => resumeSession(load, session)))
      await load.waitUntil(() => load.eventCount === SESSIONS * MISSED_EVENTS, 'the replay')
    })
    const longestRoundTrip = await liveSessions.stop()
    if (load.streams.some(({ next }) => next !== MISSED_EVENTS + 1)) throw new Error('A session did not receive all that it had missed')
    return { seconds, longestRoundTrip, longestPause, cpu: cpu / SESSIONS }
  }
}
