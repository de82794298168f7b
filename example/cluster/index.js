// The chat and the streamed answers on three nodes with one Redis, behind a proxy without sticky sessions. Kill any node: they continue.
// Environment: PORT, HOST, REDIS_URL. Without REDIS_URL, the example starts a redis-server.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { createRoundRobinProxy } from './proxy.js'
import { startRedis } from './redis.js'

/** @import { AddressInfo } from 'node:net' */

const NAMES = ['node 1', 'node 2', 'node 3']
const RESTART_DELAY = 3000
const { PORT = '3000', HOST = '127.0.0.1', REDIS_URL } = process.env
const redis = REDIS_URL ?? await startRedis()

/** @type {Map<string, number>} of the nodes that accept connections */
const ports = new Map()

/** @param {string} name */
async function start (name) {
  const node = fork(fileURLToPath(new URL('node.js', import.meta.url)), [name, redis])
  node.once('exit', (code, signal) => {
    ports.delete(name)
    console.log(`${name} exited (${signal ?? code}) and restarts in ${RESTART_DELAY / 1000} s`)
    setTimeout(start, RESTART_DELAY, name)
  })
  const [{ port }] = /** @type {[AddressInfo]} */ (await once(node, 'message'))
  ports.set(name, port)
  console.log(`${name} started: process ${node.pid}`)
}

await Promise.all(NAMES.map(start))
const proxy = createRoundRobinProxy(() => [...ports.values()]).listen(Number(PORT), HOST)
await once(proxy, 'listening')
const { port } = /** @type {AddressInfo} */ (proxy.address())
console.log(`Chat: http://${HOST}:${port}/chat
Tokens: http://${HOST}:${port}/tokens
Kill any node, as often as you like: kill -9 <process>`)

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit())
