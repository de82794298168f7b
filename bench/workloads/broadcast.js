import { ALL, FLOORS, PEERS } from '../subjects/index.js'

/** A workload of ticks to all sessions; W1 and W1B are such. */
export function broadcast ({ name, title, sessions, ticks, perTick, atMost, belowPeers = false }) {
  return {
    name,
    title,
    subjects: [...ALL, ...FLOORS, 'nchan'],
    measures: {
      cpu: { label: 'server CPU, µs an event and session', relative: true },
      rate: { label: 'events/s to all sessions' }
    },
    goals: [
      { what: 'CPU to raw', value: result => result.ratio('ours', 'cpu'), atMost },
      ...belowPeers ? [{ what: 'CPU to the best Node peer', value: result => Math.max(...PEERS.map(peer => result.ratio('ours', 'cpu', peer)).filter(Number.isFinite)), atMost: 1 }] : []
    ],
    async run ({ server, load }) {
      await load.open(sessions)
      await load.ticks(ticks >> 1, { perTick })
      await server.ask('begin')
      const begun = performance.now()
      await load.ticks(ticks, { perTick })
      const seconds = (performance.now() - begun) / 1000
      const cpu = await server.ask('end')
      load.verify()
      return { cpu: cpu / (sessions * ticks * perTick), rate: sessions * ticks * perTick / seconds }
    }
  }
}
