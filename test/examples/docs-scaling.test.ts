import { Redis } from 'ioredis'
import t from 'tap'
import { redisStore } from '../../lib/redis.js'
import { runScript } from '../support/child-process.js'
import { matchList } from '../support/match-list.js'
import { startRedisCluster } from '../support/redis-cluster.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { block, nameOf, table } from './docs.js'
import { createFolder, startApp } from './docs-run.js'

const app = block('docs/scaling.md', 'app')

t.test('two nodes share their sessions, one with each client of Redis, and continue when the other is closed', needsRedis, async t => {
  const save = createFolder(t)
  const env = { PORT: '0', REDIS_URL: `redis://127.0.0.1:${(await startRedis(t)).port}` }
  const withNodeRedis = app.replace(/^import .* from 'ioredis'\n/m, '').replace(/^const redis = [^]*?\n\n/m, `${block('docs/scaling.md', 'node-redis')}\n`)
  const nodes = [runScript(t, save('node.js', app), env), runScript(t, save('other-node.js', withNodeRedis), env)] as const
  const [[one], [other]] = await Promise.all([nodes[0].waitForOutput(/http:\/\/\S+/, 30_000), nodes[1].waitForOutput(/http:\/\/\S+/, 30_000)])
  t.equal(await (await fetch(`${other}/health`)).text(), 'ok')
  const stream = await openStream(t, one, { path: '/chat/downward' })
  const say = async (url: string, text: string): Promise<void> => {
    t.equal((await postMessage(url, stream.sessionId, { text }, { path: '/chat/upward' })).status, 201)
  }
  await say(other, 'received')
  const { id = '' } = await stream.waitFor(({ event }) => event === 'message')
  await nodes[0].kill('SIGTERM')
  t.equal(nodes[0].process.exitCode, 0, nodes[0].output())
  await say(other, 'missed')
  const resumed = await openStream(t, other, { path: '/chat/downward', headers: { 'last-event-id': id } })
  await resumed.waitFor(({ event }) => event === 'message')
  matchList(t, resumed.events.map(({ data }) => data), [{ resumed: true }, { text: 'Data received: missed' }])
  await nodes[1].kill('SIGTERM')
  t.equal(nodes[1].process.exitCode, 0, nodes[1].output())
})

t.test('an app divides its sessions among two servers', needsRedis, async t => {
  const servers = [await startRedis(t), await startRedis(t)] as const
  const env = { REDIS_A: `redis://127.0.0.1:${servers[0].port}`, REDIS_B: `redis://127.0.0.1:${servers[1].port}` }
  const divided = app.replace(/^const redis[^]*?\n\n/m, () => `${block('docs/scaling.md', 'servers')}\n`).replace('store: redisStore({ client: redis })', 'store').replace('redis.disconnect()', '')
  const url = await startApp(t, createFolder(t)('servers.js', divided), env)
  for (let count = 0; count < 20; count++) {
    const stream = await openStream(t, url, { path: '/chat/downward' })
    t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { path: '/chat/upward' })).status, 201)
    await stream.waitFor(({ event }) => event === 'message')
  }
  for (const server of servers) t.ok(await server.sendCommand('EXISTS', '{sse}:deadlines'))
})

t.test('an app divides its sessions among the masters of a cluster', needsRedis, async t => {
  const { addresses, servers } = await startRedisCluster(t)
  const divided = app.replace(/^import { Redis }[^]*?\n\n/m, '').replace(/^const redis[^]*?\n\n/m, () => `${block('docs/scaling.md', 'cluster')}\n`).replace('store: redisStore({ client: redis })', 'store')
  const url = await startApp(t, createFolder(t)('cluster.js', divided), { REDIS_NODES: addresses.map(({ host, port }) => `${host}:${port}`).join() })
  for (let count = 0; count < 30; count++) {
    const stream = await openStream(t, url, { path: '/chat/downward' })
    t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { path: '/chat/upward' })).status, 201)
    await stream.waitFor(({ event }) => event === 'message')
  }
  for (const server of servers) t.ok(Number(await server.sendCommand('DBSIZE')) > 5)
})

t.test('shards do not share sessions', needsRedis, async t => {
  const [red, blue] = await Promise.all([startRedis(t), startRedis(t)])
  const env = { REDIS_RED: `redis://127.0.0.1:${red.port}`, REDIS_BLUE: `redis://127.0.0.1:${blue.port}` }
  const sharded = app.replace(/^const redis[^]*?\n\n/m, '').replace(/^await app.register.*\n/m, () => block('docs/scaling.md', 'shards'))
  const url = await startApp(t, createFolder(t)('shards.js', sharded), env)
  const stream = await openStream(t, url, { path: '/red/downward' })
  t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { path: '/blue/upward' })).status, 404)
  t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { path: '/red/upward' })).status, 201)
  await stream.waitFor(({ event }) => event === 'message')
})

t.test('every option in the table exists', async t => {
  const client = new Redis({ lazyConnect: true })
  const options = table('docs/scaling.md', 'Options of `redisStore`', 'option').map(nameOf)
  t.strictSame(options, ['client', 'namespace', 'lease', 'partitions'])
  for (const option of options) t.throws(() => redisStore({ client, [option]: NaN }), { code: 'FST_SSE_OPTION_INVALID', message: new RegExp(`"${option}"`) })
})
