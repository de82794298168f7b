import { latencyMeasures } from '../harness/latency.js'
import { measurePerOperation } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { LIBRARIES, LOWER_BOUNDS, STANDARD } from '../subjects/index.js'

/** Events of the paced broadcast per second. */
const PACE = 50

/** `send (load, count)` sends and receives `count` batches of `batchSize` events. */
function createWorkload ({ name, title, seconds, sessions, broadcasts, batchSize = 1, send = (load, count) => load.broadcast(count, { batchSize }), goals }) {
  return {
    name,
    seconds,
    title: `${title} to ${sessions.toLocaleString('en')} sessions`,
    subjects: [...STANDARD, ...LOWER_BOUNDS, 'nchan'],
    measures: {
      cpu: { label: 'server CPU, µs per event and session', isRelative: true },
      rate: { label: 'events/s to all sessions' },
      ...latencyMeasures
    },
    goals,
    async run ({ server, load }) {
      await load.open(sessions)
      await send(load, Math.ceil(broadcasts / 2))
      await load.startLatencies()
      const measured = await measurePerOperation(server, sessions * broadcasts * batchSize, () => send(load, broadcasts))
      const latencies = await load.stopLatencies()
      load.assertComplete()
      return { ...measured, ...latencies }
    }
  }
}

const goals = [
  { measure: 'cpu', relativeTo: 'raw', atMost: 0.85 },
  { measure: 'cpu', relativeTo: LIBRARIES, atMost: 1 }
]

export default [
  createWorkload({ name: 'broadcast', seconds: 8, title: 'one event per tick', sessions: scaled(1000), broadcasts: scaled(300), goals }),
  createWorkload({ name: 'broadcast-5000', seconds: 12, title: 'one event per tick', sessions: scaled(5000), broadcasts: scaled(60), goals }),
  createWorkload({
    name: 'broadcast-burst',
    seconds: 8,
    title: '10 events per tick',
    sessions: scaled(1000),
    broadcasts: scaled(60),
    batchSize: 10,
    goals: [{ measure: 'cpu', relativeTo: 'raw', atMost: 0.6 }]
  }),
  createWorkload({
    name: 'broadcast-paced',
    seconds: 18,
    title: `${PACE} events per second`,
    sessions: scaled(1000),
    broadcasts: scaled(500),
    send: (load, count) => load.broadcastPaced(count, 1000 / PACE),
    goals: [
      { measure: 'cpu', relativeTo: 'raw', atMost: 0.9 },
      { measure: 'p99', relativeTo: 'raw', atMost: 1 }
    ]
  })
]
