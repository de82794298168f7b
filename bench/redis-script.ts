// Measures where the time of a script goes that appends an entry, by returning earlier and earlier from the same script:
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
const CALLS = 5000
const PIPELINE = 200
const FRAME = `event: message\ndata: ${'x'.repeat(120)}\n\n`
const NEVER = Number.MAX_SAFE_INTEGER

/** The steps of the script, with the text before which each of them ends. */
const STEPS = {
  'the call of an empty script': 'local KEY_PREFIX',
  'the time, and the functions that all commands share': 'local store = redis.call',
  'reading the state of the sender': 'local failure',
  'the command, which reads the state of the log, writes the entry and its state, and publishes it': 'if #fields > 0',
  'writing the state of the sender': 'return { failure, replies }'
}

const text = createScripts(resolveOptions({}, 0), 5000, false).refusedWhenFull.text
const port = await findFreePort()
const server = spawn('redis-server', ['--port', `${port}`, '--save', '', '--dir', mkdtempSync(join(tmpdir(), 'redis-'))], { stdio: 'ignore' })
process.on('exit', () => { server.kill() })
const redis = new Redis({ port })
redis.on('error', () => {})

const key = '{sse}'
await redis.hset(key, { 'applied:node': 0, 'inbox:node': 0, leaseClock: 1, clockAt: Date.now() * 1000 })
let number = 0

/** Loads the script that returns before a text. */
async function loadUntil (end: string): Promise<string> {
  if (!text.includes(end)) throw new Error(`The script does not contain: ${end}`)
  return String(await redis.script('LOAD', text.replace(end, `if true then return end ${end}`)))
}

/** Resolves with the average time of an execution, in microseconds. */
async function measure (sha: string): Promise<number> {
  await redis.hset(key, { 'applied:node': number })
  await redis.config('RESETSTAT')
  for (let n = 0; n < CALLS; n += PIPELINE) {
    const pipeline = redis.pipeline()
    // The sender, its newest numbers and position; then one command: name, number, deadline, number of arguments, arguments.
    for (let i = 0; i < PIPELINE; i++) pipeline.evalsha(sha, 1, key, 'node', 0, 0, 0, 'append', ++number, NEVER, 6, 'broadcasts', '', FRAME, '', 0, '')
    for (const [error, reply] of await pipeline.exec() ?? []) if (error ?? (reply as string[] | null)?.[0]) throw error ?? new Error(String(reply))
  }
  const [, calls, microseconds] = /cmdstat_evalsha:calls=(\d+),usec=(\d+)/.exec(await redis.info('commandstats')) ?? []
  return Number(microseconds) / Number(calls)
}

const shas = await Promise.all(Object.values(STEPS).map(loadUntil))
const times = shas.map((): number[] => [])
for (let round = 0; round < ROUNDS; round++) {
  for (const [index, sha] of shas.entries()) times[index]?.push(await measure(sha))
}
// Other programs can only make an execution slower.
const shortest = times.map(values => Math.min(...values))
const total = shortest.at(-1) ?? 0
for (const [index, step] of Object.keys(STEPS).entries()) {
  const time = (shortest[index] ?? 0) - (shortest[index - 1] ?? 0)
  console.log(`${time.toFixed(1).padStart(5)} µs, ${(time / total * 100).toFixed(0).padStart(2)} %: ${step}`)
}
console.log(`${total.toFixed(1).padStart(5)} µs in total`)
redis.disconnect()
server.kill()
