import { measure } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'

const EVENTS = scaled(200_000)
const EVENT_SIZE = 1000
const BATCH_SIZE = 1000

export default {
  name: 'replay',
  seconds: 5,
  title: `one client resumes and receives ${EVENTS.toLocaleString('en')} events of ${EVENT_SIZE.toLocaleString('en')} bytes`,
  subjects: ['ours'],
  // The default limits do not allow a log of this size.
  options: { channelLog: { entries: 1e9, bytes: 1e12 } },
  measures: {
    rate: { label: 'MB/s' },
    cpuRate: { label: 'MB per second of server CPU' }
  },
  goals: [{ measure: 'rate', atLeast: 500 }],
  async run ({ server, load }) {
    const [{ welcomeId }] = await load.open(1)
    load.close()
    for (let n = 1; n <= EVENTS; n += BATCH_SIZE) await server.execute('broadcast', n, BATCH_SIZE, EVENT_SIZE)
    const replay = async () => {
      load.bytes = load.eventCount = 0
      const stream = load.openStream({ headers: [`Last-Event-ID: ${welcomeId}`] })
      await stream.opened
      await load.waitUntil(() => load.eventCount === EVENTS, 'the replay')
      return stream
    }
    const warmUp = await replay()
    warmUp.destroy()
    const { seconds, cpu } = await measure(server, replay)
    return { rate: load.bytes / 1e6 / seconds, cpuRate: load.bytes / cpu }
  }
}
