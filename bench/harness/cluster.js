import { Server } from './control.js'
import { startRedis } from './redis.js'

/**
 * A subject's server in several processes over one Redis. To clients and loads it is a server: they connect to the last of
 * its nodes, while what is broadcast is sent on the first.
 */
export class Cluster {
  nodes
  redis
  #before

  static async start (subject, { nodes, profileTo, ...options }) {
    const cluster = new Cluster()
    cluster.redis = await startRedis()
    cluster.nodes = await Promise.all(Array.from({ length: nodes }, (_, i) => Server.start(subject, {
      ...options,
      profileTo: profileTo?.replace('.cpuprofile', `.${i}.cpuprofile`),
      redis: cluster.redis.port
    })))
    return Object.assign(cluster, { port: cluster.nodes.at(-1).port, dialect: cluster.nodes[0].dialect, ids: cluster.nodes[0].ids })
  }

  tell (command, ...args) {
    this.nodes[0].tell(command, ...args)
  }

  async begin () {
    await this.#ask('begin')
    this.#before = await this.redis.cpu()
  }

  /** Microseconds of CPU since `begin`: of all nodes, and of Redis. */
  async end () {
    const redis = await this.redis.cpu() - this.#before
    const used = await this.#ask('end')
    return { cpu: used.reduce((sum, each) => sum + each, 0), redis }
  }

  async stop () {
    await Promise.all(this.nodes.map(node => node.stop()))
    this.redis.stop()
  }

  #ask (command) {
    return Promise.all(this.nodes.map(node => node.ask(command)))
  }
}
