import { writeFileSync } from 'node:fs'
import { arch, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { Cluster } from './harness/cluster.js'
import { LoadGenerator } from './harness/load-generator.js'
import { isRedisInstalled } from './harness/redis.js'
import { printSummary, summarize } from './harness/report.js'
import { pinToSecondCore, ServerProcess } from './harness/server-process.js'
import { SUBJECTS } from './subjects/index.js'
import { isNchanInstalled } from './subjects/nchan.js'
import { workloads } from './workloads/index.js'

// Usage: npm run bench -- [workload …] [--subjects a,b] [--rounds 3] [--profile]
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    subjects: { type: 'string', default: SUBJECTS.join() },
    rounds: { type: 'string', default: '3' },
    profile: { type: 'boolean', default: false }
  }
})
const selected = workloads.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
await runAll({ selected, subjects: values.subjects.split(','), rounds: Number(values.rounds), profile: values.profile })

async function runAll ({ selected, subjects, rounds, profile }) {
  const isPinned = pinToSecondCore()
  if (!isPinned) console.log('The processes could not be pinned to cores, so expect more noise')
  const hasRedis = isRedisInstalled()
  const available = subjects.filter(subject => subject !== 'nchan' || isNchanInstalled())
  if (available.length < subjects.length) console.log('nchan is not installed, so it is skipped')
  const results = []
  for (const workload of selected) {
    const runnable = workload.subjects.filter(subject => available.includes(subject))
    if (workload.nodes !== undefined && !hasRedis) {
      console.log(`\n${workload.name}: skipped, because redis-server is not installed`)
    } else if (runnable.length === 0) {
      console.log(`\n${workload.name}: skipped, because it only runs with ${workload.subjects.join(', ')}`)
    } else {
      results.push(await runWorkload(workload, runnable, { rounds, profile, isPinned }))
    }
  }
  const machine = { node: process.version, cpu: cpus()[0].model, cores: cpus().length, arch: arch(), isPinned }
  writeFileSync(new URL('results.json', import.meta.url), JSON.stringify({ at: new Date().toISOString(), machine, results }, null, 2))
}

/** Runs a workload with all subjects in turn, once per round. Prints the result and returns it. */
async function runWorkload (workload, subjects, { rounds, ...settings }) {
  const measured = Object.fromEntries(subjects.map(subject => [subject, []]))
  for (let round = 0; round < rounds; round++) {
    for (const subject of subjects) {
      try {
        const values = await runOnce(workload, subject, settings)
        measured[subject].push(values)
        console.error(workload.name, subject, values)
      } catch (cause) {
        throw new Error(`${workload.name} failed with ${subject}`, { cause })
      }
    }
  }
  const summary = summarize(workload, measured)
  printSummary(summary)
  return summary
}

/** Runs a workload once, in new server processes. */
async function runOnce (workload, subject, { profile, isPinned }) {
  const { name, nodes, options, run } = workload
  const profileTo = profile ? `${name}.${subject.replace(/\W/g, '-')}.cpuprofile` : undefined
  const server = await (nodes === undefined ? ServerProcess : Cluster).start(subject, { isPinned, profileTo, nodes, ...options })
  const load = new LoadGenerator(server)
  try {
    return await run({ server, load })
  } finally {
    load.close()
    await server.stop()
  }
}
