import { once } from 'node:events'
import t from 'tap'
import { bundleForNode } from '../support/bundle.js'
import { runScript } from '../support/child-process.js'
import { LONG_LEASE, startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

// The load clients need a minute on a slow machine.
t.setTimeout(400_000)

// The number of keys that the store may keep without any session.
const MAX_IDLE_KEYS = 8
// In bytes. A leak of 30 bytes per session would exceed it; without a leak, the memory grows by less than 12 kB.
const MAX_GROWTH = 75_000

t.test('Redis uses no more memory after 2,500 sessions than before them', needsRedis, async t => {
  // The resume timeout exceeds the time that a slow machine needs between opening a session and its stream.
  const cluster = await startCluster(t, { lease: LONG_LEASE, plugin: { resumeTimeout: 10_000, log: { age: 200 }, channelLog: { age: 200 } } })
  const { nodes, redis } = cluster
  const program = await bundleForNode(t, new URL('./support/load-clients.ts', import.meta.url))
  const runClients = async (count: number, event: string): Promise<void> => {
    const env = { URLS: nodes.map(({ url }) => url).join(), EVENT: event, COUNT: String(count) }
    const { process, output } = runScript(t, program, env)
    const [code] = await withTimeout(once(process, 'exit'), 'the load clients', 300_000)
    if (code !== 0) throw new Error(output())
    await waitUntil(async () => Number(await redis.sendCommand('DBSIZE')) <= MAX_IDLE_KEYS, 'the keys to expire', 30_000)
  }
  const usedMemory = async (): Promise<number> => Number((await redis.info('memory')).used_memory)
  // Redis allocates 24 kB of statistics per command at its first use, so the first run is a warm-up. The slow log is off.
  await redis.sendCommand('CONFIG', 'SET', 'slowlog-log-slower-than', '-1')
  await runClients(500, 'use')
  const before = await usedMemory()
  await runClients(2_500, 'use')
  // Redis shrinks its hash tables gradually.
  let growth = Infinity
  await waitUntil(async () => { growth = await usedMemory() - before; return growth < MAX_GROWTH }, 'the memory to be released', 30_000).catch(() => {})
  t.ok(growth < MAX_GROWTH, `${growth} bytes more`)
})
