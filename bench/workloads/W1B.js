import { broadcast } from './broadcast.js'

export default [
  broadcast({ name: 'W1B', title: 'ten events in one tick to 1,000 sessions', sessions: 1000, ticks: 60, perTick: 10, atMost: 0.6 })
]
