// Measures the CPU time of one, two and three Redis servers, and of the node, for each message and each broadcast:
// node --import ./test/support/strip-types.js bench/redis-partitions.ts [messages] [rounds]
import { spawn } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import type { Session, Sessions } from '../lib/index.js'
import { resolveOptions } from '../lib/options.js'
import { redisStore } from '../lib/redis.js'
import { kInternals } from '../lib/sessions/session.js'
import { createSessions } from '../lib/sessions/sessions.js'
import { findFreePort } from '../test/support/free-port.js'
import { attachMemoryStream, openSession } from '../test/support/memory-stream.js'

const MESSAGES = Number(process.argv[2] ?? 20_000)
const ROUNDS = Number(process.argv[3] ?? 5)
const SESSIONS = 600
const CONCURRENT = 200
const logger = Fastify({ logger: false }).log

/** Microseconds of CPU time for each operation: of the busiest server, of all servers, and of the node. */
interface Cost { busiest: number, all: number, node: number }

async function startServer (): Promise<Redis> {
  const port = await findFreePort()
  const server = spawn('redis-server', ['--port', `${port}`, '--save', '', '--dir', mkdtempSync(join(tmpdir(), 'redis-'))], { stdio: 'ignore' })
  process.on('exit', () => { server.kill() })
  const client = new Redis({ port })
  client.on('error', () => {})
  await client.ping()
  return client
}

async function cpuTime (redis: Redis): Promise<number> {
  const info = await redis.info('cpu')
  return ['used_cpu_sys', 'used_cpu_user'].reduce((sum, name) => sum + Number(new RegExp(`${name}:([\\d.]+)`).exec(info)?.[1]) * 1e6, 0)
}

async function measure (servers: readonly Redis[], count: number, operate: (n: number) => Promise<unknown>): Promise<Cost> {
  const before = await Promise.all(servers.map(cpuTime))
  const node = process.cpuUsage()
  let next = 0
  await Promise.all(Array.from({ length: CONCURRENT }, async () => { while (next < count) await operate(next++) }))
  const { user, system } = process.cpuUsage(node)
  const times = (await Promise.all(servers.map(cpuTime))).map((time, index) => (time - (before[index] as number)) / count)
  return { busiest: Math.max(...times), all: times.reduce((sum, time) => sum + time), node: (user + system) / count }
}

async function openSessions (servers: readonly Redis[]): Promise<{ registry: Sessions, sessions: Session[] }> {
  const store = redisStore({ client: servers.map(({ options: { port } }) => new Redis({ port: port as number })) })
  const registry = await createSessions(resolveOptions({ store, heartbeatInterval: false }, 0), logger)
  const sessions = await Promise.all(Array.from({ length: SESSIONS }, () => openSession(registry)))
  for (const session of sessions) await attachMemoryStream(registry, session)
  return { registry, sessions }
}

const servers = [await startServer(), await startServer(), await startServer()]
const costs = new Map<string, Cost[]>()
for (let round = 0; round < ROUNDS; round++) {
  for (const count of [1, 2, 3]) {
    const used = servers.slice(0, count)
    const { registry, sessions } = await openSessions(used)
    const handle = async (): Promise<{ status: number, headers: {}, body: string }> => ({ status: 200, headers: {}, body: '{"ok":true}' })
    const results = {
      message: await measure(used, MESSAGES, async n => await (sessions[n % SESSIONS] as Session)[kInternals].messageQueue.enqueue({ key: `${n}`, fingerprint: () => 'x', handle })),
      broadcast: await measure(used, MESSAGES / 10, async n => { await registry.broadcast('message', n) })
    }
    for (const [title, cost] of Object.entries(results)) costs.set(`${title} ${count}`, [...costs.get(`${title} ${count}`) ?? [], cost])
    await registry.close()
    for (const server of used) await server.flushall()
  }
}
for (const [title, rounds] of costs) {
  const median = (name: keyof Cost): string => (rounds.map(cost => cost[name]).sort((a, b) => a - b)[rounds.length >> 1] as number).toFixed(1)
  console.log(`${title} server(s): busiest server ${median('busiest')} µs, all servers ${median('all')} µs, node ${median('node')} µs`)
}
process.exit()
