import { EchoClient } from '../harness/echo-client.js'
import { latencyMeasures } from '../harness/latency.js'
import { measureRoundTrips } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { LOWER_BOUNDS, STANDARD } from '../subjects/index.js'

const SESSIONS = 100
const WARM_UP = scaled(200)
const ROUND_TRIPS = scaled(400)

const createWorkload = ({ name, title, subjects, withKeys = false }) => ({
  name,
  seconds: 10,
  title,
  subjects,
  measures: {
    cpu: { label: 'server CPU, µs per round trip', isRelative: true },
    rate: { label: 'round trips/s' },
    ...latencyMeasures
  },
  goals: [
    { measure: 'cpu', relativeTo: 'raw', atMost: 1.05 },
    { measure: 'cpu', relativeTo: 'express', atMost: 0.2 },
    { measure: 'p99', relativeTo: 'raw', atMost: 1 }
  ],
  async run ({ server, load }) {
    const streams = await load.open(SESSIONS)
    const clients = streams.map(stream => new EchoClient(load, server, stream, { withKeys }))
    const measured = await measureRoundTrips(server, load, clients, { warmUp: WARM_UP, count: ROUND_TRIPS })
    load.assertComplete()
    return measured
  }
})

export default [
  createWorkload({ name: 'echo', title: `a message and its echo, ${SESSIONS} sessions at once`, subjects: [...STANDARD, ...LOWER_BOUNDS] }),
  createWorkload({
    name: 'echo-keys',
    title: 'the same with an Idempotency-Key, which only ours evaluates',
    subjects: ['ours', 'raw', 'express'],
    withKeys: true
  })
]
