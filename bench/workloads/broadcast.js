import { measurePerOperation } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { LIBRARIES, LOWER_BOUNDS, STANDARD } from '../subjects/index.js'

function createWorkload ({ name, sessions, broadcasts, batchSize, goals }) {
  return {
    name,
    title: `${batchSize === 1 ? 'one event' : `${batchSize} events`} per tick to ${sessions.toLocaleString('en')} sessions`,
    subjects: [...STANDARD, ...LOWER_BOUNDS, 'nchan'],
    measures: {
      cpu: { label: 'server CPU, µs per event and session', isRelative: true },
      rate: { label: 'events/s to all sessions' }
    },
    goals,
    async run ({ server, load }) {
      await load.open(sessions)
      await load.broadcast(Math.ceil(broadcasts / 2), { batchSize })
      const measured = await measurePerOperation(server, sessions * broadcasts * batchSize, () => load.broadcast(broadcasts, { batchSize }))
      load.assertComplete()
      return measured
    }
  }
}

const goals = [
  { measure: 'cpu', relativeTo: 'raw', atMost: 0.85 },
  { measure: 'cpu', relativeTo: LIBRARIES, atMost: 1 }
]

export default [
  createWorkload({ name: 'broadcast', sessions: scaled(1000), broadcasts: scaled(300), batchSize: 1, goals }),
  createWorkload({ name: 'broadcast-5000', sessions: scaled(5000), broadcasts: scaled(60), batchSize: 1, goals }),
  createWorkload({
    name: 'broadcast-burst',
    sessions: scaled(1000),
    broadcasts: scaled(60),
    batchSize: 10,
    goals: [{ measure: 'cpu', relativeTo: 'raw', atMost: 0.6 }]
  })
]
