/** True with `--quick`, which runs everything with small counts to check that it works. Workloads read it when they are loaded. */
export const isQuick = process.argv.includes('--quick')

/** A count of a workload, or a twentieth of it in a quick run. */
export const scaled = count => isQuick ? Math.max(2, Math.round(count / 20)) : count
