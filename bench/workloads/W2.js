import { payload } from '../harness/payload.js'
import { Poster } from '../harness/poster.js'
import { ALL } from '../subjects/index.js'

const SESSIONS = 100
const WARM_UP = 50
const ROUND_TRIPS = 200

/** Each session sends a message and, when it has the answer and the event, the next. With a WebSocket there is no answer. */
function echo (load, server, withKeys) {
  let wanted = 0
  let done = 0
  const clients = load.streams.map((stream, i) => {
    let left = 0
    let n = 0
    const next = () => {
      n++
      const json = JSON.stringify(payload(n))
      if (poster === undefined) {
        left = 1
        stream.send(load.dialect.up(json))
      } else {
        left = 2
        const key = withKeys ? `Idempotency-Key: ${i}-${n}\r\n` : ''
        poster.post('/upward', `X-Session-ID: ${stream.sessionId}\r\n${key}`, json)
      }
    }
    const half = () => {
      if (--left > 0) return
      done++
      if (n < wanted) next()
      else load.pulse()
    }
    const poster = load.dialect.up === undefined ? new Poster(server, half, error => { load.fail(error) }) : undefined
    stream.onEvents = half
    return { next, poster }
  })
  return {
    async roundTrips (each) {
      wanted += each
      for (const { next } of clients) next()
      await load.until(() => done === wanted * clients.length, 'the echoes')
    },
    close () { for (const { poster } of clients) poster?.destroy() }
  }
}

const workload = (name, title, subjects, withKeys) => ({
  name,
  title,
  subjects,
  measures: {
    cpu: { label: 'server CPU, µs a round trip', relative: true },
    rate: { label: 'round trips/s' }
  },
  goals: [
    { what: 'CPU to raw', value: result => result.ratio('ours', 'cpu'), atMost: 1.05 },
    { what: 'CPU to the Express tutorial', value: result => result.ratio('ours', 'cpu', 'express'), atMost: 0.2 }
  ],
  async run ({ server, load }) {
    await load.open(SESSIONS)
    const clients = echo(load, server, withKeys)
    await clients.roundTrips(WARM_UP)
    await server.ask('begin')
    const begun = performance.now()
    await clients.roundTrips(ROUND_TRIPS)
    const seconds = (performance.now() - begun) / 1000
    const cpu = await server.ask('end')
    load.verify()
    clients.close()
    return { cpu: cpu / (SESSIONS * ROUND_TRIPS), rate: SESSIONS * ROUND_TRIPS / seconds }
  }
})

export default [
  workload('W2', 'a message up and its echo down, 100 sessions at once', ALL, false),
  workload('W2 keys', 'the same, with an Idempotency-Key that only ours regards', ['ours', 'raw'], true)
]
