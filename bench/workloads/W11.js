import { AskClient } from '../harness/ask.js'
import { roundTrips } from '../harness/trips.js'
import { CLUSTERED, goals, measures } from './cluster.js'

const SESSIONS = 100
const WARM_UP = 50
const ROUND_TRIPS = 200

export default [{
  name: 'W11',
  title: 'a message up and its answer, 100 sessions over two nodes; each POST goes to the node that has not the stream',
  ...CLUSTERED,
  measures: measures('message'),
  goals,
  async run ({ server: cluster, load }) {
    const [one, other] = cluster.nodes
    const clients = []
    for (const [node, posted] of [[one, other], [other, one]]) {
      const streams = await load.open(SESSIONS / 2, { options: { port: node.port } })
      clients.push(...streams.map(stream => new AskClient(load, posted, stream)))
    }
    await roundTrips(load, clients, WARM_UP)
    await cluster.begin()
    const begun = performance.now()
    await roundTrips(load, clients, ROUND_TRIPS)
    const seconds = (performance.now() - begun) / 1000
    const { cpu, redis } = await cluster.end()
    for (const client of clients) client.destroy()
    const count = SESSIONS * ROUND_TRIPS
    return { rate: count / seconds, cpu: cpu / count, redis: redis / count }
  }
}]
