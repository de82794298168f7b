import t, { type Test } from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { createMessage, createResponse } from './support/messages.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** Opens a node with a stream. `unregister` deletes the registration of its node id in Redis. */
async function openRegistered (t: Test) {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  return { client, session, down, unregister: () => redis.sendCommand('HDEL', '{sse}', `applied:${node}`) }
}

t.test('a node registers one node id at start', needsRedis, async t => {
  const redis = await startRedis(t)
  await openProxiedNode(t, redis)
  t.equal(await redis.sendCommand('ZCARD', '{sse}:nodes'), 1)
})

t.test('handles a message that arrives while a node registers a new node id, and later messages', needsRedis, async t => {
  const { client, session, unregister } = await openRegistered(t)
  const deliver = async (body: string): Promise<unknown> => {
    const { response } = await session[kInternals].messageQueue.enqueue({ key: undefined, fingerprint: () => '', handle: () => ({ status: 200, headers: {}, body }) })
    return response.body
  }
  let first: Promise<unknown> | undefined
  interceptStoreCommands(client, storeCommands => {
    if (storeCommands.some(({ operation, args }) => operation === 'heartbeat' && args[0] === '1')) first ??= deliver('first')
  })
  await unregister()
  await waitUntil(() => first !== undefined, 'the new registration')
  t.equal(await withTimeout(first ?? Promise.resolve(), 'the first response'), 'first')
  t.equal(await withTimeout(deliver('second'), 'the second response'), 'second')
})

t.test('reports a gap even if the first attempt to register a new node id fails', needsRedis, async t => {
  const { client, session, down, unregister } = await openRegistered(t)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  let attempts = 0
  interceptStoreCommands(client, storeCommands => {
    if (storeCommands.some(({ operation, args }) => operation === 'heartbeat' && args[0] === '1') && attempts++ === 0) throw new Error('Command timed out')
  })
  await unregister()
  await waitUntil(() => attempts === 2, 'the second attempt')
  await session.send(2)
  await waitUntil(() => down.messages().length === 2, 'the second message')
  matchList(t, down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message' }])
})

t.test('rejects sends to a session while a handler runs that started under a previous node id', needsRedis, async t => {
  const { session, down, unregister } = await openRegistered(t)
  const [started, gate] = [deferred(), deferred()]
  const running = session[kInternals].messageQueue.enqueue(createMessage(undefined, async () => {
    started.resolve()
    await gate.promise
    return createResponse('done')
  }))
  await withTimeout(started.promise, 'the handler')
  await unregister()
  await waitUntil(async () => await session.join('room').then(() => true, () => false), 'the new registration')
  await t.rejects(session.send(1), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  await waitUntil(async () => await session.send(2).then(() => true, () => false), 'sends to be accepted again')
  await waitUntil(() => down.messages().length > 0, 'the message')
  t.strictSame(down.messages(), [2])
})

t.test('receives publications if their connection is lost while the node registers', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client, proxy } = await openProxiedNode(t, redis)
  const { sessions: otherSessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  const remote = await findSession(otherSessions, session)
  let isBroken = false
  interceptStoreCommands(client, async storeCommands => {
    if (isBroken || !storeCommands.some(({ operation, args }) => operation === 'heartbeat' && args[0] === '1')) return
    isBroken = true
    proxy.connections[1]?.client.resetAndDestroy()
    await waitUntil(() => proxy.connections.length === 3, 'another connection')
  })
  await redis.sendCommand('HDEL', '{sse}', `applied:${String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))}`)
  await waitUntil(async () => isBroken && await session.update({}).then(() => true, () => false), 'the new registration')
  await remote.send(1)
  await otherSessions.broadcast('message', 2)
  await waitUntil(() => down.messages().includes(2), 'the messages')
  t.strictSame(down.messages(), [1, 2])
})

t.test('attempts to register that fail leave no subscriptions', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, pausePublications } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  await attachMemoryStream(sessions, session)
  const listInboxes = async (): Promise<string[]> => await redis.sendCommand('PUBSUB', 'CHANNELS', '{sse}:n:*') as string[]
  const subscribed = new Set(await listInboxes())
  pausePublications(true)
  await redis.sendCommand('HDEL', '{sse}', `applied:${String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))}`)
  await waitUntil(async () => {
    for (const inbox of await listInboxes()) subscribed.add(inbox)
    return subscribed.size >= 3
  }, 'two attempts')
  pausePublications(false)
  await waitUntil(async () => await session.update({}).then(() => true, () => false), 'the new registration')
  t.equal((await listInboxes()).length, 1)
})
