/**
 * Runs `work` and measures it: `seconds` by the clock, the server's `cpu` in microseconds, and whatever else the server
 * measures meanwhile (see `stopMeasurement` of ServerProcess and Cluster).
 */
export async function measure (server, work) {
  await server.startMeasurement()
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
