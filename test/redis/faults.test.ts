import { Redis } from 'ioredis'
import t from 'tap'
import type { Session } from '../../lib/index.js'
import { redisStore } from '../../lib/redis.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { resolveOptions } from '../../lib/options.js'
import { kStream } from '../../lib/sessions/session.js'
import Fastify from 'fastify'
import { freePort } from '../support/free-port.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { beforeOrders, ordersOf } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

const accepted = () => ({ status: 200, headers: {}, body: 'done', error: undefined })

t.test('a store that is not there at boot is an error', needsRedis, async t => {
  const client = new Redis({ port: await freePort(), host: '127.0.0.1' })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  const opened = createSessions(resolveOptions({ store: redisStore({ client }) }, 0), Fastify().log)
  await t.rejects(opened, { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

eachLibrary(t, 'a store that has gone back tells those who read that something may be lost', async (t, fleet, redis) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const down = await stream(one, session)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  await redis.ask('HSET', '{sse}', 'pos', '1')
  await session.send(2)
  await until(() => down.messages().length === 2, 'the next')
  t.match(down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 2 }])
})

eachLibrary(t, 'a process that the store has forgotten comes back, and what it had is told to be in doubt', async (t, fleet, redis) => {
  const one = await fleet.process()
  const [session, left] = [await openSession(one), await openSession(one)]
  const [down, gone] = [await stream(one, session), await stream(one, left)]
  const fields = await redis.ask('HKEYS', '{sse}') as string[]
  await redis.ask('HDEL', '{sse}', ...fields.filter(name => name.startsWith('ran:') || name.startsWith('told:')))
  await redis.ask('DEL', '{sse}:nodes')
  gone.sink.destroy()
  await t.rejects(session.send(1), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await until(async () => await session.send(2).then(() => true, () => false), 'it to come back')
  await until(() => down.messages().includes(2), 'the message')
  t.match(down.read().filter(({ event }) => event === 'gap'), [{ data: { reason: 'store' } }])
  await until(async () => await redis.ask('HGET', `{sse}:s:${left.id}`, 'owner') === '', 'the end of the other stream to be known')
})

eachLibrary(t, 'sessions that an emptied store has lost are over, and their streams end', async (t, fleet, redis) => {
  const one = await fleet.process()
  const told: string[] = []
  one.addHook('onClose', (_session, reason) => { told.push(reason) })
  const [session, other] = [await openSession(one), await openSession(one)]
  const down = await stream(one, session)
  await redis.ask('FLUSHALL')
  await until(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event).filter(event => event !== 'gap'), [])
  t.strictSame(told, ['lost'])
  t.equal(await one.acquireStream(other, other[kStream].cursor), undefined)
  await t.rejects(Promise.resolve(other[kStream].messageQueue.enqueue({ key: undefined, fingerprint: () => '', handle: accepted })), { code: 'FST_SSE_SESSION_UNKNOWN' })
})

t.test('what was lost is not told again to a session that was opened since, when another process finds it out', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, proxy } = await farProcess(t, redis)
  for (const { client } of proxy.connections) client.pause()
  await redis.ask('FLUSHALL')
  let session = await one.open(undefined).catch(() => undefined)
  await until(async () => (session ??= await one.open(undefined).catch(() => undefined)) !== undefined, 'the first to be back')
  const down = await stream(one, session as Session)
  for (const { client } of proxy.connections) client.resume()
  await until(async () => await two.broadcast('message', 1).then(() => true, () => false), 'the second to be back')
  await until(() => down.messages().length > 0, 'the message')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
})

t.test('what Redis takes for given up, by its clock, is sent again', needsRedis, async t => {
  const { sessions, client } = await farProcess(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  let late = 0
  const delay = async (...args: string[]): Promise<unknown> => {
    const append = ordersOf(args).find(({ operation }) => operation === 'append')
    if (append !== undefined && late++ === 0) args[append.limitAt] = '1'
    return await call(...args)
  }
  Object.assign(client, { call: delay })
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  t.equal(late, 2)
})

eachLibrary(t, 'what was not heard is read when what follows shows that it is missing', async (t, fleet, redis) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const down = await stream(one, session)
  await one.broadcast('message', 1)
  await until(() => down.messages().length === 1, 'the first')
  // As it is when another process has appended, and the publication got lost.
  const position = String(BigInt(String(await redis.ask('HGET', '{sse}:b', 'last'))) + 1n)
  await redis.ask('XADD', '{sse}:b:log', `${position}-0`, 'f', 'data: 2\n\n')
  await redis.ask('HSET', '{sse}:b', 'last', position)
  await one.broadcast('message', 3)
  await until(() => down.messages().length === 3, 'all')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('more than can wait while logs are compared is read, instead', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, client, holdAnswers, heard } = await farProcess(t, redis)
  // Answers to signs of life would show that something is missing.
  beforeOrders(client, orders => orders.some(({ operation }) => operation === 'tick') ? new Promise(() => {}) : undefined)
  const session = await openSession(one)
  const down = await stream(one, session)
  await session.join('room')
  await two.channel('room').send(1)
  await until(() => down.messages().length === 1, 'the first message')
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  const done = (): Promise<unknown> => redis.ask('HGET', '{sse}', `ran:${node}`)
  const before = await done()
  holdAnswers(true)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(async () => await done() !== before, 'the comparison')
  await two.channel('room').send(2)
  const many = heard() + 10_000
  await redis.ask('EVAL', "for n = 1, 10001 do redis.call('PUBLISH', '{sse}:all', 'e nobody 1 closed') end", '0')
  await until(() => heard() > many, 'them to be heard')
  holdAnswers(false)
  await until(() => down.messages().length === 2, 'the message')
})

t.test('a channel whose subscription takes too long is read when it is there', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one, holdPublished } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(one, session)
  holdPublished(true)
  await session.join('room')
  await two.channel('room').send(1)
  const begun = performance.now()
  await until(() => performance.now() - begun > 2200, 'it to take too long')
  holdPublished(false)
  await until(() => down.messages().length === 1, 'the message')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
})

t.test('what is not answered in time is refused, and can be tried again', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const letter = { key: 'key', fingerprint: () => 'payload', handle: accepted }
  holdAnswers(true)
  const delivered = Promise.resolve(afar[kStream].messageQueue.enqueue(letter))
  const attached = stream(two, afar, afar[kStream].cursor)
  await t.rejects(delivered, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(attached, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  holdAnswers(false)
  t.match(await session[kStream].messageQueue.enqueue(letter), { response: { body: 'done' } })
  const down = await stream(two, afar, afar[kStream].cursor)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
})

t.test('what was not heard of a store before it went back is told as lost with the rest, and what comes after comes', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, proxy, holdPublished } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(one, session)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  holdPublished(true)
  await (await handleOf(two, session)).send(2)
  await redis.ask('HSET', '{sse}', 'pos', '1')
  proxy.connections[1]?.client.resetAndDestroy()
  await until(() => down.read().some(({ event }) => event === 'gap'), 'the gap')
  await session.send(3)
  await until(() => down.messages().includes(3), 'the next')
  t.match(down.read(), [{ event: 'message', data: 1 }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 3 }])
  t.equal(down.read().length, 3)
})

t.test('where the store goes back to when a session had changed less often, the session is as it was then, and what changes it from then on counts', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await session.update({ nick: 'ann' })
  const goBack = await redis.snapshot()
  for (const nick of ['bob', 'cid', 'dan']) await session.update({ nick })
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  await goBack()
  await session.join('room')
  await sessions.channel('room').send(2)
  await session.send(3)
  await until(() => down.messages().includes(3), 'the last')
  t.strictSame(down.messages(), [1, 2, 3])
  await until(() => session.data.nick === 'ann', 'the data')
})

eachLibrary(t, 'what is told of a session that is not at hand is let pass', async (_t, fleet, redis) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const down = await stream(one, session)
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  const number = await redis.ask('HINCRBY', '{sse}', `told:${node}`, '1')
  await redis.ask('PUBLISH', `{sse}:n:${node}`, `${String(number)} j nobody 2 1 room`)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
})

eachLibrary(t, 'what is told comes though the store has gone back to when it had told less', async (_t, fleet, redis) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const down = await stream(one, session)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  await redis.ask('HINCRBY', '{sse}', `told:${node}`, '-2')
  await session.send(2)
  await until(() => down.messages().length === 2, 'the next')
})
