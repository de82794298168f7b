import { summarizeLatencies } from '../harness/latency.js'
import { measurePerOperation } from '../harness/measure.js'
import { MessageClient } from '../harness/message-client.js'
import { scaled } from '../harness/quick.js'
import { createMeasures, openOnBothNodes, TWO_NODES } from './support/redis.js'

const SESSIONS = scaled(1000)
/** Messages of each session per second. */
const PACE = 50
const WARM_UP_SECONDS = 0.5
const SECONDS = 2

export default {
  name: 'redis-messages',
  seconds: 40,
  title: `${PACE} messages per second from each of ${SESSIONS.toLocaleString('en')} sessions on two nodes; a POST goes to the node without the stream`,
  ...TWO_NODES,
  subjects: ['ours', 'socket.io'],
  measures: {
    ...createMeasures('message'),
    total: { label: 'both together, µs', isRelative: true },
    repeated: { label: 'messages repeated' }
  },
  goals: [{ measure: 'total', relativeTo: 'socket.io', atMost: 1 }],
  async run ({ server: cluster, load }) {
    const clients = await openOnBothNodes(cluster, load, SESSIONS, (stream, otherNode) => new MessageClient(load, otherNode, stream))
    const rate = PACE * SESSIONS
    await load.sendMessages(clients, { rate, count: WARM_UP_SECONDS * rate })
    const count = SECONDS * rate
    let durations
    const measured = await measurePerOperation(cluster, count, async () => { durations = await load.sendMessages(clients, { rate, count }) })
    load.assertNotFailed()
    for (const client of clients) client.destroy()
    const repeated = clients.reduce((sum, { repeatCount }) => sum + repeatCount, 0)
    return { ...measured, total: measured.cpu + measured.redis, repeated, ...summarizeLatencies(durations) }
  }
}
