import { writeFileSync } from 'node:fs'
import { arch, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { Cluster } from './harness/cluster.js'
import { LoadGenerator } from './harness/load-generator.js'
import { isQuick } from './harness/quick.js'
import { isRedisInstalled } from './harness/redis.js'
import { printSummary, summarize } from './harness/report.js'
import { pinToSecondCore, ServerProcess } from './harness/server-process.js'
import { SUBJECTS } from './subjects/index.js'
import { isNchanInstalled } from './subjects/nchan.js'
import { OTHER } from './subjects/support/builds.js'
import { workloads } from './workloads/index.js'

const WORKLOAD_NAMES = workloads.map(({ name }) => name)
const QUICK_NOTE = 'This is a quick run. It only checks that the benchmarks work: do not quote its figures.'
const HELP = `Usage: npm run bench -- [workload …] [options]

Workloads (default: all):
  ${WORKLOAD_NAMES.join(', ')}

Options:
  --subjects <a,b>  run only these subjects of each workload:
                    ${SUBJECTS.join(', ')}
  --rounds <n>      how often each subject runs (default: 3, with --quick 1)
  --profile         write a CPU profile of each measurement
  --quick           small counts, to check that everything works; the figures mean nothing
  --help            show this text

Environment variables:
  OTHER             the entry file of another build of this package: the subject "other", to which "ours" is compared`

const settings = parseSettings()
if (settings !== undefined) await runAll(settings)

/** Reads the command line. Returns undefined if there is nothing to run: after --help, or after an error was printed. */
function parseSettings () {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        subjects: { type: 'string' },
        rounds: { type: 'string', default: isQuick ? '1' : '3' },
        profile: { type: 'boolean', default: false },
        quick: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false }
      }
    })
    if (values.help) {
      console.log(HELP)
      return undefined
    }
    const subjects = values.subjects?.split(',') ?? (OTHER === undefined ? SUBJECTS : ['ours', 'other'])
    assertKnown('workload', positionals, WORKLOAD_NAMES)
    assertKnown('subject', subjects, SUBJECTS)
    const rounds = Number(values.rounds)
    if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds must be a positive integer, not "${values.rounds}"`)
    const selected = (positionals.length === 0 ? workloads : workloads.filter(({ name }) => positionals.includes(name)))
      .map(workload => OTHER === undefined ? workload : { ...workload, subjects: [...workload.subjects, 'other'], base: 'other' })
    return { selected, subjects, rounds, profile: values.profile }
  } catch ({ message }) {
    console.error(`${message}\nRun "npm run bench -- --help" for the options.`)
    process.exitCode = 1
    return undefined
  }
}

function assertKnown (kind, names, knownNames) {
  const unknown = names.filter(name => !knownNames.includes(name))
  if (unknown.length > 0) throw new Error(`Unknown ${kind} "${unknown.join('", "')}". Known ${kind}s: ${knownNames.join(', ')}`)
}

async function runAll ({ selected, subjects, rounds, profile }) {
  if (isQuick) console.log(QUICK_NOTE)
  const isPinned = pinToSecondCore()
  if (!isPinned) console.log('The processes could not be pinned to cores, so expect more noise')
  const hasRedis = isRedisInstalled()
  const available = subjects.filter(subject => subject !== 'nchan' || isNchanInstalled())
  if (available.length < subjects.length) console.log('nchan is not installed, so it is skipped')
  printPlan(selected, available, rounds)
  const startTime = performance.now()
  const results = []
  for (const workload of selected) {
    const runnable = workload.subjects.filter(subject => available.includes(subject))
    if (workload.nodes !== undefined && !hasRedis) {
      console.log(`\n${workload.name}: skipped, because redis-server is not installed`)
    } else if (runnable.length === 0) {
      console.log(`\n${workload.name}: skipped, because it only runs with ${workload.subjects.join(', ')}`)
    } else {
      results.push(await runWorkload(workload, runnable, { rounds, profile, isPinned }))
      if (!isQuick) writeResults(results, isPinned)
    }
  }
  console.log(`\nFinished after ${formatDuration((performance.now() - startTime) / 1000)}`)
  if (isQuick) console.log(QUICK_NOTE)
}

/** Runs after each workload, so that a failure does not discard the results before it. */
function writeResults (results, isPinned) {
  const machine = { node: process.version, cpu: cpus()[0].model, cores: cpus().length, arch: arch(), isPinned }
  writeFileSync(new URL('results.json', import.meta.url), JSON.stringify({ at: new Date().toISOString(), machine, results }, null, 2))
}

function countRounds ({ maxRounds = Infinity }, rounds) {
  return Math.min(rounds, maxRounds)
}

/** Prints the workloads in their order, and how long they take. */
function printPlan (selected, subjects, rounds) {
  if (isQuick) return
  const durations = selected.map(workload => workload.seconds * countRounds(workload, rounds) * workload.subjects.filter(subject => subjects.includes(subject)).length)
  const total = durations.reduce((sum, duration) => sum + duration, 0)
  console.log(`Expected duration: about ${formatDuration(total)} in total. The workloads, in this order:`)
  for (const [i, { name }] of selected.entries()) if (durations[i] > 0) console.log(`  ${name}: ${formatDuration(durations[i])}`)
}

function formatDuration (seconds) {
  const minutes = Math.ceil(seconds / 60)
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** Runs a workload with all subjects in turn, once per round. Prints the result and returns it. */
async function runWorkload (workload, subjects, { rounds, ...settings }) {
  const measured = Object.fromEntries(subjects.map(subject => [subject, []]))
  const startTime = performance.now()
  for (let round = 0; round < countRounds(workload, rounds); round++) {
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
  // Goals apply to the full counts only.
  const summary = summarize(isQuick ? { ...workload, goals: [] } : workload, measured)
  printSummary(summary)
  return { ...summary, seconds: (performance.now() - startTime) / 1000 }
}

/** Runs a workload once, in new server processes. */
async function runOnce (workload, subject, { profile, isPinned }) {
  const { name, nodes, options, run } = workload
  const profileTo = profile ? `${name}.${subject.replace(/\W/g, '-')}.cpuprofile` : undefined
  const server = await (nodes === undefined ? ServerProcess : Cluster).start(subject, { isPinned, profileTo, nodes, ...options })
  const load = new LoadGenerator(server)
  try {
    return await run({ server, load, subject })
  } finally {
    load.close()
    await server.stop()
  }
}
