import { measurePerOperation } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'
import { createMeasures, goals, TWO_NODES } from './support/redis.js'

const createWorkload = ({ name, clients, batchSize, batches }) => ({
  name,
  seconds: 8,
  title: `broadcasts from one node to ${clients} clients of another, ${batchSize} at a time`,
  ...TWO_NODES,
  measures: createMeasures('broadcast'),
  goals,
  async run ({ server: cluster, load }) {
    await load.open(clients)
    await load.broadcast(Math.ceil(batches / 2), { batchSize })
    await load.startLatencies()
    const measured = await measurePerOperation(cluster, batches * batchSize, () => load.broadcast(batches, { batchSize }))
    const latencies = await load.stopLatencies()
    load.assertComplete()
    return { ...measured, ...latencies }
  }
})

export default [
  createWorkload({ name: 'redis-broadcast', clients: 10, batchSize: 1, batches: scaled(2000) }),
  createWorkload({ name: 'redis-broadcast-burst', clients: 10, batchSize: 100, batches: scaled(200) }),
  createWorkload({ name: 'redis-broadcast-burst-200', clients: 200, batchSize: 100, batches: scaled(20) })
]
