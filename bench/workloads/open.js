import { measurePerOperation } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { LOWER_BOUNDS, STANDARD } from '../subjects/index.js'

const WARM_UP = scaled(1000)
const SESSIONS = scaled(5000)

export default {
  name: 'open',
  seconds: 5,
  title: `opening ${SESSIONS.toLocaleString('en')} sessions, 100 at a time`,
  subjects: [...STANDARD, ...LOWER_BOUNDS],
  measures: {
    cpu: { label: 'server CPU, µs per session', isRelative: true },
    rate: { label: 'sessions/s' }
  },
  goals: [{ measure: 'cpu', relativeTo: 'raw', atMost: 1.1 }],
  async run ({ server, load }) {
    await load.open(WARM_UP)
    return await measurePerOperation(server, SESSIONS, () => load.open(SESSIONS))
  }
}
