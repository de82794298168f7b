import { once } from 'node:events'
import cors from '@fastify/cors'
import rateLimit from '@fastify/rate-limit'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import t from 'tap'
import { request } from 'undici'
import sseSessions from '../../lib/index.js'
import { runScript } from '../support/child-process.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { listen } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder, runFragment } from './docs-run.js'

// The default, which the page names.
const closeTimeout = 3000

t.test('the app with a graceful shutdown ends its streams with a retry field and exits, on both signals', async t => {
  const file = createFolder(t)('server.js', block('docs/deployment.md', 'shutdown'))
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const child = runScript(t, file, { PORT: '0' })
    const [url] = await child.waitForOutput(/http:\/\/\S+/, 30_000)
    const stream = await openStream(t, url, { path: '/chat/downward' })
    child.process.kill(signal)
    await withTimeout(stream.ended, 'the end of the stream')
    const [, retry = ''] = /retry: (\d+)\n\n$/.exec(stream.text()) ?? []
    t.ok(Number(retry) > closeTimeout, `${retry} ms until the client is to reconnect`)
    if (child.process.exitCode === null) await withTimeout(once(child.process, 'exit'), 'the end of the app')
    t.equal(child.process.exitCode, 0, child.output())
  }
})

t.test('the cluster serves one session from two processes, and exits when its primary process is stopped', needsRedis, async t => {
  const save = createFolder(t)
  save('server.js', block('docs/scaling.md', 'app'))
  const env = { PORT: '0', REDIS_URL: `redis://127.0.0.1:${(await startRedis(t)).port}` }
  const child = runScript(t, save('cluster.js', block('docs/deployment.md', 'cluster')), env)
  const [, url = ''] = await child.waitForOutput(/(http:\/\/\S+)\n[^]*http/, 30_000)
  const stream = await openStream(t, url, { path: '/chat/downward' })
  for (let i = 0; i < 10; i++) t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { path: '/chat/upward' })).status, 201)
  await stream.waitFor(() => stream.events.length > 10, 'ten messages')
  child.process.kill('SIGTERM')
  await withTimeout(once(child.process, 'exit'), 'the end of the cluster')
  t.equal(child.process.exitCode, 0, child.output())
})

t.test('PM2 gives the process more time than closeTimeout', async t => {
  const module: { exports: { apps?: Array<{ kill_timeout: number }> } } = { exports: {} }
  await runFragment(block('docs/deployment.md', 'pm2'), { module })
  t.ok((module.exports.apps?.[0]?.kill_timeout ?? 0) > closeTimeout)
})

t.test('the image starts node without a shell, on all addresses', async t => {
  const lines = block('docs/deployment.md', 'docker').trim().split('\n')
  t.strictSame(JSON.parse(lines.at(-1)?.replace('CMD ', '') ?? ''), ['node', 'server.js'])
  t.ok(lines.includes('ENV HOST=0.0.0.0 PORT=3000'))
  for (const variable of [/env\.HOST/, /env\.PORT/]) t.match(block('docs/deployment.md', 'shutdown'), variable)
})

t.test('the plugin that fastify-cli loads serves the routes', async t => {
  const file = createFolder(t)('app.js', block('docs/deployment.md', 'fastify-cli'))
  const { options, default: plugin } = await import(file) as { options: FastifyServerOptions, default: (app: FastifyInstance) => Promise<void> }
  const app = Fastify(options)
  const url = await listen(t, app.register(plugin) as unknown as FastifyInstance)
  t.equal((await openStream(t, url, { path: '/chat/downward' })).status, 200)
})

t.test('the option cors allows the page', async t => {
  const app = Fastify()
  await runFragment(block('docs/deployment.md', 'cors'), { app, sseSessions })
  const { headers } = await openStream(t, await listen(t, app), { path: '/chat/downward', headers: { origin: 'https://app.example' } })
  t.match(headers, { 'access-control-allow-origin': 'https://app.example', 'access-control-allow-credentials': 'true' })
})

t.test('an app\'s own @fastify/cors needs DELETE among its methods', async t => {
  for (const [methods, allowed] of [[undefined, false], [['GET', 'POST', 'DELETE'], true]] as const) {
    const app = Fastify()
    await app.register(cors, { origin: true, ...methods !== undefined && { methods: [...methods] } })
    await app.register(sseSessions)
    const { headers } = await request(`${await listen(t, app)}/downward`, {
      method: 'OPTIONS',
      headers: { origin: 'https://app.example', 'access-control-request-method': 'DELETE' }
    })
    t.equal(String(headers['access-control-allow-methods']).includes('DELETE'), allowed)
  }
})

t.test('the rate limit applies to the POST and not to the GET', async t => {
  const app = Fastify()
  await runFragment(block('docs/deployment.md', 'rate-limit'), { app, sseSessions, rateLimit })
  const url = await listen(t, app)
  const stream = await openStream(t, url, { path: '/chat/downward' })
  const statuses: number[] = []
  for (let i = 0; i < 21; i++) statuses.push((await postMessage(url, stream.sessionId, { text: 'hi' }, { path: '/chat/upward' })).status)
  t.strictSame(statuses, [...Array.from({ length: 20 }, () => 201), 429])
  for (let i = 0; i < 21; i++) await openStream(t, url, { path: '/chat/downward' })
})

t.test('the options for compression compress the channels that they name', async t => {
  const app = Fastify()
  await runFragment(block('docs/deployment.md', 'compress'), { app, sseSessions })
  const url = await listen(t, app)
  const stream = await openStream(t, url, { path: '/chat/downward', headers: { 'accept-encoding': 'gzip' }, skipWelcome: true })
  t.equal(stream.headers['content-encoding'], 'gzip')
  const { compressionScope } = app.sseSessions.settings
  t.strictSame([compressionScope(), compressionScope('prices-1'), compressionScope('room')], ['', 'prices-1', undefined])
})
