import t from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream, type MemoryStream } from '../support/memory-stream.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode, testEachRedisClient } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// Expired or closed logs are not a data loss. The comparison of logs with Redis must not report a gap for them.

const gapsOf = (down: MemoryStream): unknown[] => down.read().filter(({ event }) => event === 'gap')

testEachRedisClient(t, 'reports no gap after entries of a left channel have expired', async (t, store, redis) => {
  const options = { channelLog: { age: 200 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
  const [down, otherDown] = [await attachMemoryStream(nodeA, session), await attachMemoryStream(nodeB, other)]
  await session.join('room')
  await nodeB.channel('room').send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await session.leave('room')
  const since = performance.now()
  await waitUntil(() => performance.now() - since > 300, 'the entries to expire')
  // Joining another channel rebuilds the list of logs that the stream reads.
  await (await findSession(nodeB, session)).join('another')
  await waitUntil(() => session.channels.includes('another'), 'the channel')
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await nodeB.broadcast('message', 2)
  await waitUntil(() => down.messages().includes(2) && otherDown.messages().includes(2), 'the broadcast')
  t.strictSame([...gapsOf(down), ...gapsOf(otherDown)], [])
})

testEachRedisClient(t, 'reports no gap to other sessions if a session and its log are deleted', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
  const [down, otherDown] = [await attachMemoryStream(nodeA, session), await attachMemoryStream(nodeA, other)]
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await redis.sendCommand('DEL', `{sse}:s:${session.id}`, `{sse}:s:${session.id}:log`)
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  await nodeA.broadcast('message', 2)
  await waitUntil(() => otherDown.messages().includes(2), 'the broadcast')
  t.strictSame(gapsOf(otherDown), [])
})

for (const isRecreated of [false, true]) {
  testEachRedisClient(t, `reports no gap if a left channel with unread entries is deleted${isRecreated ? ' and created again' : ''}`, async (t, store, redis) => {
    const nodeA = await store.addNode()
    const nodeB = await store.addNode()
    const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
    const [down, otherDown] = [await attachMemoryStream(nodeA, session), await attachMemoryStream(nodeB, other)]
    await session.join('room')
    await nodeB.channel('room').send(1)
    await waitUntil(() => down.messages().length === 1, 'the message')
    await session.leave('room')
    // The same state as after both keys have expired.
    t.equal(await redis.sendCommand('DEL', '{sse}:c:room:', '{sse}:c:room::log'), 2)
    if (isRecreated) {
      await redis.sendCommand('CLIENT', 'PAUSE', '100', 'WRITE')
      await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await other.join('room')
      await nodeB.channel('room').send('again')
    } else await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await nodeB.broadcast('message', 2)
    await waitUntil(() => down.messages().includes(2) && otherDown.messages().includes(2), 'the broadcast')
    t.strictSame([...gapsOf(down), ...gapsOf(otherDown)], [])
    t.strictSame(otherDown.messages(), isRecreated ? ['again', 2] : [2])
  })
}

testEachRedisClient(t, 'reports a gap for unread entries of a left channel that has been deleted', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  await session.join('room')
  await nodeA.channel('room').send(1)
  await session.leave('room')
  t.equal(await redis.sendCommand('DEL', '{sse}:c:room:', '{sse}:c:room::log'), 2)
  const down = await attachMemoryStream(nodeA, session)
  await nodeA.broadcast('message', 2)
  await waitUntil(() => down.messages().includes(2), 'the broadcast')
  matchList(t, down.read(), [{ event: 'gap', data: { reason: 'age' } }, { data: 2 }])
})

/** Joins and leaves so many channels, with an event in each, that what the session reads of the first one is dropped. */
async function leaveManyChannels (sessions: Sessions, session: Session): Promise<void> {
  for (let index = 0; index < 101; index++) {
    await session.join(`room ${index}`)
    await sessions.channel(`room ${index}`).send(index)
    await session.leave(`room ${index}`)
  }
}

testEachRedisClient(t, 'the reason of a gap stays the same after the next event', async (t, store) => {
  const nodeA = await store.addNode()
  const session = await openSession(nodeA)
  await leaveManyChannels(nodeA, session)
  await session.send('next')
  const down = await attachMemoryStream(nodeA, session)
  await waitUntil(() => down.messages().includes('next'), 'the message')
  matchList(t, gapsOf(down), [{ data: { reason: 'count' } }])
})

testEachRedisClient(t, 'the gap for a dropped channel stays after the log of the session was trimmed', async (t, store, redis) => {
  const nodeA = await store.addNode({ log: { entries: 2 } })
  const session = await openSession(nodeA)
  for (const data of ['first', 'second']) await session.send(data)
  const cursor = Number(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'last'))
  await leaveManyChannels(nodeA, session)
  // Trims the first event.
  await session.send('third')
  const down = await attachMemoryStream(nodeA, session, cursor)
  await waitUntil(() => down.messages().includes('third'), 'the message')
  matchList(t, gapsOf(down), [{ data: { reason: 'count' } }])
})

t.test('reads no log again when what a session reads of a left channel is dropped', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await leaveManyChannels(sessions, session)
  await waitUntil(() => down.messages().length === 101, 'the messages of the channels')
  let readCount = 0
  interceptStoreCommands(client, commands => { readCount += commands.filter(({ operation }) => operation === 'read').length })
  for (const data of ['next', 'last']) await session.send(data)
  await waitUntil(() => down.messages().includes('last'), 'the message')
  t.equal(readCount, 0)
  t.strictSame(down.messages(), [...Array.from({ length: 101 }, (_, index) => index), 'next', 'last'])
})

t.test('a stream stops to read the channels that its session has left', needsRedis, async t => {
  const { sessions } = await openProxiedNode(t, await startRedis(t), { channelLog: { age: 2000 } }, { lease: 500 })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await leaveManyChannels(sessions, session)
  await waitUntil(() => sessions.stats().channels === 100, 'the oldest channel to be dropped')
  t.equal(down.messages().length, 101)
  t.notOk(down.read().some(({ event }) => event === 'gap'))
  await waitUntil(() => sessions.stats().channels === 0, 'all entries to expire')
})

t.test('a client that does not read gets a gap if its session has left too many channels', needsRedis, async t => {
  const { sessions } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session, undefined, true)
  await leaveManyChannels(sessions, session)
  await waitUntil(() => sessions.stats().channels === 100, 'the oldest channel to be dropped')
  down.sink.drain(false)
  await waitUntil(() => down.messages().length === 100, 'the messages of the other channels')
  matchList(t, gapsOf(down), [{ data: { reason: 'count' } }])
})
