import { ALL } from '../subjects/index.js'

const SESSIONS = 10_000
const HEARTBEAT_INTERVAL = 2000

// Heartbeats come more often than by default, so that a run need not take minutes.
export default [{
  name: 'W3',
  title: '10,000 idle sessions, with heartbeats where the subject has them',
  subjects: ALL,
  options: { heartbeatInterval: HEARTBEAT_INTERVAL },
  measures: {
    heap: { label: 'heap, bytes a session' },
    rss: { label: 'rss, bytes a session' },
    cpu: { label: 'server CPU, µs a heartbeat', relative: true }
  },
  goals: [
    { what: 'heap a session more than raw, bytes', value: result => result.median('ours', 'heap') - result.median('raw', 'heap'), atMost: 1024 },
    { what: 'rss a session more than raw, bytes', value: result => result.median('ours', 'rss') - result.median('raw', 'rss'), atMost: 1024 },
    { what: 'heartbeat CPU to raw', value: result => result.ratio('ours', 'cpu'), atMost: 1 }
  ],
  async run ({ server, load }) {
    // What code and pools take the first time is no session's.
    await load.open(500)
    const before = await server.ask('memory')
    await load.open(SESSIONS)
    const after = await server.ask('memory')
    const memory = { heap: (after.heap - before.heap) / SESSIONS, rss: (after.rss - before.rss) / SESSIONS }
    if (!server.heartbeats) return memory
    const first = load.pulses
    await load.until(() => load.pulses >= first + load.streams.length, 'the first heartbeats')
    const from = load.pulses
    await server.ask('begin')
    await load.until(() => load.pulses >= from + 3 * load.streams.length, 'heartbeats')
    const cpu = await server.ask('end')
    return { ...memory, cpu: cpu / (load.pulses - from) }
  }
}]
