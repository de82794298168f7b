import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { inspect } from 'node:util'
import t from 'tap'
import { resolveOptions } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { kInternals } from '../../lib/sessions/session.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { findFreePort } from '../support/free-port.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { openTwoNodes } from './support/two-nodes.js'
import { parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { testEachRedisClient, openProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

const handle = () => ({ status: 200, headers: {}, body: 'done' })

t.test('boot fails if Redis cannot be reached', needsRedis, async t => {
  const client = new Redis({ port: await findFreePort(), host: '127.0.0.1' })
  client.on('error', () => {})
  t.teardown(() => { client.disconnect() })
  const opened = createSessions(resolveOptions({ store: redisStore({ client }) }, 0), Fastify().log)
  await t.rejects(opened, { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('retries an operation that Redis considers expired by its own clock', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  let attempts = 0
  const callWithPastLimit = async (...args: string[]): Promise<unknown> => {
    const append = parseStoreCommands(args).find(({ operation }) => operation === 'append')
    if (append !== undefined && attempts++ === 0) args[append.deadlineIndex] = '1'
    return await call(...args)
  }
  Object.assign(client, { call: callWithPastLimit })
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  t.equal(attempts, 2)
})

t.test('rejects a message and a stream that time out; both can be repeated', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, pauseReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const message = { key: 'key', fingerprint: () => 'payload', handle }
  pauseReplies(true)
  const result = Promise.resolve(remote[kInternals].messageQueue.enqueue(message))
  const attached = attachMemoryStream(nodeB, remote, remote[kInternals].cursor)
  await t.rejects(result, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(attached, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  pauseReplies(false)
  t.match(await session[kInternals].messageQueue.enqueue(message), { response: { body: 'done' } })
  const down = await attachMemoryStream(nodeB, remote, remote[kInternals].cursor)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
})

testEachRedisClient(t, 'an error contains the message of Redis, but no command arguments', async (t, store, redis) => {
  const session = await openSession(await store.addNode())
  await redis.sendCommand('SET', `{sse}:s:${session.id}:log`, 'not a stream')
  const error: unknown = await session.send('secret').catch((error: unknown) => error)
  t.match(error, { code: 'FST_SSE_STORE_UNAVAILABLE', cause: { message: /WRONGTYPE/ } })
  const text = inspect(error, { depth: Infinity })
  t.notMatch(text, session.id)
  t.notMatch(text, 'secret')
})
