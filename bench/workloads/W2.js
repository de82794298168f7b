import { EchoClient } from '../harness/echo.js'
import { roundTrips } from '../harness/trips.js'
import { ALL, FLOORS } from '../subjects/index.js'

const SESSIONS = 100
const WARM_UP = 200
const ROUND_TRIPS = 400

const workload = (name, title, subjects, keys) => ({
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
    const clients = load.streams.map(stream => new EchoClient(load, server, stream, { keys }))
    await roundTrips(load, clients, WARM_UP)
    await server.ask('begin')
    const begun = performance.now()
    await roundTrips(load, clients, ROUND_TRIPS)
    const seconds = (performance.now() - begun) / 1000
    const cpu = await server.ask('end')
    load.verify()
    for (const client of clients) client.destroy()
    return { cpu: cpu / (SESSIONS * ROUND_TRIPS), rate: SESSIONS * ROUND_TRIPS / seconds }
  }
})

export default [
  workload('W2', 'a message up and its echo down, 100 sessions at once', [...ALL, ...FLOORS], false),
  workload('W2 keys', 'the same with an Idempotency-Key, which only ours regards', ['ours', 'raw', 'express'], true)
]
