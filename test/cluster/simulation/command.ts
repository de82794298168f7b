// Runs histories, and prints the seeds of those that violate a guarantee: npm run simulate -- --histories 100000 --seed 1
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createPlan, Simulation, type Plan } from './history.js'
import { RedisEngine } from './redis-engine.js'
import { regressions } from './regressions.js'

const { values } = parseArgs({
  options: {
    histories: { type: 'string', default: '2000' },
    /** The seed of the first history. Each one has the next number. */
    seed: { type: 'string', default: '1' },
    /** The number of processes. Each has its own Redis. */
    workers: { type: 'string', default: '1' },
    /** Kinds of steps to leave out, separated by commas. */
    without: { type: 'string', default: '' },
    /** Runs only random histories, not the regressions. */
    random: { type: 'boolean', default: false },
    /** Prints the smallest history that violates the same guarantee, and its trace. */
    shrink: { type: 'boolean', default: false },
    /** Prints everything that happens. */
    trace: { type: 'boolean', default: false }
  }
})
const histories = Number(values.histories)
const firstSeed = Number(values.seed)
const workers = Number(values.workers)
// The server of a process ends with it, also when the process that started it ends.
for (const event of ['SIGINT', 'SIGTERM', 'disconnect']) process.once(event, () => { process.exit(1) })
process.exit(workers > 1 ? await runWorkers() : await runHistories())

async function runWorkers (): Promise<number> {
  const codes = await Promise.all(Array.from({ length: workers }, async (_, index) => {
    const from = Math.floor(histories * index / workers)
    const to = Math.floor(histories * (index + 1) / workers)
    // One process runs the regressions.
    const flags = [...values.shrink ? ['--shrink'] : [], ...values.trace ? ['--trace'] : [], ...values.random || index > 0 ? ['--random'] : []]
    const child = fork(fileURLToPath(import.meta.url), ['--histories', String(to - from), '--seed', String(firstSeed + from), '--without', values.without, ...flags])
    const [code] = await once(child, 'exit') as [number | null]
    return code ?? 1
  }))
  return Math.max(...codes)
}

/** Returns the exit code. */
async function runHistories (): Promise<number> {
  const startedAt = process.hrtime.bigint()
  const excluded = values.without.split(',')
  const engine = await RedisEngine.start()
  const simulation = new Simulation(engine)
  const kinds: Record<string, number> = {}
  let failures = 0
  let milliseconds = 0
  const run = async (plan: Plan, name: string): Promise<void> => {
    const { violations, trace, duration } = await simulation.run(plan, values.trace)
    milliseconds += duration
    if (values.trace) console.log([name, ...trace].join('\n'))
    const [first] = violations
    if (first === undefined) return
    failures++
    for (const kind of new Set(violations.map(({ kind }) => kind))) kinds[kind] = (kinds[kind] ?? 0) + 1
    console.log([name, ...violations.slice(0, 5).map(({ kind, text }) => `${kind}: ${text}`)].join('\n  '))
    if (!values.shrink) return
    const smallest = await simulation.shrink(plan, first.kind)
    console.log(JSON.stringify(smallest))
    console.log((await simulation.run(smallest, true)).trace.join('\n'))
  }
  for (const plan of values.random ? [] : regressions) await run(plan, `regression "${plan.title}"`)
  for (let seed = firstSeed; seed < firstSeed + histories; seed++) {
    const plan = createPlan(seed)
    await run({ ...plan, steps: plan.steps.filter(({ kind }) => !excluded.includes(kind)) }, `seed ${seed}`)
  }
  const { user, system } = process.cpuUsage()
  console.log(`${histories} histories of ${(milliseconds / 1000).toFixed(0)} virtual seconds from seed ${firstSeed}: ${failures} violate a guarantee ${JSON.stringify(kinds)}`)
  console.log(`${(Number(process.hrtime.bigint() - startedAt) / 1e9).toFixed(1)} s; CPU time ${((user + system) / 1e6).toFixed(1)} s, Redis ${(await engine.cpuSeconds()).toFixed(1)} s; ${engine.commands} commands; heap ${(process.memoryUsage().heapUsed / 2 ** 20).toFixed(0)} MiB`)
  return failures === 0 ? 0 : 1
}
