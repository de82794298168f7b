import { measureRoundTrips } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { RequestClient } from '../harness/request-client.js'
import { createMeasures, goals, openOnBothNodes, TWO_NODES } from './support/redis.js'

const SESSIONS = 100
const WARM_UP = scaled(300)
const ROUND_TRIPS = scaled(400)

export default {
  name: 'redis-request',
  seconds: 15,
  title: `a message and its response, ${SESSIONS} sessions on two nodes; a POST goes to the node without the stream`,
  ...TWO_NODES,
  // `fastify` shows what a POST costs without Redis.
  subjects: [...TWO_NODES.subjects, 'fastify'],
  measures: createMeasures('message'),
  goals,
  async run ({ server: cluster, load }) {
    const clients = await openOnBothNodes(cluster, load, SESSIONS, (stream, otherNode) => new RequestClient(load, otherNode, stream))
    return await measureRoundTrips(cluster, load, clients, { warmUp: WARM_UP, count: ROUND_TRIPS })
  }
}
