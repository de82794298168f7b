// nchan, a C module for nginx, as packaged by Debian. It shows what is possible outside Node. It has no sessions.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findFreePort, waitForPort } from '../harness/ports.js'

const MODULE = '/usr/lib/nginx/modules/ngx_nchan_module.so'

export const isNchanInstalled = () => existsSync(MODULE) && existsSync('/usr/sbin/nginx')

export async function start () {
  const folder = mkdtempSync(join(tmpdir(), 'nchan-'))
  const port = await findFreePort()
  const configFile = join(folder, 'nginx.conf')
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${folder}/${name};`).join(' ')
  writeFileSync(configFile, `
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
  const nginx = spawn('/usr/sbin/nginx', ['-p', folder, '-c', configFile], { stdio: ['ignore', 'ignore', 'inherit'] })
  await waitForPort(port)
  const workers = readdirSync('/proc').filter(pid => readParent(pid) === nginx.pid)
  const ticksPerSecond = Number(execFileSync('getconf', ['CLK_TCK']))
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  return {
    port,
    protocol: 'nchan',
    broadcast (data) {
      const json = JSON.stringify(data)
      const post = request({ port, path: '/publish', method: 'POST', agent, headers: { 'Content-Length': json.length } }, response => { response.resume() })
      post.end(json)
    },
    /** The CPU of the workers, in the form of `process.cpuUsage()`. */
    cpu () {
      const ticks = workers.map(pid => readStat(pid).slice(11, 13).map(Number))
      const [user, system] = [0, 1].map(i => ticks.reduce((sum, userAndSystem) => sum + userAndSystem[i], 0) / ticksPerSecond * 1e6)
      return { user, system }
    },
    stop () {
      nginx.kill()
      rmSync(folder, { recursive: true })
    }
  }
}

/** The fields of /proc/<pid>/stat after the process name, which may contain spaces. */
const readStat = pid => readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/.*\) /, '').split(' ')

function readParent (pid) {
  try {
    return Number(readStat(pid)[1])
  } catch {
    return undefined
  }
}
