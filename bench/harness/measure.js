import { summarizeLatencies } from './latency.js'

/**
 * Runs `work` and measures it: `seconds` by the clock, the server's `cpu` in microseconds, and whatever else the server
 * measures meanwhile (see `stopMeasurement` of ServerProcess and Cluster). `options` are those of `startMeasurement`.
 */
export async function measure (server, work, options) {
  await server.startMeasurement(options)
  const start = performance.now()
  await work()
  const seconds = (performance.now() - start) / 1000
  return { seconds, ...await server.stopMeasurement() }
}

/** Runs `work`, which does `count` operations, and returns operations per second and microseconds of CPU per operation. */
export async function measurePerOperation (server, count, work) {
  const { seconds, cpu, redis } = await measure(server, work)
  return { rate: count / seconds, cpu: cpu / count, ...redis !== undefined && { redis: redis / count } }
}

/**
 * Makes `count` round trips with each client, all clients at once, after `warmUp` round trips. Returns also the percentiles
 * of their durations. Destroys the clients.
 */
export async function measureRoundTrips (server, load, clients, { warmUp, count }) {
  await load.runRoundTrips(clients, warmUp)
  let durations
  const measured = await measurePerOperation(server, clients.length * count, async () => { durations = await load.runRoundTrips(clients, count) })
  for (const client of clients) client.destroy()
  return { ...measured, ...summarizeLatencies(durations) }
}
