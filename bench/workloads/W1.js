import { broadcast } from './broadcast.js'

const one = { perTick: 1, atMost: 0.85, belowPeers: true }

export default [
  broadcast({ ...one, name: 'W1', title: 'one event a tick to 1,000 sessions', sessions: 1000, ticks: 300 }),
  broadcast({ ...one, name: 'W1 5,000', title: 'one event a tick to 5,000 sessions', sessions: 5000, ticks: 60 })
]
