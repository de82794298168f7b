import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { inspect } from 'node:util'
import { createClient } from 'redis'
import t from 'tap'
import sseSessions from '../../lib/index.js'
import { redisStore } from '../../lib/redis.js'
import { Link } from '../../lib/store/redis/client.js'
import { openSession, stream } from '../support/memory-client.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { openStream, post } from '../support/stream.js'
import { until, within } from '../support/wait.js'

t.test('a client of ioredis that queues nothing while it is offline will do', needsRedis, async t => {
  const { port } = await startRedis(t)
  const client = new Redis({ port, host: '127.0.0.1', enableOfflineQueue: false })
  t.teardown(() => { client.disconnect() })
  await until(() => client.status === 'ready', 'the connection')
  const app = Fastify()
  app.register(sseSessions, { store: redisStore({ client }) })
  await app.ready()
  await app.close()
})

t.test('a client of ioredis that answers numbers as strings will do', needsRedis, async t => {
  const { sessions } = await farProcess(t, await startRedis(t), {}, { stringNumbers: true })
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await session.join('room')
  await sessions.channel('room').send(1)
  await session.leave('room')
  await session.update({ nick: 'ann' })
  await session.close()
  await until(() => down.sink.closed, 'the end')
  t.strictSame(down.read().map(({ event }) => event), ['message', 'close'])
  await t.rejects(session.join('room'), { code: 'FST_SSE_SESSION_OVER' })
})

t.test('the client of @fastify/redis will do, and comes back when its connections are cut', needsRedis, async t => {
  const redis = await startRedis(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyRedis, { host: '127.0.0.1', port: redis.port })
  await app.register(sseSessions, { store: redisStore({ client: app.redis }) })
  app.sseSessions.handle('echo', (session, data) => session.send(data))
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const stream = await openStream(t, url)
  const heard = async (n: number): Promise<void> => {
    await until(async () => (await post(url, stream.sessionId, n, { event: 'echo' })).status < 300, 'it to be taken')
    await stream.waitFor(({ data }) => data === n)
  }
  await heard(1)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'normal')
  await heard(2)
})

eachLibrary(t, 'the script that Redis has forgotten is loaded once, however many miss it', async (t, fleet, redis) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const loads = async (): Promise<number> => Number(/calls=(\d+)/.exec((await redis.info('commandstats'))['cmdstat_script|load'] ?? '')?.[1])
  const before = await loads()
  await redis.ask('SCRIPT', 'FLUSH')
  await Promise.all(Array.from({ length: 200 }, (_, n) => session.send(n)))
  const more = await loads() - before
  t.ok(more >= 1 && more <= 3, `${more} loads`)
})

eachLibrary(t, 'a process that asks for nothing shows that it lives although Redis has forgotten the script', async (_t, fleet, redis) => {
  await fleet.process()
  await redis.ask('SCRIPT', 'FLUSH')
  const beat = (): Promise<unknown> => redis.ask('HGET', '{sse}', 'at')
  const last = await beat()
  await until(async () => await beat() !== last, 'the next sign')
})

eachLibrary(t, 'an error tells what Redis says, not what it was asked', async (t, fleet, redis) => {
  const session = await openSession(await fleet.process())
  await redis.ask('SET', `{sse}:s:${session.id}:log`, 'no stream')
  const error: unknown = await session.send('secret').catch((error: unknown) => error)
  t.match(error, { code: 'FST_SSE_STORE_UNAVAILABLE', cause: { message: /WRONGTYPE/ } })
  const text = inspect(error, { depth: Infinity })
  t.notMatch(text, session.id)
  t.notMatch(text, 'secret')
})

eachLibrary(t, 'what is asked of a store that is closed is refused', async (t, fleet) => {
  const one = await fleet.process()
  const session = await openSession(one)
  await one.close()
  await t.rejects(within(session.send(1), 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('numbers of the store are a second old at most, however long the lease is', needsRedis, async t => {
  const { sessions } = await farProcess(t, await startRedis(t), {}, { lease: 60_000 })
  await openSession(sessions)
  await until(() => sessions.size === 1, 'the number', 5000)
})

t.test('while Redis is away nothing gathers in the queue of the client, and the first that is asked for after is a sign of life', needsRedis, async t => {
  const { sessions, client, proxy } = await farProcess(t, await startRedis(t), {}, { lease: 60_000 })
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  proxy.setDown(true)
  await until(() => client.status !== 'ready', 'the loss of the connection')
  const asked: string[] = []
  beforeOrders(client, orders => { asked.push(...orders.map(({ operation }) => operation)) })
  const sent = session.send(1)
  // An answer is waited for no longer than two seconds.
  await t.rejects(sent, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  const begun = performance.now()
  await until(() => performance.now() - begun > 1200, 'it to be time for another sign')
  t.strictSame(asked, [])
  proxy.setDown(false)
  await until(() => asked.length > 0, 'the first')
  t.equal(asked[0], 'tick')
  await session.send(2)
  await until(() => down.messages().length === 1, 'the message')
})

t.test('a process that is closed while it subscribes again ends in peace', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, proxy } = await farProcess(t, redis)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  redis.pause()
  await until(() => proxy.connections.length === 3, 'the connection')
  await sessions.close()
  redis.resume()
  // What is rejected and not handled makes a test fail.
  await t.resolves(until(() => proxy.connections[2]?.client.destroyed === true, 'the end of the connection'))
})

t.test('a connection that node-redis is making when a process closes does not keep that from exiting', needsRedis, async t => {
  const redis = await startRedis(t)
  const client = createClient({ socket: { port: redis.port, host: '127.0.0.1' } })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  const ignore = (): void => {}
  const link = new Link(client, 2000, { message: ignore, deaf: () => { process.nextTick(() => { link.close() }) }, hearing: ignore, restored: ignore })
  await link.open()
  await link.subscribe(['all'])
  const received = async (): Promise<number> => Number((await redis.info('stats')).total_connections_received)
  const before = await received()
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(async () => await received() > before, 'the connection')
  const others = async (): Promise<string[]> => String(await redis.ask('CLIENT', 'LIST')).trim().split('\n').filter(line => !line.includes('name=test'))
  await t.resolves(until(async () => (await others()).length === 1, 'its end'))
})
