import { spawn, spawnSync } from 'node:child_process'
import { Redis } from 'ioredis'
import { freePort, listening } from './ports.js'

/** Whether there is a redis-server to start. */
export const installed = () => spawnSync('redis-server', ['--version']).status === 0

/** A redis-server that writes nothing to disk; like every child, it runs on its parent's core. */
export async function startRedis () {
  const port = await freePort()
  const server = spawn('redis-server', ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'], { stdio: ['ignore', 'ignore', 'inherit'] })
  const kill = () => { server.kill() }
  process.on('exit', kill)
  await listening(port)
  const client = new Redis(port)
  const number = async (section, ...names) => {
    const info = await client.info(section)
    return names.reduce((sum, name) => sum + Number(new RegExp(`^${name}:(?:calls=)?([\\d.]+)`, 'm').exec(info)?.[1] ?? 0), 0)
  }
  return {
    port,
    /** Microseconds of CPU that it has used. */
    cpu: async () => await number('cpu', 'used_cpu_user', 'used_cpu_sys') * 1e6,
    /** Bytes that it has in use. */
    memory: () => number('memory', 'used_memory'),
    /** Scripts that it was asked to run. */
    scripts: () => number('commandstats', 'cmdstat_evalsha', 'cmdstat_eval'),
    stop () {
      client.disconnect()
      kill()
      process.off('exit', kill)
    }
  }
}
