import { startRedis } from './redis.js'
import { ServerProcess } from './server-process.js'

/**
 * A subject's server in several processes (nodes) with one Redis. It can be used like a ServerProcess: clients connect to
 * the last node, and commands are executed on the first, so that broadcasts cross from one node to another.
 */
export class Cluster {
  nodes
  redis
  port
  protocol
  hasEventIds
  #redisCpuAtStart

  static async start (subject, { nodes, profileTo, ...options }) {
    const cluster = new Cluster()
    cluster.redis = await startRedis()
    cluster.nodes = await Promise.all(Array.from({ length: nodes }, (_, i) => ServerProcess.start(subject, {
      ...options,
      profileTo: profileTo?.replace('.cpuprofile', `.${i}.cpuprofile`),
      redisPort: cluster.redis.port
    })))
    const { port, protocol, hasEventIds } = cluster.nodes.at(-1)
    return Object.assign(cluster, { port, protocol, hasEventIds })
  }

  execute (command, ...args) {
    return this.nodes[0].execute(command, ...args)
  }

  notify (command, ...args) {
    this.nodes[0].notify(command, ...args)
  }

  async startMeasurement () {
    await Promise.all(this.nodes.map(node => node.startMeasurement()))
    this.#redisCpuAtStart = await this.redis.cpu()
  }

  /** Returns microseconds of CPU since `startMeasurement`: `cpu` of all nodes together, and of `redis`. */
  async stopMeasurement () {
    const redis = await this.redis.cpu() - this.#redisCpuAtStart
    const nodes = await Promise.all(this.nodes.map(node => node.stopMeasurement()))
    return { cpu: nodes.reduce((sum, { cpu }) => sum + cpu, 0), redis }
  }

  async stop () {
    await Promise.all(this.nodes.map(node => node.stop()))
    this.redis.stop()
  }
}
