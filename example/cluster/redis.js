import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Starts a redis-server without persistence. It stops when this process exits. Resolves with the path of its socket.
 * @returns {Promise<string>}
 */
export async function startRedis () {
  const folder = mkdtempSync(join(tmpdir(), 'chat-'))
  const socket = join(folder, 'redis.sock')
  const server = spawn('redis-server', ['--port', '0', '--unixsocket', socket, '--dir', folder, '--save', '', '--appendonly', 'no'])
  process.once('exit', () => {
    server.kill()
    rmSync(folder, { recursive: true, force: true })
  })
  let output = ''
  const ready = new Promise(resolve => {
    for (const stream of [server.stdout, server.stderr]) {
      stream.setEncoding('utf8').on('data', text => {
        output += text
        if (/ready to accept connections/i.test(output)) resolve(socket)
      })
    }
  })
  server.once('exit', () => {
    console.error(`redis-server exited: ${output}`)
    process.exit(1)
  })
  try {
    await once(server, 'spawn')
  } catch {
    console.error('redis-server was not found. Install it (Debian: apt-get install redis-server; macOS: brew install redis), or set the address of a server: REDIS_URL=redis://127.0.0.1:6379')
    process.exit(1)
  }
  return await ready
}
