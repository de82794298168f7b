import { EchoClient } from '../harness/echo.js'
import { CLUSTERED, goals, measures, measureTrips, openAtBoth } from './cluster.js'

const SESSIONS = 100
const ROUND_TRIPS = 200

export default [{
  name: 'W12',
  title: 'a message up, sent on to a client of the other node, 100 sessions at once',
  ...CLUSTERED,
  options: { rooms: true },
  measures: measures('message'),
  goals,
  async run ({ server: cluster, load }) {
    const clients = await openAtBoth(cluster, load, SESSIONS, ({ here, there, other }) =>
      here.map((stream, i) => new EchoClient(load, other, stream, { hearer: there[i] })))
    const measured = await measureTrips(cluster, load, clients, ROUND_TRIPS)
    load.verify()
    return measured
  }
}]
