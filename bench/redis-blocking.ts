// Measures how long one script blocks Redis, with many sessions, channels and waiting messages:
// node --import ./test/support/strip-types.js bench/redis-blocking.ts [sessions]
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import type { Session, Sessions, SseSessionsOptions } from '../lib/index.js'
import { resolveOptions } from '../lib/options.js'
import { redisStore } from '../lib/redis.js'
import { kInternals } from '../lib/sessions/session.js'
import { createSessions } from '../lib/sessions/sessions.js'
import { findFreePort } from '../test/support/free-port.js'
import { attachMemoryStream, findSession, openSession } from '../test/support/memory-stream.js'
import { waitUntil } from '../test/support/wait.js'

const SESSIONS = Number(process.argv[2] ?? 100_000)
const BATCH = 1000
const logger = Fastify({ logger: false }).log

const port = await findFreePort()
// With real-time priority, if that is allowed, because other programs would make the commands seem longer.
const realtime = spawnSync('chrt', ['-f', '10', 'true']).status === 0 ? ['chrt', '-f', '10'] : []
const [program = '', ...parameters] = [...realtime, 'redis-server', '--port', `${port}`, '--save', '', '--dir', mkdtempSync(join(tmpdir(), 'redis-')), '--slowlog-log-slower-than', '1000', '--slowlog-max-len', '1000']
const server = spawn(program, parameters, { stdio: 'ignore' })
process.on('exit', () => { server.kill() })
const redis = new Redis({ port })
redis.on('error', () => {})

async function openNode (options: SseSessionsOptions): Promise<Sessions> {
  return await createSessions(resolveOptions({ store: redisStore({ client: new Redis({ port }) }), heartbeatInterval: false, maxSessions: Infinity, maxSessionsPerPrincipal: Infinity, ...options }, 0), logger)
}

/** Calls `work` with each number below `count`, with at most BATCH calls at a time. */
async function forEach (count: number, work: (n: number) => Promise<unknown> | undefined): Promise<void> {
  for (let from = 0; from < count; from += BATCH) await Promise.all(Array.from({ length: Math.min(BATCH, count - from) }, (_, n) => work(from + n)))
}

async function measure (title: string, work: () => Promise<void>): Promise<void> {
  await redis.call('SLOWLOG', 'RESET')
  const cpu = async (): Promise<number> => ['used_cpu_sys', 'used_cpu_user'].reduce((sum, name) => sum + Number(new RegExp(`${name}:([\\d.]+)`).exec(info)?.[1]), 0)
  let info = await redis.info('cpu')
  const before = await cpu()
  const startedAt = performance.now()
  await work()
  info = await redis.info('cpu')
  const log = await redis.call('SLOWLOG', 'GET', '1000') as Array<[number, number, number, string[]]>
  const longest = Math.max(0, ...log.map(([, , microseconds]) => microseconds))
  const seconds = (performance.now() - startedAt) / 1000
  console.log(`${title}: longest command ${(longest / 1000).toFixed(1)} ms; Redis ${((await cpu() - before) / seconds * 100).toFixed(0)} % of a core for ${seconds.toFixed(1)} s`)
}

const wait = (ms: number): Promise<void> => new Promise(resolve => { setTimeout(resolve, ms) })

{
  const options: SseSessionsOptions = { channelLog: { entries: 100 } }
  const [nodeA, nodeB] = [await openNode(options), await openNode(options)]
  const session = await openSession(nodeA)
  const { cursor } = session[kInternals]
  await forEach(1000, n => session.join(`room ${n}`))
  await measure('fill the logs of 1,000 channels', () => forEach(100_000, n => nodeA.channel(`room ${n % 1000}`).send('x'.repeat(150))))
  await measure('attach a session in 1,000 channels with full logs', async () => {
    const stream = await attachMemoryStream(nodeB, await findSession(nodeB, session), cursor)
    await waitUntil(() => stream.messages().length >= 100_000, 'the messages', 60_000)
  })
  await measure('close it', () => session.close())
  await Promise.all([nodeA.close(), nodeB.close()])
}
{
  // What one tick contains if many clients do the same at the same time.
  const [nodeA, nodeB] = [await openNode({}), await openNode({})]
  const sessions: Session[] = []
  await forEach(64, async n => { sessions[n] = await openSession(nodeA) })
  const room = nodeA.channel('room', { keep: 60_000 })
  await forEach(1000, () => room.send('x'.repeat(150)))
  await measure('40 joins with a history of 1,000 entries', () => forEach(40, n => sessions[n]?.join('room', { history: 1000 })))
  const cursors = sessions.map(session => session[kInternals].cursor)
  await forEach(16_000, n => sessions[n % 16]?.send('x'.repeat(150)))
  await measure('16 sessions with 1,000 entries are resumed', () => forEach(16, async n => {
    const stream = await attachMemoryStream(nodeB, await findSession(nodeB, sessions[n] as Session), cursors[n])
    await waitUntil(() => stream.messages().length >= 1000, 'the messages', 60_000)
  }))
  await measure('64 broadcasts of 100 kB', () => forEach(64, () => nodeA.broadcast('message', 'x'.repeat(100_000))))
  for (let channel = 0; channel < 100; channel++) await forEach(64, n => sessions[n]?.join(`channel ${channel}`))
  await measure('64 sessions in 100 channels are closed', () => forEach(64, n => sessions[n]?.close()))
  const pipeline = redis.pipeline()
  for (let node = 0; node < 4; node++) {
    for (let n = 0; n < 512; n++) {
      const id = `run-${node}-${n}`
      pipeline.hset(`{sse}:r:${id}`, { input: '{}', name: id, keep: 60_000, startPosition: 1, last: 1, owner: `dead${node}`, nodes: `dead${node},` })
      pipeline.zadd(`{sse}:runs:dead${node}`, 1, id)
    }
  }
  await pipeline.exec()
  await measure('4 nodes with 512 runs each have failed', async () => {
    await redis.zadd('{sse}:producers', 0, 'dead0', 0, 'dead1', 0, 'dead2', 0, 'dead3')
    await waitUntil(async () => await redis.zcard('{sse}:producers') === 0, 'the end of the runs', 60_000)
  })
  await Promise.all([nodeA.close(), nodeB.close()])
}
{
  const node = await openNode({ resumeTimeout: 20_000 })
  const waiting: Session[] = []
  await forEach(20, async n => { waiting[n] = await openSession(node) })
  const gates: Array<() => void> = []
  const messages: Array<Promise<unknown>> = []
  await measure('20 sessions with 250 waiting messages each: enqueue', async () => {
    for (const session of waiting) {
      for (let n = 0; n < 250; n++) messages.push(Promise.resolve(session[kInternals].messageQueue.enqueue({ key: `key ${n}`, fingerprint: () => 'fingerprint', handle: () => n > 0 ? { status: 200, headers: {}, body: '' } : new Promise(resolve => { gates.push(() => { resolve({ status: 200, headers: {}, body: '' }) }) }) })))
    }
    await waitUntil(() => gates.length === 20, 'the first messages', 30_000)
    await wait(1000)
  })
  await measure('while they wait', () => wait(3000))
  await measure('handle them', async () => {
    for (const open of gates) open()
    await Promise.all(messages)
  })
  await node.close()
}
{
  const node = await openNode({ resumeTimeout: 120_000 })
  const sessions: Session[] = []
  await measure(`open ${SESSIONS} sessions with streams`, () => forEach(SESSIONS, async n => {
    const session = sessions[n] = await openSession(node)
    await attachMemoryStream(node, session)
  }))
  await measure('renew them', () => wait(45_000))
  await measure('join 130,000 channels', () => forEach(130_000, n => sessions[n % SESSIONS]?.join(`channel ${n}`)))
  await measure('renew the channels, too', () => wait(45_000))
  await node.close()
}
{
  await redis.flushall()
  const node = await openNode({ resumeTimeout: 5000 })
  let closed = 0
  node.addHook('onClose', () => { closed++ })
  await measure(`open ${SESSIONS} sessions`, () => forEach(SESSIONS, async () => {
    const session = await openSession(node)
    session[kInternals].retain()
    session[kInternals].release()
  }))
  await measure('expire them', () => waitUntil(() => closed >= SESSIONS, 'the expiry', 300_000))
  await node.close()
}
process.exit(0)
