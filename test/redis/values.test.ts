import { Cluster, Redis } from 'ioredis'
import { createCluster } from 'redis'
import t from 'tap'
import { redisStore } from '../../lib/redis.js'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

t.test('options of the store are checked', async t => {
  const client = new Redis({ lazyConnect: true })
  t.throws(() => redisStore({ client: {} as Redis }), { code: 'FST_SSE_OPTION_INVALID', message: /client/ })
  const clusters = [new Cluster([{ port: 1 }], { lazyConnect: true }), createCluster({ rootNodes: [{ url: 'redis://127.0.0.1:1' }] })]
  for (const cluster of clusters) t.throws(() => redisStore({ client: cluster as unknown as Redis }), { code: 'FST_SSE_OPTION_INVALID', message: /cluster/ })
  t.throws(() => redisStore({ client, namespace: 'a{b}' }), { code: 'FST_SSE_OPTION_INVALID', message: /namespace/ })
  t.throws(() => redisStore({ client, lease: 99 }), { code: 'FST_SSE_OPTION_INVALID', message: /lease/ })
})

eachLibrary(t, 'what a handler has answered is answered again by another process', async (t, fleet) => {
  const [one, two] = [await fleet.process({ maxSessions: Infinity }), await fleet.process({ maxSessions: Infinity })]
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const bodies = { object: { a: [1, null] }, text: 'text', nothing: undefined, bytes: Buffer.from([0, 255]) }
  for (const [key, body] of Object.entries(bodies)) {
    const letter = { key, fingerprint: () => 'payload', handle: () => ({ status: 201, headers: { 'x-app': 'yes' }, body, error: undefined }) }
    await session[kStream].messageQueue.enqueue(letter)
    t.strictSame(await afar[kStream].messageQueue.enqueue(letter), { response: letter.handle(), replayed: true }, key)
  }
  const letter = { key: 'none', fingerprint: () => 'payload', handle: () => ({ status: 200, headers: {}, body: 1n, error: undefined }) }
  await session[kStream].messageQueue.enqueue(letter)
  t.match(await afar[kStream].messageQueue.enqueue(letter), { response: { status: 500, error: { message: /BigInt/ } }, replayed: true })
})

eachLibrary(t, 'data that is changed elsewhere changes here while a stream is here, and what is set to nothing goes', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  await stream(one, session)
  const afar = await handleOf(two, session)
  await afar.update({ a: 1, b: 2 })
  await until(() => session.data.a === 1, 'the change')
  await session.update({ a: undefined })
  t.strictSame(session.data, { b: 2 })
  t.strictSame((await handleOf(two, session)).data, { b: 2 })
})

t.test('a session\'s end that was not heard of yet is found out by whoever sends to it', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, holdPublished } = await farProcess(t, redis)
  const session = await openSession(one)
  const afar = await two.findCached(session.id)
  if (afar === undefined) throw new Error('it is not found')
  holdPublished(true)
  await session.close('bye')
  t.equal(afar.closed, false)
  await t.rejects(afar.send(1), { code: 'FST_SSE_SESSION_OVER' })
  await until(() => afar.closed, 'it to know')
  holdPublished(false)
})

t.test('a session\'s end that was not heard of yet is found out by whoever closes it, and the app is told of it once', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, holdPublished } = await farProcess(t, redis)
  const told: string[] = []
  for (const sessions of [one, two]) sessions.addHook('onClose', (_session, reason) => { told.push(reason) })
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const { signal } = afar
  holdPublished(true)
  await session.close('bye')
  await afar.close('late')
  t.equal(afar.closed, true)
  await until(() => signal.aborted, 'the signal')
  t.strictSame(told, ['bye'])
  holdPublished(false)
})
