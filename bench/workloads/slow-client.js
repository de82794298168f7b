import { scaled } from '../harness/quick.js'
import { STANDARD } from '../subjects/index.js'

const MiB = 1024 * 1024
const CLIENTS = 100
const EVENT_SIZE = 64 * 1024
const VOLUME = 200 * MiB
const EVENTS = scaled(VOLUME / EVENT_SIZE)

/** Sends events to all clients that read, and returns how many events per second each received. */
async function measureRate (load, count, readers) {
  const start = performance.now()
  await load.broadcast(count, { size: EVENT_SIZE, readers })
  return count / ((performance.now() - start) / 1000)
}

export default {
  name: 'slow-client',
  seconds: 20,
  title: `one of ${CLIENTS} clients stops reading while ${EVENTS * EVENT_SIZE / MiB} MiB are sent to each`,
  subjects: STANDARD,
  // An interval of an hour turns heartbeats off, so that no subject disconnects the client because it does not respond to a ping.
  options: { heartbeatInterval: 3_600_000 },
  measures: {
    growth: { label: 'growth of the process, MiB', isRelative: true },
    rate: { label: 'rate of the others, relative to before' }
  },
  goals: [
    { measure: 'growth', atMost: 32 },
    { measure: 'rate', atLeast: 0.95 }
  ],
  async run ({ server, load }) {
    const [stalled, ...others] = await load.open(CLIENTS, { isSampled: false })
    // After this, the process has the size that this traffic needs anyway.
    await measureRate(load, Math.ceil(EVENTS / 8))
    await server.execute('memory')
    await server.execute('takePeakRss')
    const rateBefore = await measureRate(load, Math.ceil(EVENTS / 4))
    const peakBefore = await server.execute('takePeakRss')
    stalled.stall()
    const rate = await measureRate(load, EVENTS, others)
    const peak = await server.execute('takePeakRss')
    return { growth: (peak - peakBefore) / MiB, rate: rate / rateBefore }
  }
}
