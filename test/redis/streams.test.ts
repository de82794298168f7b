import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

const field = (redis: RedisServer, { id }: { id: string }, name: string): Promise<unknown> => redis.ask('HGET', `{sse}:s:${id}`, name)

t.test('a session whose client leaves while its stream is asked for expires', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, holdAnswers } = await farProcess(t, redis, { resumeTimeout: 300 })
  const session = await openSession(sessions)
  const first = await stream(sessions, session)
  first.sink.destroy()
  await until(() => !session.connected, 'the end of the first stream')
  session[kStream].retainForResume()
  holdAnswers(true)
  const admitted = sessions.acquireStream(session, session[kStream].cursor)
  await until(async () => await field(redis, session, 'epoch') === '2', 'Redis to know')
  session[kStream].release()
  holdAnswers(false)
  await admitted
  await until(async () => await redis.ask('ZCARD', '{sse}:deadlines') === 0, 'it to expire')
})

t.test('a session that was discarded while its stream was asked for is not asked about again', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, await openSession(sessions))
  holdAnswers(true)
  const admitted = sessions.acquireStream(session, session[kStream].cursor)
  await until(async () => await field(redis, session, 'epoch') === '1', 'Redis to know')
  const discarded = sessions.discard(session, 'aborted')
  holdAnswers(false)
  await admitted
  await discarded
  await sessions.broadcast('message', 1)
  await until(() => down.messages().length === 1, 'the first broadcast')
  const asked: string[] = []
  beforeOrders(client, orders => { asked.push(...orders.flatMap(({ args }) => args)) })
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await sessions.broadcast('message', 2)
  await until(() => down.messages().length === 2, 'the second')
  t.ok(asked.length > 0)
  t.notOk(asked.includes(session.id))
})

t.test('what a process asks for again takes no stream back from another', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdAnswers, proxy } = await farProcess(t, redis)
  const session = await openSession(two)
  const here = await handleOf(one, session)
  holdAnswers(true)
  const asked = stream(one, here, here[kStream].cursor)
  await until(async () => await field(redis, session, 'epoch') === '1', 'Redis to know')
  const down = await stream(two, session)
  // The answer is lost.
  proxy.connections[0]?.client.resetAndDestroy()
  const late = await asked
  await until(() => late.sink.closed, 'the end of the one that was asked for first')
  t.match(late.read(), [{ event: 'replaced' }])
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  t.notOk(down.sink.closed)
})

t.test('a process that could not be told of a session\'s end finds out', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, proxy } = await farProcess(t, redis)
  const session = await openSession(one)
  const { signal } = await handleOf(two, session)
  proxy.setDown(true)
  await session.close()
  proxy.setDown(false)
  await until(() => signal.aborted, 'the signal to abort')
})

t.test('a session with a stream may enter thousands of channels, more than are asked about at once', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const names = Array.from({ length: 4000 }, (_, n) => `room ${n}`)
  for (let n = 0; n < names.length; n += 50) await Promise.all(names.slice(n, n + 50).map(name => session.join(name)))
  await until(() => sessions.stats().channels === names.length, 'the channels')
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  for (const [n, name] of names.entries()) if (n % 1999 === 0) await sessions.channel(name).send(n)
  await until(() => down.messages().length === 3, 'the messages')
  t.strictSame(down.messages(), [0, 1999, 3998])
})

t.test('a process that may have been taken for dead writes nothing, though its client is ready for it', needsRedis, async t => {
  const lease = 300
  const redis = await startRedis(t)
  const { sessions, proxy } = await farProcess(t, redis, {}, { lease })
  const session = await openSession(sessions)
  const down = await stream(sessions, session, undefined, true)
  for (const n of [1, 2, 3]) await session.send(n)
  redis.pause()
  const since = performance.now()
  await until(() => performance.now() - since > 2 * lease, 'the lease to be over')
  down.sink.drain(false)
  t.strictSame(down.messages(), [])
  redis.resume()
  await until(() => down.messages().length === 3, 'what was sent')
  t.strictSame(down.messages(), [1, 2, 3])
  t.equal(proxy.connections.length, 2)
})

t.test('a stream that ends while it is found out what it reads reads nothing any more', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, client, holdAnswers } = await farProcess(t, redis, {}, { lease: 1000 })
  const session = await openSession(one)
  const down = await stream(one, session)
  await session.join('room')
  await two.channel('room').send(1)
  await until(() => down.messages().length === 1, 'the message')
  t.equal(one.stats().channels, 1)
  let asked = false
  beforeOrders(client, orders => { asked ||= orders.some(({ operation, args }) => operation === 'load' && args[0] === session.id) })
  holdAnswers(true)
  await (await handleOf(two, session)).update({ nick: 'ann' })
  await until(() => asked, 'it to be asked')
  down.sink.destroy()
  await until(() => !session.connected, 'the end of the stream')
  holdAnswers(false)
  await until(() => session.data.nick === 'ann', 'the answer')
  await until(() => one.stats().channels === 0, 'the channel to be let go of')
})

t.test('a stream that may not be written to does not end before all is written', needsRedis, async t => {
  const lease = 300
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis, {}, { lease })
  const session = await openSession(sessions)
  const down = await stream(sessions, session, undefined, true)
  for (const n of [1, 2, 3]) await session.send(n)
  await session.close('enough')
  redis.pause()
  const since = performance.now()
  await until(() => performance.now() - since > 2 * lease, 'the lease to be over')
  down.sink.drain(false)
  redis.resume()
  await until(() => down.sink.closed, 'the end')
  t.strictSame(down.read().map(({ event }) => event), ['message', 'message', 'message', 'close'])
})

t.test('a client is told when to come back, though its stream may not be written to as its process closes', needsRedis, async t => {
  const lease = 300
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis, {}, { lease })
  const down = await stream(sessions, await openSession(sessions))
  t.strictSame(down.messages(), [])
  redis.pause()
  const since = performance.now()
  await until(() => performance.now() - since > 2 * lease, 'the lease to be over')
  await sessions.close()
  t.match(down.sink.text, /^retry: \d+\n\n$/)
  redis.resume()
})

t.test('all logs are compared with Redis once, though that takes longer than a tick', needsRedis, async t => {
  const redis = await startRedis(t)
  // It ticks each 100 ms.
  const { sessions, client } = await farProcess(t, redis, {}, { lease: 500 })
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const names = Array.from({ length: 3000 }, (_, n) => `room ${n}`)
  for (let n = 0; n < names.length; n += 50) await Promise.all(names.slice(n, n + 50).map(name => session.join(name)))
  await until(() => sessions.stats().channels === names.length, 'the channels')
  let ticks = 0
  beforeOrders(client, async orders => {
    if (orders.some(({ operation }) => operation === 'tick')) ticks++
    if (!orders.some(({ operation }) => operation === 'read')) return
    ticks = 0
    await new Promise(resolve => { setTimeout(resolve, 50) })
  })
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await sessions.channel('room 1').send(1)
  await until(() => down.messages().length === 1, 'the message')
  await until(() => ticks === 10, 'nothing to be compared any more')
})
