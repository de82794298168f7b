/** Measures of workloads that return the result of `summarizeLatencies`. */
export const latencyMeasures = {
  p50: { label: 'latency p50, ms', isRelative: true },
  p99: { label: 'latency p99, ms', isRelative: true }
}

/** The time in milliseconds of a clock that all processes of the machine share, unlike `performance.now()`. */
export const now = () => Number(process.hrtime.bigint()) / 1e6

/** Returns the median and the 99th percentile of durations in milliseconds. */
export function summarizeLatencies (latencies) {
  const sorted = Float64Array.from(latencies).sort()
  const percentile = share => sorted[Math.ceil(sorted.length * share) - 1]
  return { p50: percentile(0.5), p99: percentile(0.99) }
}
