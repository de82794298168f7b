import { spawn, spawnSync } from 'node:child_process'
import { Redis } from 'ioredis'
import { findFreePort, waitForPort } from './ports.js'

export const isRedisInstalled = () => spawnSync('redis-server', ['--version']).status === 0

/** Starts a redis-server that writes nothing to disk. It inherits the core of this process. */
export async function startRedis () {
  const port = await findFreePort()
  const server = spawn('redis-server', ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'], { stdio: ['ignore', 'ignore', 'inherit'] })
  const kill = () => { server.kill() }
  process.on('exit', kill)
  await waitForPort(port)
  const client = new Redis(port)
  const sumOfInfo = async (section, ...names) => {
    const info = await client.info(section)
    return names.reduce((sum, name) => sum + Number(new RegExp(`^${name}:(?:calls=)?([\\d.]+)`, 'm').exec(info)?.[1] ?? 0), 0)
  }
  return {
    port,
    /** Microseconds of CPU used so far. */
    cpu: async () => await sumOfInfo('cpu', 'used_cpu_user', 'used_cpu_sys') * 1e6,
    /** Bytes in use. */
    memory: () => sumOfInfo('memory', 'used_memory'),
    /** Number of scripts executed so far. */
    scripts: () => sumOfInfo('commandstats', 'cmdstat_evalsha', 'cmdstat_eval'),
    stop () {
      client.disconnect()
      kill()
      process.off('exit', kill)
    }
  }
}
