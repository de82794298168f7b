// npm run bench -- [W1 W2 …] [--subjects ours,raw] [--rounds 3] [--profile]
import { writeFileSync } from 'node:fs'
import { arch, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { Cluster } from './harness/cluster.js'
import { pin, Server } from './harness/control.js'
import { Load } from './harness/load.js'
import { report } from './harness/report.js'
import { installed as redisInstalled } from './harness/redis.js'
import { installed as nchanInstalled } from './subjects/nchan.js'

const WORKLOADS = ['W1', 'W1B', 'W2', 'W3', 'W4', 'W5', 'W6', 'W7', 'W8', 'W9', 'W10', 'W11', 'W12', 'W13']
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    subjects: { type: 'string' },
    rounds: { type: 'string', default: process.env.ROUNDS ?? '3' },
    profile: { type: 'boolean', default: false }
  }
})
const names = positionals.length > 0 ? positionals : WORKLOADS
const wanted = values.subjects?.split(',')
const pinned = pin()
if (!pinned) console.log('Neither process is pinned to a core: expect more noise')

/** Whether a workload with a subject can run on this machine. */
const canRun = ({ nodes }, subject) => (subject !== 'nchan' || nchanInstalled()) && (nodes === undefined || redisInstalled())

/** Runs a workload on a subject, in a server of its own. */
async function measure (workload, subject) {
  const profileTo = values.profile ? `${workload.name.replace(/\W/g, '-')}.${subject.replace(/\W/g, '-')}.cpuprofile` : undefined
  const { nodes, options } = workload
  const server = await (nodes === undefined ? Server : Cluster).start(subject, { pinned, profileTo, nodes, ...options })
  const load = new Load(server)
  try {
    return await workload.run({ server, load })
  } finally {
    load.close()
    await server.stop()
  }
}

const results = []
for (const name of names) {
  const { default: workloads } = await import(`./workloads/${name}.js`)
  for (const workload of workloads) {
    const subjects = workload.subjects.filter(subject => (wanted?.includes(subject) ?? true) && canRun(workload, subject))
    const rounds = Object.fromEntries(subjects.map(subject => [subject, []]))
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const subject of subjects) {
        try {
          const measured = await measure(workload, subject)
          rounds[subject].push(measured)
          console.error(workload.name, subject, measured)
        } catch (error) {
          throw new Error(`${workload.name} with ${subject} went wrong`, { cause: error })
        }
      }
    }
    if (subjects.length > 0) results.push(report(workload, rounds))
  }
}
const machine = { node: process.version, cpu: cpus()[0].model, cores: cpus().length, arch: arch(), pinned }
writeFileSync(new URL('results.json', import.meta.url), JSON.stringify({ at: new Date().toISOString(), machine, results }, null, 2))
