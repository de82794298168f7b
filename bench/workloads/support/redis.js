import { latencyMeasures } from '../../harness/latency.js'

/** Settings of workloads with two nodes and one Redis, which are compared with Socket.IO and its Redis streams adapter. */
export const TWO_NODES = { nodes: 2, subjects: ['ours', 'socket.io', 'socket.io-polling'], base: 'socket.io' }

export const createMeasures = operation => ({
  rate: { label: `${operation}s/s`, isRelative: true },
  cpu: { label: `CPU of both nodes, µs per ${operation}`, isRelative: true },
  redis: { label: `CPU of Redis, µs per ${operation}`, isRelative: true },
  ...latencyMeasures
})

export const goals = [
  { measure: 'rate', relativeTo: 'socket.io', atLeast: 2 },
  { measure: 'cpu', relativeTo: 'socket.io', atMost: 0.5 },
  { measure: 'rate', relativeTo: 'socket.io-polling', atLeast: 2 }
]

/**
 * Opens half of the streams on each node. Returns a client for each stream, from `createClient(stream, otherNode,
 * otherStream)`: it also gets the other node, and a stream there.
 */
export async function openOnBothNodes (cluster, load, count, createClient) {
  const [nodeA, nodeB] = cluster.nodes
  const streamsA = await load.open(count / 2, { port: nodeA.port })
  const streamsB = await load.open(count / 2, { port: nodeB.port })
  return [
    ...streamsA.map((stream, i) => createClient(stream, nodeB, streamsB[i])),
    ...streamsB.map((stream, i) => createClient(stream, nodeA, streamsA[i]))
  ]
}
