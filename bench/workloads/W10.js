import { CLUSTERED, goals, measures } from './cluster.js'

const workload = ({ name, clients, perTick, ticks }) => ({
  name,
  title: `broadcasts from one node to ${clients} clients of another, ${perTick} at a time`,
  ...CLUSTERED,
  measures: measures('broadcast'),
  goals,
  async run ({ server: cluster, load }) {
    await load.open(clients)
    await load.ticks(ticks >> 1, { perTick })
    await cluster.begin()
    const begun = performance.now()
    await load.ticks(ticks, { perTick })
    const seconds = (performance.now() - begun) / 1000
    const { cpu, redis } = await cluster.end()
    load.verify()
    const count = ticks * perTick
    return { rate: count / seconds, cpu: cpu / count, redis: redis / count }
  }
})

export default [
  workload({ name: 'W10', clients: 10, perTick: 1, ticks: 2000 }),
  workload({ name: 'W10B', clients: 10, perTick: 100, ticks: 200 }),
  workload({ name: 'W10 200', clients: 200, perTick: 100, ticks: 20 })
]
