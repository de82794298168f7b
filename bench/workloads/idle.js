import { measure } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { STANDARD } from '../subjects/index.js'
import { measureMemory, memoryGoals, memoryMeasures } from './support/memory.js'

const WARM_UP = scaled(500)
const SESSIONS = scaled(10_000)
/** Milliseconds; far below the default of each subject, so that a run does not take minutes. */
const HEARTBEAT_INTERVAL = 2000
const HEARTBEATS = 3

export default {
  name: 'idle',
  seconds: 20,
  title: `${SESSIONS.toLocaleString('en')} idle sessions, with heartbeats if the subject has them`,
  subjects: STANDARD,
  options: { heartbeatInterval: HEARTBEAT_INTERVAL },
  measures: {
    ...memoryMeasures,
    cpu: { label: 'server CPU, µs per heartbeat', isRelative: true }
  },
  goals: [...memoryGoals, { measure: 'cpu', relativeTo: 'raw', atMost: 1 }],
  async run ({ server, load }) {
    // Code and pools that the first sessions load do not count as memory of a session.
    await load.open(WARM_UP)
    const { perSession } = await measureMemory(server, load, SESSIONS)
    if (!server.hasHeartbeats) return perSession
    const waitForHeartbeats = async count => {
      const expected = load.heartbeatCount + count * load.streams.length
      await load.waitUntil(() => load.heartbeatCount >= expected, 'heartbeats')
    }
    await waitForHeartbeats(1)
    const countBefore = load.heartbeatCount
    const { cpu } = await measure(server, () => waitForHeartbeats(HEARTBEATS))
    return { ...perSession, cpu: cpu / (load.heartbeatCount - countBefore) }
  }
}
