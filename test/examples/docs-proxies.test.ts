import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { trackProcess } from '../support/child-process.js'
import { findFreePort } from '../support/free-port.js'
import { needsProgram } from '../support/needs-program.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { block } from './docs.js'

interface ProxyContext {
  /** A folder of the proxy's own. */
  readonly folder: string
  readonly port: number
  /** Host and port of the app. */
  readonly app: string
}

interface Proxy {
  readonly program: string
  /** The configuration file, with the block of the page. */
  config (context: ProxyContext): string
  args (file: string, context: ProxyContext): string[]
  /** Reduces the timeouts of the configuration to a second; `undefined` if there are none by default. */
  shortenTimeouts?: (config: string) => string
}

const PROXIES: Proxy[] = [
  {
    program: 'nginx',
    config: ({ folder, port, app }) => {
      const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${folder}/${name};`).join(' ')
      return `
        daemon off; pid ${folder}/pid; error_log stderr;
        events {}
        http {
          access_log off; ${paths}
          server { listen 127.0.0.1:${port}; ${block('docs/deployment.md', 'nginx').replace('127.0.0.1:3000', app)} }
        }
      `
    },
    args: (file, { folder }) => ['-p', folder, '-c', file],
    shortenTimeouts: config => config.replace('access_log off;', '$& proxy_read_timeout 1s; send_timeout 1s;')
  },
  {
    program: 'haproxy',
    config: ({ port, app }) => block('docs/deployment.md', 'haproxy').replace(':8080', `127.0.0.1:${port}`).replace('127.0.0.1:3000', app),
    args: file => ['-db', '-f', file],
    shortenTimeouts: config => config.replaceAll('60s', '1s')
  },
  {
    program: 'caddy',
    config: ({ folder, port, app }) => `
      {
        admin off
        storage file_system ${folder}
      }
      ${block('docs/deployment.md', 'caddy').replace(':8080', `http://127.0.0.1:${port}`).replace('127.0.0.1:3000', app)}
    `,
    args: file => ['run', '--adapter', 'caddyfile', '--config', file]
  },
  {
    program: 'apache2',
    config: ({ folder, port, app }) => `
      ServerRoot ${folder}
      ServerName localhost
      PidFile ${folder}/pid
      ErrorLog ${folder}/log
      Listen 127.0.0.1:${port}
      ${['mpm_event', 'authz_core', 'proxy', 'proxy_http'].map(name => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`).join('\n')}
      ${block('docs/deployment.md', 'apache').replace('127.0.0.1:3000', app)}
    `,
    args: file => ['-DFOREGROUND', '-f', file],
    shortenTimeouts: config => config.replace('Timeout 60', 'Timeout 1')
  }
]

/** Starts a proxy in front of an app. Resolves with its URL, and with functions that kill and restart it. */
async function startProxy (t: Test, { program, config, args, shortenTimeouts }: Proxy, appUrl: string, { hasShortTimeouts = false } = {}): Promise<{ url: string, kill: () => Promise<void>, restart: () => Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), `${program}-`))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  const context = { folder, port: await findFreePort(), app: new URL(appUrl).host }
  const file = join(folder, 'config')
  const text = config(context)
  writeFileSync(file, hasShortTimeouts && shortenTimeouts !== undefined ? shortenTimeouts(text) : text)
  const url = `http://127.0.0.1:${context.port}`
  let child = trackProcess(t, spawn(program, args(file, context), { detached: true }), program)
  const waitForListening = (): Promise<void> => waitUntil(() => fetch(`${url}/health`).then(({ status }) => status < 500, () => false), `${program} to listen`)
  await waitForListening()
  return {
    url,
    kill: () => child.kill(),
    restart: async () => {
      // The children of a killed proxy can listen for a moment longer than their parent.
      await waitUntil(() => fetch(`${url}/health`).then(() => false, () => true), `${program} to stop`)
      rmSync(join(folder, 'pid'), { force: true })
      child = trackProcess(t, spawn(program, args(file, context), { detached: true }), program)
      await waitForListening()
    }
  }
}

const health = { beforeRegister: (app: { get: (path: string, handler: () => string) => unknown }) => app.get('/health', () => 'ok') }

for (const proxy of PROXIES) {
  const { program } = proxy

  t.test(`behind ${program} with the configuration of the page, events arrive at once, and a client can resume`, needsProgram(program), async t => {
    const { url, sessions } = await serve(t, { prefix: '/chat' }, health)
    const running = await startProxy(t, proxy, url)
    const options = { path: '/chat/downward' }
    const stream = await openStream(t, running.url, options)
    t.equal((await postMessage(running.url, stream.sessionId, { text: 'hi' }, { path: '/chat/upward' })).status, 201)
    const { id = '' } = await stream.waitFor(({ event }) => event === 'message')

    await running.kill()
    await stream.ended
    await (await sessions.find(stream.sessionId))?.send('meanwhile')
    await running.restart()
    const resumed = await openStream(t, running.url, { ...options, headers: { 'last-event-id': id } })
    await resumed.waitFor(({ data }) => data === 'meanwhile')
    t.strictSame(resumed.events.map(({ event }) => event), ['welcome', 'message'])
  })

  t.test(`behind ${program}, heartbeats keep an idle stream open for longer than the timeouts of the proxy`, needsProgram(program), async t => {
    const { url } = await serve(t, { prefix: '/chat', heartbeatInterval: 200, heartbeatEvent: 'heartbeat' }, health)
    const running = await startProxy(t, proxy, url, { hasShortTimeouts: true })
    const stream = await openStream(t, running.url, { path: '/chat/downward' })
    await stream.waitFor(() => stream.events.length > 12, 'twelve heartbeats')
    t.strictSame([...new Set(stream.events.map(({ event }) => event))], ['welcome', 'heartbeat'])
  })

  if (proxy.shortenTimeouts !== undefined) {
    t.test(`${program} closes a stream that is idle for longer than its timeouts`, needsProgram(program), async t => {
      const { url } = await serve(t, { prefix: '/chat', heartbeatInterval: false }, health)
      const running = await startProxy(t, proxy, url, { hasShortTimeouts: true })
      const stream = await openStream(t, running.url, { path: '/chat/downward' })
      await withTimeout(stream.ended, 'the end of the stream')
      t.strictSame(stream.events.map(({ event }) => event), ['welcome'])
    })
  }
}
