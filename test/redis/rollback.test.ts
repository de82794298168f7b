import t, { type Test } from 'tap'
import type { QueueResult } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { createMessage, createResponse, readQueue, recordHandlers } from './support/messages.js'
import { openTwoNodes } from './support/two-nodes.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { interceptStoreCommands, parseStoreCommands } from '../support/redis-commands.js'
import { testEachRedisClient, openProxiedNode } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

testEachRedisClient(t, 'reports a gap if the store has been rolled back', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  await session.send(2)
  await waitUntil(() => down.messages().length === 2, 'the next message')
  matchList(t, down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 2 }])
})

t.test('a rollback reports missed publications as lost, and later events arrive', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, proxy, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  pausePublications(true)
  await (await findSession(nodeB, session)).send(2)
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  proxy.connections[1]?.client.resetAndDestroy()
  await waitUntil(() => down.read().some(({ event }) => event === 'gap'), 'the gap')
  await session.send(3)
  await waitUntil(() => down.messages().includes(3), 'the next message')
  matchList(t, down.read(), [{ event: 'message', data: 1 }, { event: 'gap', data: { reason: 'store' } }, { event: 'message', data: 3 }])
  t.equal(down.read().length, 3)
})

t.test('after a rollback, a session has its earlier state, and later changes apply', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await session.update({ nick: 'ann' })
  const rollBack = await redis.snapshot()
  for (const nick of ['bob', 'cid', 'dan']) await session.update({ nick })
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await rollBack()
  await session.join('room')
  await sessions.channel('room').send(2)
  await session.send(3)
  await waitUntil(() => down.messages().includes(3), 'the last message')
  t.strictSame(down.messages(), [1, 2, 3])
  await waitUntil(() => session.data.nick === 'ann', 'the data')
})

// Redis closes sessions with the last two reasons, but an app can use them, too.
for (const reason of ['banned', 'expired', 'lost']) {
  t.test(`a session that was closed with the reason "${reason}" stays closed if a rollback has lost the close`, needsRedis, async t => {
    const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
    const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
    const closes: string[] = []
    for (const node of [nodeA, nodeB]) node.addHook('onClose', (_session, reason) => { closes.push(reason) })
    const remote = await findSession(nodeB, session)
    const rollBack = await redis.snapshot()
    await session.close(reason)
    await waitUntil(() => remote.closed, 'the close on the other node')
    await other.send(1)
    await rollBack()
    await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'closeReason') === reason, 'the close')
    t.equal(await nodeB.find(session.id), undefined)
    t.ok(session.closed)
    t.strictSame(closes, [reason])
  })
}

t.test('after a rollback that has removed the owner of a stream, its client reconnects', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const rollBack = await redis.snapshot()
  const down = await attachMemoryStream(sessions, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await rollBack()
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.notOk(down.read().some(({ event }) => event === 'replaced'))
})

t.test('a session expires although a rollback has lost the end of its stream', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, { resumeTimeout: 200 })
  const closes: string[] = []
  sessions.addHook('onClose', (_session, reason) => { closes.push(reason) })
  const session = await openSession(sessions)
  const { sink } = await attachMemoryStream(sessions, session)
  const getOwner = (): Promise<unknown> => redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner')
  const rollBack = await redis.snapshot()
  t.not(await getOwner(), '')
  sink.destroy()
  await waitUntil(async () => await getOwner() === '', 'the stream to be released')
  await rollBack()
  await waitUntil(() => closes.length > 0, 'the expiry')
  t.strictSame(closes, ['expired'])
})

/** Opens two nodes that use a session. The first node closes the session when it expires; its onClose hook waits for the gate. `rollBack` restores the data before the expiry. */
async function openWithExpired (t: Test) {
  // The lease is so long that no wait of this test exceeds it.
  const [redis, nodeA, nodeB] = await openTwoNodes(t, { resumeTimeout: 200 }, { lease: 100_000 })
  const closes: string[] = []
  const gate = deferred()
  for (const [name, { sessions }] of Object.entries({ nodeA, nodeB })) {
    sessions.addHook('onClose', async (_session, reason) => {
      closes.push(`${name} ${reason}`)
      await gate.promise
    })
  }
  const heartbeats = deferred()
  let heartbeatCount = 0
  const call = nodeB.client.call.bind(nodeB.client) as (...command: string[]) => Promise<unknown>
  const callAndCount = async (...command: string[]): Promise<unknown> => {
    if (!parseStoreCommands(command).some(({ operation }) => operation === 'heartbeat')) return await call(...command)
    await heartbeats.promise
    const reply = await call(...command)
    heartbeatCount++
    return reply
  }
  Object.assign(nodeB.client, { call: callAndCount })
  const session = await openSession(nodeA.sessions)
  const remote = await findSession(nodeB.sessions, session)
  const rollBack = await redis.snapshot()
  session[kInternals].release()
  await waitUntil(() => closes.length > 0 && remote.closed, 'the expiry')
  heartbeats.resolve()
  const waitForHeartbeats = async (): Promise<void> => {
    const before = heartbeatCount
    await waitUntil(() => heartbeatCount > before + 2, 'heartbeats of the second node')
  }
  await waitForHeartbeats()
  const count = async (): Promise<number> => (await redis.sendCommand('KEYS', `*${session.id}*`) as string[]).length + Number(await redis.sendCommand('EXISTS', '{sse}:deadlines', '{sse}:unacked_expiries'))
  return { redis, nodeA, session, remote, closes, gate, rollBack, waitForHeartbeats, waitForRemoval: () => waitUntil(async () => await count() === 0, 'the session to be removed') }
}

t.test('the onClose hooks run once although a rollback has lost the expiry', needsRedis, async t => {
  const { redis, nodeA, session, closes, gate, rollBack, waitForHeartbeats, waitForRemoval } = await openWithExpired(t)
  gate.resolve()
  await waitForRemoval()
  for (const { client } of nodeA.proxy.connections) client.pause()
  await rollBack()
  await redis.sendCommand('ZADD', '{sse}:deadlines', '1', session.id)
  await waitForHeartbeats()
  for (const { client } of nodeA.proxy.connections) client.resume()
  await waitForRemoval()
  t.strictSame(closes, ['nodeA expired'])
})

t.test('the onClose hooks run once although a rollback has lost that they have run', needsRedis, async t => {
  const { redis, closes, gate, waitForRemoval } = await openWithExpired(t)
  const rollBack = await redis.snapshot()
  gate.resolve()
  await waitForRemoval()
  await rollBack()
  await waitForRemoval()
  t.strictSame(closes, ['nodeA expired'])
})

t.test('a stream that is being attached is not released because Redis has lost the end of an earlier one', needsRedis, async t => {
  const [redis, { sessions: nodeA, client }, { sessions: nodeB }] = await openTwoNodes(t)
  const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
  const otherStream = await attachMemoryStream(nodeA, other)
  const earlier = await attachMemoryStream(nodeA, session)
  const key = `{sse}:s:${session.id}`
  const owner = String(await redis.sendCommand('HGET', key, 'owner'))
  earlier.sink.destroy()
  await waitUntil(async () => await redis.sendCommand('HGET', key, 'owner') === '', 'the stream to be released')
  const [gate, requested] = [deferred(), deferred()]
  interceptStoreCommands(client, commands => {
    if (!commands.some(({ operation }) => operation === 'acquire')) return
    requested.resolve()
    return gate.promise
  })
  const attached = attachMemoryStream(nodeA, session)
  await requested.promise
  await redis.sendCommand('HSET', key, 'owner', owner)
  await redis.sendCommand('ZADD', '{sse}:deadlines', '1', session.id)
  await waitUntil(async () => await redis.sendCommand('ZSCORE', '{sse}:deadlines', session.id) !== '1', 'the deadline to be examined')
  // Arrives after the notification that follows from that.
  await nodeB.broadcast('message', 'later')
  await waitUntil(() => otherStream.messages().length === 1, 'the broadcast')
  gate.resolve()
  const down = await attached
  await session.send('own')
  await waitUntil(() => down.messages().includes('own'), 'the message')
  t.equal(await redis.sendCommand('HGET', key, 'owner'), owner)
})

/** Opens a session whose first message is being handled until the gate is opened. `rollBack` restores the data while the message runs, `rollBackFirst` the data before the message. */
async function openWithRunningMessage (t: Test, keyOf: (name: string) => string | undefined = () => undefined) {
  const redis = await startRedis(t)
  const { sessions, waitForReplies } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const rollBackFirst = await redis.snapshot()
  const gate = deferred()
  const handled: string[] = []
  const enqueue = async (name: string, release?: Promise<void>): Promise<QueueResult> => await session[kInternals].messageQueue.enqueue(createMessage(keyOf(name), async () => {
    handled.push(name)
    await release
    return createResponse(name)
  }))
  const first = enqueue('first', gate.promise)
  await waitUntil(() => handled.length === 1, 'the first message')
  return { redis, session, enqueue, handled, gate, first, waitForReplies, rollBackFirst, rollBack: await redis.snapshot() }
}

t.test('after a rollback, messages do not wait for one that was completed, and a repeat of that is handled again', needsRedis, async t => {
  const { session, enqueue, handled, gate, first, rollBack } = await openWithRunningMessage(t, name => name)
  gate.resolve()
  await first
  // After the command that stores the response.
  await session.update({})
  await rollBack()
  t.match(await withTimeout(enqueue('second'), 'the second message'), { replayed: false })
  t.match(await withTimeout(enqueue('first'), 'the repeat of the first'), { replayed: false })
  t.strictSame(handled, ['first', 'second', 'first'])
})

t.test('after a rollback, messages do not wait for a ticket of a node that does not have the session in memory any more', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
  await attachMemoryStream(nodeB, other)
  const { handled, handle } = recordHandlers()
  // The name of this ticket is 1.
  await other[kInternals].messageQueue.enqueue(createMessage('other', handle('other')))
  const [nodeId, key] = [String(await redis.sendCommand('HGET', `{sse}:s:${other.id}`, 'owner')), `{sse}:s:${session.id}`]
  // As if node B had completed the ticket for this session, and Redis had lost that.
  await redis.sendCommand('HSET', key, 'first', `${nodeId} 1 1`)
  await redis.sendCommand('HSET', `${key}:records`, 'repeat', `r payload ${nodeId} 1;`)
  const messages = ['next', 'repeat'].map(name => session[kInternals].messageQueue.enqueue(createMessage(name, handle(name))))
  await session.send(1)
  t.strictSame(handled, ['other'])
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  t.match(await withTimeout(Promise.all(messages), 'the messages'), [{ replayed: false }, { replayed: false }])
  t.strictSame(handled, ['other', 'next', 'repeat'])
})

t.test('a message that waits is handled although a rollback has removed it from the queue', needsRedis, async t => {
  const { session, enqueue, handled, gate, first, rollBack } = await openWithRunningMessage(t)
  const second = enqueue('second')
  await session.update({})
  await rollBack()
  gate.resolve()
  await withTimeout(Promise.all([first, second]), 'both messages')
  t.strictSame(handled, ['first', 'second'])
})

t.test('a message that waits does not start beside a running one that a rollback has removed from the queue', needsRedis, async t => {
  const { redis, session, enqueue, handled, gate, first, waitForReplies, rollBackFirst } = await openWithRunningMessage(t)
  const second = enqueue('second')
  await session.update({})
  await rollBackFirst()
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 1, 'the second message to be added again')
  await waitForReplies()
  t.strictSame(handled, ['first'])
  gate.resolve()
  await withTimeout(Promise.all([first, second]), 'both messages')
  t.strictSame(handled, ['first', 'second'])
})

testEachRedisClient(t, 'delivers events after a rollback of the inbox sequence number', async (_t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  await redis.sendCommand('HINCRBY', '{sse}', `inbox:${node}`, '-2')
  await session.send(2)
  await waitUntil(() => down.messages().length === 2, 'the next message')
})

t.test('a stream that is acquired after a rollback replaces one that was acquired before', needsRedis, async t => {
  const [redis, { sessions: nodeA, client }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const rollBack = await redis.snapshot()
  const before = await attachMemoryStream(nodeA, session)
  await session.send(1)
  await waitUntil(() => before.messages().length === 1, 'the message')
  const gate = deferred()
  interceptStoreCommands(client, () => gate.promise)
  await rollBack()
  const after = await attachMemoryStream(nodeB, await findSession(nodeB, session))
  gate.resolve()
  await waitUntil(() => before.sink.closed, 'the end of the stream')
  await (await findSession(nodeB, session)).send(2)
  await waitUntil(() => after.messages().includes(2), 'the next message')
  t.notOk(after.sink.closed)
})

/** Opens a node with a stream that has reported a rollback. No position was assigned since. */
async function openAfterRollback (t: Test) {
  const redis = await startRedis(t)
  const { sessions, client, publicationCount } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  const countGaps = (): number => down.read().filter(({ event }) => event === 'gap').length
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  await waitUntil(() => countGaps() === 1, 'the gap')
  await session.update({ nick: 'ann' })
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  return { redis, client, publicationCount, session, down, countGaps, unregister: ['HDEL', '{sse}', `applied:${node}`] as const }
}

t.test('a second rollback is noticed, although it has lost no position', needsRedis, async t => {
  const { redis, session, countGaps } = await openAfterRollback(t)
  const rollBack = await redis.snapshot()
  await session.update({ nick: 'bob' })
  await rollBack()
  await waitUntil(() => session.data.nick === 'ann' && countGaps() === 2, 'the earlier data and the second gap')
})

t.test('a second rollback is noticed, although it has only lost the registration of a node', needsRedis, async t => {
  const { redis, countGaps, unregister } = await openAfterRollback(t)
  await redis.sendCommand(...unregister)
  await waitUntil(() => countGaps() === 2, 'the second gap')
})

t.test('a rollback that another node has reported is not reported again by a node whose registration it has lost', needsRedis, async t => {
  const { redis, client, session, down, unregister, publicationCount } = await openAfterRollback(t)
  const gate = deferred()
  interceptStoreCommands(client, storeCommands => storeCommands.some(({ operation }) => operation === 'heartbeat') ? gate.promise : undefined)
  // After the reply to an earlier heartbeat.
  await session.update({})
  const position = String(BigInt(String(await redis.sendCommand('HGET', '{sse}', 'position'))) + 1n)
  await redis.sendCommand(...unregister)
  await redis.sendCommand('HSET', '{sse}', 'position', position, 'rollbackPosition', position)
  const before = publicationCount()
  await redis.sendCommand('PUBLISH', '{sse}:all', `rollback ${position}`)
  await waitUntil(() => publicationCount() > before, 'the publication')
  gate.resolve()
  await waitUntil(async () => await session.send(2).then(() => true, () => false), 'the new registration')
  await waitUntil(() => down.messages().includes(2), 'the next message')
  t.equal(await redis.sendCommand('HGET', '{sse}', 'rollbackPosition'), position)
})

t.test('a node reports a rollback once, although Redis does not have its newest commands', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis, { resumeTimeout: 400 })
  const session = await openSession(sessions)
  await attachMemoryStream(sessions, session)
  const rollBack = await redis.snapshot()
  await session.update({})
  const gate = deferred()
  let heartbeats = 0
  interceptStoreCommands(client, storeCommands => {
    if (storeCommands.some(({ operation }) => operation === 'heartbeat')) heartbeats++
    return storeCommands.some(({ sequence }) => sequence > 0) ? gate.promise : undefined
  })
  const getRollbackPosition = (): Promise<unknown> => redis.sendCommand('HGET', '{sse}', 'rollbackPosition')
  await rollBack()
  await waitUntil(async () => await getRollbackPosition() !== null, 'the rollback')
  const [position, before] = [await getRollbackPosition(), heartbeats]
  // The node has received the rollback when it sends the second of these.
  await waitUntil(() => heartbeats >= before + 3, 'three heartbeats')
  t.equal(await getRollbackPosition(), position)
  gate.resolve()
  await session.update({})
})
