import { roundTrips } from '../harness/trips.js'

/** What workloads of two nodes over one Redis have in common: beside Socket.IO, with its adapter of Redis streams. */
export const CLUSTERED = { nodes: 2, subjects: ['ours', 'socket.io', 'socket.io-polling'], base: 'socket.io' }

export const measures = one => ({
  rate: { label: `${one}s/s`, relative: true },
  cpu: { label: `CPU of both nodes, µs a ${one}`, relative: true },
  redis: { label: `Redis's CPU, µs a ${one}`, relative: true }
})

export const goals = [
  { what: 'rate to socket.io', value: result => result.ratio('ours', 'rate', 'socket.io'), atLeast: 2 },
  { what: "nodes' CPU to socket.io", value: result => result.ratio('ours', 'cpu', 'socket.io'), atMost: 0.5 },
  { what: 'rate to socket.io over plain HTTP', value: result => result.ratio('ours', 'rate', 'socket.io-polling'), atLeast: 2 }
]

/** Measures what round trips of all clients take, spread over the nodes. */
export async function measureTrips (cluster, load, clients, each) {
  await roundTrips(load, clients, each >> 2)
  await cluster.begin()
  const begun = performance.now()
  await roundTrips(load, clients, each)
  const seconds = (performance.now() - begun) / 1000
  const { cpu, redis } = await cluster.end()
  for (const client of clients) client.destroy()
  const count = clients.length * each
  return { rate: count / seconds, cpu: cpu / count, redis: redis / count }
}

/** Opens clients at each node, and has `make` make something of each node's: of their streams, and the other node's and its streams. */
export async function openAtBoth (cluster, load, count, make) {
  const [one, other] = cluster.nodes
  const open = ({ port }) => load.open(count / 2, { options: { port } })
  const [ours, theirs] = [await open(one), await open(other)]
  return [...make({ here: ours, there: theirs, other }), ...make({ here: theirs, there: ours, other: one })]
}
