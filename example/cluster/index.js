// The chat on three nodes over one Redis, behind a proxy that knows nothing of sessions. Kill nodes, and watch it go on.
// PORT, HOST and REDIS_URL are read from the environment; without the last a Redis is started.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { roundRobin } from './proxy.js'
import { startRedis } from './redis.js'

/** @import { AddressInfo } from 'node:net' */

const NAMES = ['node 1', 'node 2', 'node 3']
const RESTARTED_AFTER = 3000
const { PORT = '3000', HOST = '127.0.0.1', REDIS_URL } = process.env
const redis = REDIS_URL ?? await startRedis()

/** @type {Map<string, number>} of the nodes that listen */
const ports = new Map()

/** @param {string} name */
async function start (name) {
  const node = fork(fileURLToPath(new URL('node.js', import.meta.url)), [name, redis])
  node.once('exit', (code, signal) => {
    ports.delete(name)
    console.log(`${name} has ended (${signal ?? code}); it starts again in ${RESTARTED_AFTER / 1000} s`)
    setTimeout(start, RESTARTED_AFTER, name)
  })
  const [{ port }] = /** @type {[AddressInfo]} */ (await once(node, 'message'))
  ports.set(name, port)
  console.log(`${name} is process ${node.pid}`)
}

await Promise.all(NAMES.map(start))
const proxy = roundRobin(() => [...ports.values()]).listen(Number(PORT), HOST)
await once(proxy, 'listening')
const { port } = /** @type {AddressInfo} */ (proxy.address())
console.log(`Chat: http://${HOST}:${port}/chat
Kill any of the nodes, as often as you like: kill -9 <process>`)

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit())
