import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { createMessage, createResponse } from './support/messages.js'
import { openTwoNodes } from './support/two-nodes.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { testEachRedisClient } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

testEachRedisClient(t, 'another node returns the stored response of a handler', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode({ maxSessions: Infinity }), await store.addNode({ maxSessions: Infinity })]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const bodies = { text: 'text', empty: '', nothing: undefined, bytes: Buffer.from([0, 255]) }
  for (const [key, body] of Object.entries(bodies)) {
    const message = { key, fingerprint: () => 'payload', handle: () => ({ status: 201, headers: { 'x-app': 'yes' }, body }) }
    await session[kInternals].messageQueue.enqueue(message)
    t.strictSame(await remote[kInternals].messageQueue.enqueue(message), { response: message.handle(), replayed: true }, key)
  }
})

testEachRedisClient(t, 'data that another node changes is updated while a stream is open, and undefined removes a property', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  await remote.update({ a: 1, b: 2 })
  await waitUntil(() => session.data.a === 1, 'the change')
  await session.update({ a: undefined })
  t.strictSame(session.data, { b: 2 })
  t.strictSame((await findSession(nodeB, session)).data, { b: 2 })
})

t.test('data that another node changes is updated although Redis replies too late', needsRedis, async t => {
  const [, { sessions: nodeA, client, pauseReplies }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  let isRead = false
  interceptStoreCommands(client, commands => { isRead ||= commands.some(({ operation }) => operation === 'get') })
  pauseReplies(true)
  await remote.update({ nick: 'ann' })
  await waitUntil(() => isRead, 'the read of the record')
  // The time limit of the read is over before that of this command.
  await t.rejects(nodeA.channel('room').count(), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  pauseReplies(false)
  await waitUntil(() => session.data.nick === 'ann', 'the change')
})

t.test('send() detects a close that has not been received yet', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await nodeB.findCached(session.id)
  if (remote === undefined) throw new Error('the session was not found')
  pausePublications(true)
  await session.close('bye')
  t.equal(remote.closed, false)
  await t.rejects(remote.send(1), { code: 'FST_SSE_SESSION_OVER' })
  await waitUntil(() => remote.closed, 'the close')
  pausePublications(false)
})

t.test('a process notices the close of a session that was closed while the process was finding it', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, pauseReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeB, await openSession(nodeB))
  pauseReplies(true)
  const found = nodeB.find(session.id)
  await waitUntil(async () => String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'nodes')).split(',').length === 3, 'the execution of the command')
  await session.close()
  // Arrives after the publication of the close.
  await nodeA.broadcast('message', 1)
  await waitUntil(() => down.messages().length === 1, 'the broadcast')
  pauseReplies(false)
  const late = await found
  await waitUntil(() => late?.closed !== false, 'the close')
})

t.test('close() detects an earlier close that has not been received yet; onClose runs once', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, pausePublications }] = await openTwoNodes(t)
  const closeReasons: string[] = []
  for (const sessions of [nodeA, nodeB]) sessions.addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { signal } = remote
  pausePublications(true)
  await session.close('bye')
  await remote.close('late')
  t.equal(remote.closed, true)
  await waitUntil(() => signal.aborted, 'the abort signal')
  t.strictSame(closeReasons, ['bye'])
  pausePublications(false)
})

testEachRedisClient(t, 'a join or leave that changes nothing does not hide what another node has changed', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  await session.join('room')
  const remote = await findSession(nodeB, session)
  await remote.update({ n: 1 })
  await session.join('room')
  t.strictSame(session.data, { n: 1 })
  await remote.update({ n: 2 })
  await session.leave('another')
  t.strictSame(session.data, { n: 2 })
})

t.test('a node detects that a stream continues although the lease of its node had ended', needsRedis, async t => {
  const [redis, { sessions: nodeA, proxy }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  // The same as what another node does when the lease has ended.
  await redis.sendCommand('HSET', `{sse}:s:${session.id}`, 'owner', '')
  await redis.sendCommand('HINCRBY', `{sse}:s:${session.id}`, 'version', '1')
  const remote = await findSession(nodeB, session)
  t.equal(remote.connected, false)
  proxy.connections[1]?.client.resetAndDestroy()
  await waitUntil(async () => String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner')) !== '', 'the owner')
  await remote[kInternals].messageQueue.enqueue(createMessage(undefined, () => createResponse('done')))
  t.equal(remote.connected, true)
  t.notOk(down.sink.closed)
})
