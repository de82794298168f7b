import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Sessions } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { openSession, stream } from '../support/memory-client.js'
import { beforeOrders, ordersOf } from '../support/redis-commands.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { farProcess, type FarProcess } from '../support/stores.js'
import { signal, until } from '../support/wait.js'

const open = (t: Test, redis: RedisServer, lease = 500): Promise<FarProcess> => farProcess(t, redis, { resumeTimeout: 300 }, { lease })

/** What a process's hook is told of ends. */
function listen (sessions: Sessions): string[] {
  const told: string[] = []
  sessions.addHook('onClose', ({ id }, reason) => { told.push(`${id} ${reason}`) })
  return told
}

/** Has the first end of a session that has expired be done, and its answer be lost. */
function loseAnswer (client: Redis, then: () => void = () => {}): void {
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  let lost = false
  const lose = async (...args: string[]): Promise<unknown> => {
    const reply = await call(...args)
    if (lost || !ordersOf(args).some(({ operation }) => operation === 'end')) return reply
    lost = true
    then()
    return await new Promise(() => {})
  }
  Object.assign(client, { call: lose })
}

const untold = async (redis: RedisServer): Promise<unknown> => await redis.ask('ZCARD', '{sse}:expired')

t.test('an expiry is told to the app, once, though the answer that tells of it never comes', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await open(t, redis)
  const told = listen(sessions)
  loseAnswer(client)
  const { id } = await openSession(sessions)
  await until(() => told.length > 0, 'the hook')
  await until(async () => await untold(redis) === 0, 'it to be known')
  t.strictSame(told, [`${id} expired`])
  t.strictSame(await redis.ask('KEYS', `*${id}*`), [])
})

t.test('an expiry is told to the app, once, when the connection breaks on which the answer was', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client, proxy } = await open(t, redis, 100_000)
  const told = listen(sessions)
  loseAnswer(client, () => { proxy.connections[0]?.client.resetAndDestroy() })
  const { id } = await openSession(sessions)
  await until(() => told.length > 0, 'the hook')
  await until(async () => await untold(redis) === 0, 'it to be known')
  t.strictSame(told, [`${id} expired`])
})

t.test('an expiry that a process found, which died before it could tell the app, is told by another', needsRedis, async t => {
  const redis = await startRedis(t)
  const one = await open(t, redis)
  const told = listen(one.sessions)
  loseAnswer(one.client, () => { one.proxy.setDown(true) })
  const { id } = await openSession(one.sessions)
  await until(async () => await untold(redis) === 1, 'it to expire')
  for (const key of ['{sse}:expired', `{sse}:e:${id}`]) t.ok(Number(await redis.ask('PTTL', key)) > 0, `${key} would go by itself`)
  const two = await open(t, redis)
  const toldThere = listen(two.sessions)
  t.equal(await two.sessions.findForResume(id, undefined), undefined, 'its client would be given another')
  await until(() => toldThere.length > 0, 'the hook')
  await until(async () => await untold(redis) === 0, 'it to be known')
  t.strictSame([told, toldThere], [[], [`${id} expired`]])
})

t.test('a session whose client comes back as it is found to be due lives on', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await open(t, redis)
  const told = listen(sessions)
  const { id } = await openSession(sessions)
  let back = false
  beforeOrders(client, async orders => {
    if (back || !orders.some(({ operation }) => operation === 'end')) return
    // To another process, which holds it, by the same tick of the clock.
    const clock = Number(await redis.ask('HGET', '{sse}', 'clock'))
    await redis.ask('ZADD', '{sse}:deadlines', String(clock + 300), id)
    back = true
  })
  await until(() => back, 'it to be due')
  t.ok(await sessions.find(id))
  t.strictSame(told, [])
  await until(() => told.length > 0, 'it to expire later')
})

/** A process whose app takes its time to hear of an expiry. */
async function withSlowHook (t: Test) {
  const redis = await startRedis(t)
  const one = await open(t, redis)
  const told = listen(one.sessions)
  const gate = signal()
  one.sessions.addHook('onClose', () => gate.promise)
  t.teardown(gate.resolve)
  return { redis, one, told, gate }
}

/** The same while it hears of one, and another process that has come since. */
async function whileHookRuns (t: Test) {
  const { redis, one, told, gate } = await withSlowHook(t)
  const { id } = await openSession(one.sessions)
  await until(() => told.length > 0, 'the hook')
  // It does not tick in step with the first: now this, now that one is to look.
  const two = await open(t, redis, 300)
  return { redis, one, two, told: [told, listen(two.sessions)], gate, id }
}

t.test('an app that is slow to hear of an expiry is not told again, nor is that of another process', needsRedis, async t => {
  const { redis, told, gate, id } = await whileHookRuns(t)
  const scores = new Set<unknown>()
  await until(async () => scores.add(await redis.ask('ZSCORE', '{sse}:expired', id)).size === 8, 'it to be looked at again')
  gate.resolve()
  await until(async () => await untold(redis) === 0, 'it to be known')
  t.strictSame(told, [[`${id} expired`], []])
})

t.test('where a process dies while its app hears of an expiry, that of another is told', needsRedis, async t => {
  const { redis, one, told, id } = await whileHookRuns(t)
  one.proxy.setDown(true)
  await until(async () => await untold(redis) === 0, 'it to be known')
  t.strictSame(told, [[`${id} expired`], [`${id} expired`]])
})

t.test('the sessions of a process that has died wait for their clients anew within few ticks, however many they are', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await farProcess(t, redis)
  const opened = await Promise.all(Array.from({ length: 1000 }, () => openSession(sessions)))
  await redis.ask('EVAL', "for _, id in ipairs(ARGV) do redis.call('HSET', '{sse}:s:' .. id, 'owner', 'dead') redis.call('ZADD', '{sse}:deadlines', 1, id) end", '0', ...opened.map(({ id }) => id))
  let ticks = 0
  beforeOrders(client, orders => { if (orders.some(({ operation }) => operation === 'tick')) ticks++ })
  await until(async () => await redis.ask('ZCOUNT', '{sse}:deadlines', '-inf', '1') === 0, 'all to be looked at', 30_000)
  t.ok(ticks <= 4, `${ticks} ticks`)
  t.equal(await redis.ask('HGET', `{sse}:s:${opened[500]?.id}`, 'owner'), '')
})

t.test('a process that closes is told of no expiry any more; another is', needsRedis, async t => {
  const redis = await startRedis(t)
  const one = await open(t, redis)
  const told = listen(one.sessions)
  const busy = await openSession(one.sessions)
  await stream(one.sessions, busy)
  const gate = signal()
  const running = busy[kStream].messageQueue.enqueue({
    key: undefined,
    fingerprint: () => '',
    handle: async () => {
      await gate.promise
      return { status: 200, headers: {}, body: '', error: undefined }
    }
  })
  await until(async () => await redis.ask('LLEN', `{sse}:s:${busy.id}:queue`) === 1, 'it to be busy')
  const { id } = await openSession(one.sessions)
  const deadline = await redis.ask('ZSCORE', '{sse}:deadlines', id)
  const closed = one.sessions.close()
  await until(async () => await redis.ask('ZSCORE', '{sse}:deadlines', id) !== deadline, 'it to be found')
  gate.resolve()
  await running
  await closed
  const two = await open(t, redis)
  const toldThere = listen(two.sessions)
  await until(() => toldThere.some(text => text.startsWith(id)), 'the hook')
  t.strictSame(told, [])
})

t.test('a process that is asked to close while it is to tell its app of an expiry waits until that has heard of it', needsRedis, async t => {
  const { redis, one, told, gate } = await withSlowHook(t)
  let closed: Promise<void> | undefined
  beforeOrders(one.client, orders => {
    if (orders.some(({ operation }) => operation === 'end')) closed ??= one.sessions.close()
  })
  const { id } = await openSession(one.sessions)
  await until(() => told.length > 0, 'the hook')
  const two = await open(t, redis)
  const toldThere = listen(two.sessions)
  gate.resolve()
  await closed
  await until(async () => await untold(redis) === 0, 'it to be known')
  t.strictSame([told, toldThere], [[`${id} expired`], []])
})
