import t, { type Test } from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { openTwoNodes, pauseUntilExpired, watchAcquire } from './support/two-nodes.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { waitUntil, withTimeout } from '../support/wait.js'

// Replies and publications of Redis arrive over two connections, and either connection may be slower.

/** Opens a channel member that has received one event. A second event is published but not received yet. */
async function openWithDelayedPublication (t: Test) {
  const [, { sessions: nodeA, pausePublications, waitForReplies }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.join('room')
  await nodeB.channel('room').send(1)
  await waitUntil(() => down.messages().length === 1, 'the first message')
  pausePublications(true)
  await nodeB.channel('room').send(2)
  return { nodeB, session, down, pausePublications, waitForReplies }
}

t.test('delivers a channel event that was published before leave() but received after it', needsRedis, async t => {
  const { session, down, pausePublications } = await openWithDelayedPublication(t)
  await session.leave('room')
  pausePublications(false)
  await waitUntil(() => down.read().length === 2, 'the second message')
  t.strictSame(down.messages(), [1, 2])
})

t.test('delivers a channel event that was published before close() but received after it', needsRedis, async t => {
  const { session, down, pausePublications, waitForReplies } = await openWithDelayedPublication(t)
  const closed = session.close()
  await waitUntil(() => session.closed, 'the close')
  await waitForReplies()
  pausePublications(false)
  await closed
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event), ['message', 'message', 'close'])
})

t.test('close() does not wait forever for publications: the stream ends, and the client can resume', needsRedis, async t => {
  const { nodeB, session, down } = await openWithDelayedPublication(t)
  await withTimeout(session.close('bye'), 'the close')
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
  const resumed = await attachMemoryStream(nodeB, await findSession(nodeB, session), down.events.at(-1)?.position ?? 0)
  await waitUntil(() => resumed.sink.closed, 'the end of the other stream')
  matchList(t, resumed.read(), [{ event: 'message', data: 2 }, { event: 'close', data: { reason: 'bye' } }])
})

t.test('delivers an event that was sent while a node registers again after losing its lease', needsRedis, async t => {
  const [redis, { sessions: nodeB }, node] = await openTwoNodes(t, {}, { lease: 1500 })
  const { sessions: nodeA, client, proxy, waitForReplies } = node
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  await session.send(1)
  let sent = false
  interceptStoreCommands(client, async storeCommands => {
    // The node acquires its session again.
    if (sent || !storeCommands.some(({ operation, args }) => operation === 'read' && args.includes(session.id))) return
    sent = true
    await remote.send(2)
  })
  await pauseUntilExpired(redis, node)
  for (const { client } of proxy.connections) client.resume()
  await waitUntil(() => sent, 'the new registration')
  for (let round = 0; round < 5; round++) await waitForReplies()
  await nodeB.broadcast('message', 3)
  await waitUntil(() => down.messages().includes(3), 'the broadcast')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('reads a channel for a stream that is being attached while another session leaves the channel', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await openProxiedNode(t, redis)
  const { sessions: nodeA, pausePublications } = await openProxiedNode(t, redis, {}, { lease: 1000 })
  const [first, second] = [await openSession(nodeA), await openSession(nodeA)]
  await attachMemoryStream(nodeA, first)
  await first.join('a')
  const remote = await findSession(nodeB, second)
  await remote.join('a')
  await remote.join('b')
  await first.leave('a')
  const local = await findSession(nodeA, second)
  // Attaching waits for channel b. Meanwhile, three heartbeats release channels without readers.
  pausePublications(true)
  const attached = attachMemoryStream(nodeA, local, local[kInternals].cursor)
  for (let number = 2; number < 5; number++) {
    await waitUntil(() => nodeA.size === number, 'the next heartbeat')
    await openSession(nodeB)
  }
  pausePublications(false)
  const down = await attached
  await nodeB.channel('a').send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
})

t.test('a reply that is older than a later publication does not undo its change', needsRedis, async t => {
  const [redis, { sessions: nodeA, pauseReplies }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  const node = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner'))
  const lastApplied = (): Promise<unknown> => redis.sendCommand('HGET', '{sse}', `applied:${node}`)
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  pauseReplies(true)
  const before = await lastApplied()
  const found = nodeA.find(session.id)
  await waitUntil(async () => await lastApplied() !== before, 'Redis to execute the command')
  await remote.join('room')
  await waitUntil(() => session.channels.length === 1, 'the publication')
  pauseReplies(false)
  await found
  t.strictSame(session.channels, ['room'])
  await nodeB.channel('room').send(2)
  await waitUntil(() => down.messages().length === 2, 'the second message')
})

t.test('delivers events in order that were sent while many logs are read', needsRedis, async t => {
  const [redis, { sessions: nodeA, client }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  const names = Array.from({ length: 600 }, (_, n) => `room ${n}`)
  for (let n = 0; n < names.length; n += 50) await Promise.all(names.slice(n, n + 50).map(name => session.join(name)))
  await nodeB.channel('room 599').send(1)
  await waitUntil(() => down.messages().length === 1, 'the first message')
  let reads = 0
  interceptStoreCommands(client, async storeCommands => {
    // The first logs have been read by then.
    if (!storeCommands.some(({ operation, args }) => operation === 'read' && args.includes('room 599'))) return
    if (reads++ > 0) return
    await nodeB.channel('room 0').send(2)
    await nodeB.channel('room 599').send(3)
  })
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await waitUntil(() => down.messages().length === 3, 'the other messages')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('applies a join and a leave on another node that are received before the reply to an earlier acquire', needsRedis, async t => {
  const [redis, { sessions: nodeA, pauseReplies, publicationCount }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeB)
  await session.join('old')
  const local = await findSession(nodeA, session)
  pauseReplies(true)
  const isAcquired = await watchAcquire(redis, session)
  const attached = attachMemoryStream(nodeA, local, local[kInternals].cursor)
  await waitUntil(isAcquired, 'Redis to execute the command')
  const before = publicationCount()
  await session.join('new')
  await session.leave('old')
  await waitUntil(() => publicationCount() >= before + 2, 'the publications')
  pauseReplies(false)
  const down = await attached
  await nodeB.channel('new').send(1)
  await nodeB.channel('old').send(2)
  await session.send(3)
  await waitUntil(() => down.messages().includes(3), 'the last message')
  t.strictSame(down.messages(), [1, 3])
})

t.test('applies changes that are received while commands get no reply', needsRedis, async t => {
  const [, { sessions: nodeA, pauseReplies, publicationCount }, { sessions: nodeB }] = await openTwoNodes(t)
  const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
  const [down] = [await attachMemoryStream(nodeA, session), await attachMemoryStream(nodeA, other)]
  // The node has replicas of both channels.
  for (const name of ['old', 'new']) await other.join(name)
  await session.join('old')
  const remote = await findSession(nodeB, session)
  await nodeB.channel('old').send(1)
  await waitUntil(() => down.messages().length === 1, 'the first message')
  pauseReplies(true)
  const before = publicationCount()
  await remote.update({ nick: 'ann' })
  await remote.join('new')
  await remote.leave('old')
  await nodeB.channel('new').send(2)
  await nodeB.channel('old').send(3)
  await nodeB.broadcast('message', 4)
  await waitUntil(() => publicationCount() >= before + 6, 'the publications')
  pauseReplies(false)
  await waitUntil(() => down.messages().includes(4), 'the broadcast')
  t.strictSame(down.messages(), [1, 2, 4])
  await waitUntil(() => session.data.nick === 'ann', 'the data')
  t.strictSame(session.channels, ['new'])
})

t.test('the onLeave hooks of a close run for all channels, even if earlier changes are received after it', needsRedis, async t => {
  const [, { sessions: nodeB }, { sessions: nodeA, pausePublications }] = await openTwoNodes(t)
  const hooks: string[] = []
  nodeA.addHook('onJoin', () => { hooks.push('join') }).addHook('onLeave', () => { hooks.push('leave') }).addHook('onClose', () => { hooks.push('close') })
  const session = await openSession(nodeA)
  const stream = await attachMemoryStream(nodeA, session)
  await session.join('room')
  const remote = await findSession(nodeB, session)
  await nodeA.channel('room').send(1)
  await waitUntil(() => stream.messages().length === 1, 'the message')
  pausePublications(true)
  await remote.leave('room')
  await remote.update({ a: 1 })
  const [joined, closed] = [session.join('room'), session.close('bye')]
  await joined
  await waitUntil(() => session.closed, 'the close')
  pausePublications(false)
  await withTimeout(closed, 'the hooks')
  t.strictSame(hooks, ['join', 'join', 'leave', 'close'])
})
