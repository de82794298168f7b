import { AskClient } from '../harness/ask.js'
import { CLUSTERED, goals, measures, measureTrips, openAtBoth } from './cluster.js'

const SESSIONS = 100
const ROUND_TRIPS = 200

export default [{
  name: 'W11',
  title: 'a message up and its answer, 100 sessions over two nodes; POSTs go to the node that has not the stream',
  ...CLUSTERED,
  // What a POST costs that asks no Redis.
  subjects: [...CLUSTERED.subjects, 'fastify'],
  measures: measures('message'),
  goals,
  async run ({ server: cluster, load }) {
    const clients = await openAtBoth(cluster, load, SESSIONS, ({ here, other }) => here.map(stream => new AskClient(load, other, stream)))
    return await measureTrips(cluster, load, clients, ROUND_TRIPS)
  }
}]
