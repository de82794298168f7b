import { EchoClient } from '../harness/echo-client.js'
import { measureRoundTrips } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { createMeasures, goals, openOnBothNodes, TWO_NODES } from './support/redis.js'

const SESSIONS = 100
const WARM_UP = scaled(300)
const ROUND_TRIPS = scaled(400)

export default {
  name: 'redis-relay',
  seconds: 15,
  title: `a message that is sent on to a client of the other node, ${SESSIONS} sessions at once`,
  ...TWO_NODES,
  options: { joinOwnChannel: true },
  measures: createMeasures('message'),
  goals,
  async run ({ server: cluster, load }) {
    const clients = await openOnBothNodes(cluster, load, SESSIONS, (stream, otherNode, otherStream) =>
      new EchoClient(load, otherNode, stream, { receiver: otherStream }))
    const measured = await measureRoundTrips(cluster, load, clients, { warmUp: WARM_UP, count: ROUND_TRIPS })
    load.assertComplete()
    return measured
  }
}
