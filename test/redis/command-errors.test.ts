import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { inspect } from 'node:util'
import t from 'tap'
import { resolveOptions } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { kStream } from '../../lib/sessions/session.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { freePort } from '../support/free-port.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { ordersOf } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

const handle = () => ({ status: 200, headers: {}, body: 'done', error: undefined })

t.test('boot fails if Redis cannot be reached', needsRedis, async t => {
  const client = new Redis({ port: await freePort(), host: '127.0.0.1' })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  const opened = createSessions(resolveOptions({ store: redisStore({ client }) }, 0), Fastify().log)
  await t.rejects(opened, { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('retries an operation that Redis considers expired by its own clock', needsRedis, async t => {
  const { sessions, client } = await farProcess(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  let attempts = 0
  const callWithPastLimit = async (...args: string[]): Promise<unknown> => {
    const append = ordersOf(args).find(({ operation }) => operation === 'append')
    if (append !== undefined && attempts++ === 0) args[append.limitAt] = '1'
    return await call(...args)
  }
  Object.assign(client, { call: callWithPastLimit })
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  t.equal(attempts, 2)
})

t.test('rejects a message and a stream that time out; both can be repeated', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const remote = await handleOf(nodeB, session)
  const message = { key: 'key', fingerprint: () => 'payload', handle }
  holdAnswers(true)
  const result = Promise.resolve(remote[kStream].messageQueue.enqueue(message))
  const attached = stream(nodeB, remote, remote[kStream].cursor)
  await t.rejects(result, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(attached, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  holdAnswers(false)
  t.match(await session[kStream].messageQueue.enqueue(message), { response: { body: 'done' } })
  const down = await stream(nodeB, remote, remote[kStream].cursor)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
})

eachLibrary(t, 'an error contains the message of Redis, but no command arguments', async (t, fleet, redis) => {
  const session = await openSession(await fleet.process())
  await redis.ask('SET', `{sse}:s:${session.id}:log`, 'not a stream')
  const error: unknown = await session.send('secret').catch((error: unknown) => error)
  t.match(error, { code: 'FST_SSE_STORE_UNAVAILABLE', cause: { message: /WRONGTYPE/ } })
  const text = inspect(error, { depth: Infinity })
  t.notMatch(text, session.id)
  t.notMatch(text, 'secret')
})
