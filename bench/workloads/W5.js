import { ALL } from '../subjects/index.js'

const MiB = 1024 * 1024
const CLIENTS = 100
const SIZE = 64 * 1024
const TICKS = 200 * MiB / SIZE

/** Sends so much to every client that reads, and answers how many events a second each got. */
async function rate (load, ticks, readers) {
  const begun = performance.now()
  await load.ticks(ticks, { size: SIZE, readers })
  return ticks / ((performance.now() - begun) / 1000)
}

export default [{
  name: 'W5',
  title: 'one of 100 clients stops reading while 200 MiB are sent to each',
  subjects: ALL,
  // None is rid of the client because it does not answer pings: that is another matter.
  options: { heartbeatInterval: 3_600_000 },
  measures: {
    growth: { label: 'process growth, MiB', relative: true },
    kept: { label: "the others' rate, of that with none stalled" }
  },
  goals: [
    { what: 'growth, MiB', value: result => result.median('ours', 'growth'), atMost: 32 },
    { what: "the others' rate, of that with none stalled", value: result => result.median('ours', 'kept'), atLeast: 0.95 }
  ],
  async run ({ server, load }) {
    const [stalled, ...others] = await load.open(CLIENTS, { options: { sampled: false } })
    // Long enough that the process has the size that this traffic takes.
    await rate(load, TICKS / 8)
    await server.ask('memory')
    await server.ask('peak')
    const undisturbed = await rate(load, TICKS / 4)
    const before = await server.ask('peak')
    stalled.stall()
    const disturbed = await rate(load, TICKS, others)
    const after = await server.ask('peak')
    return { growth: (after - before) / MiB, kept: disturbed / undisturbed }
  }
}]
