// nchan, a module of nginx in C, as Debian packages it: the bound of what is possible. It has no sessions.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort, listening } from '../harness/ports.js'

const MODULE = '/usr/lib/nginx/modules/ngx_nchan_module.so'

/** Whether it can be a subject here. */
export const installed = () => existsSync(MODULE) && existsSync('/usr/sbin/nginx')

export async function start () {
  const folder = mkdtempSync(join(tmpdir(), 'nchan-'))
  const port = await freePort()
  const file = join(folder, 'nginx.conf')
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${folder}/${name};`).join(' ')
  writeFileSync(file, `
    load_module ${MODULE}; daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr emerg;
    events { worker_connections 16384; }
    http {
      access_log off; ${paths}
      server {
        listen 127.0.0.1:${port};
        location = /downward { nchan_subscriber eventsource; nchan_channel_id all; nchan_subscriber_first_message newest; }
        location = /publish { nchan_publisher; nchan_channel_id all; nchan_message_buffer_length 1000; keepalive_requests 1000000; }
      }
    }`)
  const nginx = spawn('/usr/sbin/nginx', ['-p', folder, '-c', file], { stdio: ['ignore', 'ignore', 'inherit'] })
  await listening(port)
  const workers = readdirSync('/proc').filter(pid => parentOf(pid) === nginx.pid)
  const ticksPerSecond = Number(execFileSync('getconf', ['CLK_TCK']))
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  return {
    port,
    dialect: 'nchan',
    broadcast (data) {
      const json = JSON.stringify(data)
      const post = request({ port, path: '/publish', method: 'POST', agent, headers: { 'Content-Length': json.length } }, response => { response.resume() })
      post.end(json)
    },
    cpu () {
      const ticks = workers.map(pid => stat(pid).slice(11, 13).map(Number))
      const [user, system] = [0, 1].map(i => ticks.reduce((sum, both) => sum + both[i], 0) / ticksPerSecond * 1e6)
      return { user, system }
    },
    stop () {
      nginx.kill()
      rmSync(folder, { recursive: true })
    }
  }
}

/** The fields of a process's status that follow its name. */
const stat = pid => readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/.*\) /, '').split(' ')

function parentOf (pid) {
  try {
    return Number(stat(pid)[1])
  } catch {
    return undefined
  }
}
