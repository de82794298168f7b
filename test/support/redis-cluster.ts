import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import { findFreePort, isFreePort } from './free-port.js'
import { RedisServer } from './redis-server.js'
import { waitUntil } from './wait.js'

const execute = promisify(execFile)

/** A Redis Cluster for one test: three masters, each of which can have a replica. It is killed when the test ends. */
export class RedisCluster {
  readonly servers: readonly RedisServer[]

  constructor (servers: readonly RedisServer[]) {
    this.servers = servers
  }

  get addresses (): Array<{ host: string, port: number }> {
    return this.servers.map(({ port }) => ({ host: '127.0.0.1', port }))
  }

  /** Runs a command of `redis-cli --cluster`. */
  async manage (...args: string[]): Promise<string> {
    return (await execute('redis-cli', ['--cluster', ...args])).stdout
  }

  /** Resolves when all servers agree that the cluster works. */
  async waitUntilOk (): Promise<void> {
    await waitUntil(async () => (await Promise.all(this.servers.map(async server => String(await server.sendCommand('CLUSTER', 'INFO'))))).every(info => info.includes('cluster_state:ok')), 'the cluster', 20_000)
  }

  /** The master that has a slot now, as another server sees it. */
  async masterOf (slot: number, from: RedisServer): Promise<RedisServer> {
    const ranges = await from.sendCommand('CLUSTER', 'SLOTS') as Array<[number, number, [string, number, string]]>
    const port = ranges.find(([first, last]) => first <= slot && slot <= last)?.[2][1]
    return this.servers.find(server => server.port === port) as RedisServer
  }

  /** Moves a slot with its keys to another master, as `redis-cli --cluster reshard` does. `whileMoving` runs when half of the keys have moved. */
  async moveSlot (slot: number, from: RedisServer, to: RedisServer, whileMoving: () => Promise<unknown>): Promise<void> {
    const [fromId, toId] = [String(await from.sendCommand('CLUSTER', 'MYID')), String(await to.sendCommand('CLUSTER', 'MYID'))]
    await to.sendCommand('CLUSTER', 'SETSLOT', String(slot), 'IMPORTING', fromId)
    await from.sendCommand('CLUSTER', 'SETSLOT', String(slot), 'MIGRATING', toId)
    const keys = await from.sendCommand('CLUSTER', 'GETKEYSINSLOT', String(slot), '10000') as string[]
    for (const [index, key] of keys.entries()) {
      if (index === Math.floor(keys.length / 2)) await whileMoving()
      await from.sendCommand('MIGRATE', '127.0.0.1', String(to.port), key, '0', '5000')
    }
    for (const server of [to, from]) await server.sendCommand('CLUSTER', 'SETSLOT', String(slot), 'NODE', toId)
  }

  /** Sends a command to every server. */
  async sendToAll (command: string, ...args: string[]): Promise<void> {
    await Promise.all(this.servers.map(async server => await server.sendCommand(command, ...args)))
  }
}

/** Starts a cluster of three masters on free ports. */
export async function startRedisCluster (t: Test, { replicas = 0 } = {}): Promise<RedisCluster> {
  const servers: RedisServer[] = []
  while (servers.length < 3 * (1 + replicas)) {
    // The port of the cluster bus is higher by 10,000. It must not be an ephemeral port either.
    const port = await findFreePort()
    if (port + 10_000 < 32_768 && await isFreePort(port + 10_000)) servers.push(new RedisServer(t, port, { isClusterNode: true }))
  }
  await Promise.all(servers.map(server => server.start()))
  const cluster = new RedisCluster(servers)
  await cluster.manage('create', ...servers.map(({ port }) => `127.0.0.1:${port}`), '--cluster-replicas', String(replicas), '--cluster-yes')
  await cluster.waitUntilOk()
  return cluster
}
