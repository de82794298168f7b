// Measures the steps of the script that appends an entry to a log. The time of a step is that of a copy of the script that ends after it, minus
// that of the copy that ends before it:
// node --import ./test/support/strip-types.js bench/redis-script.ts
import { spawn } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { resolveOptions } from '../lib/options.js'
import { createScripts } from '../lib/store/redis/script.js'
import { findFreePort } from '../test/support/free-port.js'

const ROUNDS = 10
const CALLS_PER_ROUND = 5000
const CALLS_PER_PIPELINE = 200
const FRAME = `event: message\ndata: ${'x'.repeat(120)}\n\n`
const KEY = '{sse}'
const LEASE = 5000
const NEVER = Number.MAX_SAFE_INTEGER

/** The steps, each with the text of the script before which it ends. */
const STEPS = {
  'the call': 'local KEY_PREFIX',
  'reading the time, and creating the functions that all commands share': 'local store = redis.call',
  'reading the state of the store and of the sender': 'local failure',
  'the command: reads and writes the state of the log, writes the entry, and publishes it': 'if #fields > 0',
  'writing the state of the store and of the sender, and the reply': undefined
}

const scriptText = createScripts(resolveOptions({}, 0), LEASE, false).refusedWhenFull.text
const port = await findFreePort()
const server = spawn('redis-server', ['--port', `${port}`, '--save', '', '--dir', mkdtempSync(join(tmpdir(), 'redis-'))], { stdio: 'ignore' })
process.on('exit', () => { server.kill() })
const redis = new Redis({ port })
redis.on('error', () => {})
await redis.hset(KEY, { 'applied:node': 0, 'inbox:node': 0, leaseClock: 1, clockAt: Date.now() * 1000 })
let number = 0

/** Loads a copy of the script that returns before the text `stop`. Resolves with its SHA. */
async function loadScriptUntil (stop: string | undefined): Promise<string> {
  if (stop === undefined) return String(await redis.script('LOAD', scriptText))
  if (!scriptText.includes(stop)) throw new Error(`The script does not contain: ${stop}`)
  return String(await redis.script('LOAD', scriptText.replace(stop, `if true then return { '' } end ${stop}`)))
}

/** Resolves with the average time of an execution, in microseconds. */
async function measure (sha: string): Promise<number> {
  await redis.hset(KEY, { 'applied:node': number })
  await redis.config('RESETSTAT')
  for (let n = 0; n < CALLS_PER_ROUND; n += CALLS_PER_PIPELINE) {
    const pipeline = redis.pipeline()
    // The sender, the number before the batch, the highest number with a reply, the highest position (0: no check); then one command: name, number, deadline, number of arguments, arguments.
    for (let i = 0; i < CALLS_PER_PIPELINE; i++) pipeline.evalsha(sha, 1, KEY, 'node', 0, 0, 0, 'append', ++number, NEVER, 4, 'broadcasts', '', FRAME, '')
    for (const [error, reply] of await pipeline.exec() ?? []) {
      if (error !== null) throw error
      // A shortened script returns ''. The complete one returns the error of the command, or '' if it succeeded.
      const [failure] = reply as [string]
      if (failure !== '') throw new Error(failure)
    }
  }
  const [, calls, microseconds] = /cmdstat_evalsha:calls=(\d+),usec=(\d+)/.exec(await redis.info('commandstats')) ?? []
  return Number(microseconds) / Number(calls)
}

const shas = await Promise.all(Object.values(STEPS).map(loadScriptUntil))
const times = shas.map((): number[] => [])
for (let round = 0; round < ROUNDS; round++) {
  for (const [index, sha] of shas.entries()) times[index]?.push(await measure(sha))
}
// Other programs can only make an execution slower.
const shortest = times.map(values => Math.min(...values))
for (const [index, step] of Object.keys(STEPS).entries()) {
  console.log(`${((shortest[index] ?? 0) - (shortest[index - 1] ?? 0)).toFixed(1).padStart(5)} µs: ${step}`)
}
console.log(`${(shortest.at(-1) ?? 0).toFixed(1).padStart(5)} µs in total`)
redis.disconnect()
server.kill()
