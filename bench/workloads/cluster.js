/** What workloads of two nodes over one Redis have in common: beside Socket.IO, with its adapter of Redis streams. */
export const CLUSTERED = { nodes: 2, subjects: ['ours', 'socket.io'], base: 'socket.io' }

export const measures = one => ({
  rate: { label: `${one}s/s`, relative: true },
  cpu: { label: `CPU of both nodes, µs a ${one}`, relative: true },
  redis: { label: `Redis's CPU, µs a ${one}`, relative: true }
})

export const goals = [
  { what: 'rate to socket.io', value: result => result.ratio('ours', 'rate', 'socket.io'), atLeast: 2 },
  { what: "nodes' CPU to socket.io", value: result => result.ratio('ours', 'cpu', 'socket.io'), atMost: 0.5 }
]
