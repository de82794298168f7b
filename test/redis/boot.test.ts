import Fastify from 'fastify'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import t, { type Test } from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type RedisClient, type RedisStoreOptions } from '../../lib/redis.js'
import { createSessions, type Sessions } from '../../lib/sessions/sessions.js'
import { block } from '../examples/docs.js'
import { findFreePort } from '../support/free-port.js'
import { openSession } from '../support/memory-stream.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { withTimeout } from '../support/wait.js'

/** Opens a node. It is closed when the test ends. */
async function boot (t: Test, client: RedisClient, options: SseSessionsOptions = {}, storeOptions: Partial<RedisStoreOptions> = {}): Promise<Sessions> {
  const store = redisStore({ client, ...storeOptions })
  const sessions = await withTimeout(createSessions(resolveOptions({ store, heartbeatInterval: false, closeTimeout: 100, ...options }, 0), Fastify({ logger: false }).log), 'the boot')
  t.teardown(() => withTimeout(sessions.close(), 'the store to close'))
  return sessions
}

function createIoredis (t: Test, port: number, options: object = {}): Redis {
  const client = new Redis({ port, host: '127.0.0.1', ...options })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  return client
}

t.test('the boot error names the reason if Redis cannot be reached', needsRedis, async t => {
  const port = await findFreePort()
  await t.rejects(boot(t, createIoredis(t, port)), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /ECONNREFUSED/ })
  const client = createClient({ socket: { port, host: '127.0.0.1' } })
  client.on('error', () => {})
  await t.rejects(boot(t, client), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /await client\.connect\(\)/ })
  client.connect().catch(() => {})
  t.teardown(() => { client.destroy() })
  await t.rejects(boot(t, client), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /ECONNREFUSED/ })
})

t.test('the boot error has the code of an error without a message, or says that there was no reply', needsRedis, async t => {
  // ioredis reports such an error for a host name with several addresses; which names have several depends on the machine.
  const withoutMessage = createIoredis(t, await findFreePort())
  const emit = withoutMessage.emit.bind(withoutMessage)
  withoutMessage.emit = (event, ...args) => event === 'error' ? emit('error', Object.assign(new Error(''), { code: 'ECONNREFUSED' })) : emit(event, ...args)
  const silent = createServer(() => {}).listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.teardown(() => { silent.close() })
  await Promise.all([
    t.rejects(boot(t, withoutMessage), { message: /not connected after 3000 ms: ECONNREFUSED/ }),
    t.rejects(boot(t, createIoredis(t, (silent.address() as AddressInfo).port)), { message: /not connected after 3000 ms: no reply/ })
  ])
})

t.test('the boot error says so if Redis accepts the connection but does not reply', needsRedis, async t => {
  const redis = await startRedis(t)
  const client = createIoredis(t, redis.port)
  await client.ping()
  redis.pause()
  await t.rejects(boot(t, client), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /not replied|not connected/ })
  redis.resume()
})

t.test('connects an ioredis client with lazyConnect and without offline queue', needsRedis, async t => {
  const redis = await startRedis(t)
  await openSession(await boot(t, createIoredis(t, redis.port, { lazyConnect: true, enableOfflineQueue: false })))
})

t.test('waits for a node-redis client that is connecting', needsRedis, async t => {
  const redis = await startRedis(t)
  const client = createClient({ socket: { port: redis.port, host: '127.0.0.1' } })
  client.on('error', () => {})
  t.teardown(() => { client.destroy() })
  client.connect().catch(() => {})
  await openSession(await boot(t, client))
})

t.test('refuses a node whose options conflict with those of the running nodes', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodeA = await boot(t, createIoredis(t, redis.port), { resumeTimeout: 1000 })
  await t.rejects(boot(t, createIoredis(t, redis.port), { resumeTimeout: 2000, maxWaitingMessages: 3 }), { code: 'FST_SSE_OPTION_INVALID', message: /other values of resumeTimeout, maxWaitingMessages;/ })
  // Two registrations that have the same namespace only because it is the default.
  await t.rejects(boot(t, createIoredis(t, redis.port), { resumeTimeout: 1000, prefix: '/other' }), { code: 'FST_SSE_OPTION_INVALID', message: /other values of prefix;.*another namespace/ })
  await boot(t, createIoredis(t, redis.port), { resumeTimeout: 2000 }, { namespace: 'other' })
  await nodeA.close()
  await boot(t, createIoredis(t, redis.port), { resumeTimeout: 2000 })
})

t.test('refuses a second registration with the same client and namespace, until the first is closed', needsRedis, async t => {
  const redis = await startRedis(t)
  const client = createIoredis(t, redis.port)
  const nodeA = await boot(t, client)
  await t.rejects(boot(t, client), { code: 'FST_SSE_OPTION_INVALID', message: /namespace "sse"/ })
  await boot(t, client, {}, { namespace: 'other' })
  await nodeA.close()
  await boot(t, client)
})

// The last ones are those of ioredis.
const RIGHTS = `~{sse} ~{sse}:* &{sse}:* ${block('docs/scaling.md', 'rights').replaceAll('\n', ' ').trim()} +info +client`

t.test('the documented rights, and those that are checked, are the commands that the scripts call', async t => {
  const folder = new URL('../../lib/store/redis/lua/', import.meta.url)
  const readScript = (name: string): string => readFileSync(new URL(name, folder), 'utf8')
  const scripts = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.lua')).map(readScript)
  const called = [...new Set(scripts.flatMap(script => [...script.matchAll(/redis\.call\('([A-Z]+)'/g)].map(([, name = '']) => name)))].toSorted()
  t.ok(called.includes('XADD'))
  const [, checked = ''] = /PUBLISH \.\. ' ([A-Z ]+)'/.exec(readScript('common.lua')) ?? []
  t.strictSame(checked.split(' ').toSorted(), called)
  const others = new Set(['evalsha', 'script|load', 'subscribe', 'unsubscribe', 'publish'])
  const documented = [...block('docs/scaling.md', 'rights').matchAll(/\+(\S+)/g)].map(([, name = '']) => name).filter(name => !others.has(name))
  t.strictSame(documented.map(name => name.toUpperCase()).toSorted(), called)
})

t.test('works with the documented rights of an ACL user, and names a right that is missing', needsRedis, async t => {
  const redis = await startRedis(t)
  const bootWith = async (rights: string): Promise<Sessions> => {
    await redis.sendCommand('ACL', 'SETUSER', 'app', 'reset', 'on', '>secret', ...rights.split(' '))
    return await boot(t, createIoredis(t, redis.port, { username: 'app', password: 'secret' }))
  }
  for (const right of ['+xadd', '+script|load', '+evalsha', '+subscribe', '+zrangebyscore', '+publish']) {
    const name = right.slice(1)
    await t.rejects(bootWith(RIGHTS.replace(`${right} `, '')), { code: 'FST_SSE_STORE_UNAVAILABLE', message: new RegExp(name.replace('|', '\\|')) }, name)
  }
  const sessions = await bootWith(RIGHTS)
  const session = await openSession(sessions)
  await session.join('room')
  await sessions.channel('room').send(1)
  await session.leave('room')
  await session.close()
})
