import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { LARGE_DATA_LENGTH } from '../support/memory-sink.js'
import { testEachStore } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// Requirements of the contract in lib/store/store.ts, on every store. If nodes can share the store, the tests use two nodes.

testEachStore(t, 'a session joins at most maxChannelsPerSession channels', async (t, store) => {
  const session = await openSession(await store.addNode({ maxChannelsPerSession: 1 }))
  await session.join('a')
  await t.rejects(async () => { await session.join('b') }, { code: 'FST_SSE_TOO_MANY_CHANNELS' })
  t.strictSame(session.channels, ['a'])
})

testEachStore(t, 'joins that run at the same time do not exceed maxChannelsPerSession', async (t, store) => {
  const session = await openSession(await store.addNode({ maxChannelsPerSession: 2 }))
  const joins = await Promise.allSettled(['a', 'b', 'a', 'c', 'd'].map(async name => { await session.join(name) }))
  t.strictSame(joins.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'rejected'])
  t.strictSame(session.channels.toSorted(), ['a', 'b'])
})

testEachStore(t, 'joins on two nodes at the same time do not exceed maxChannelsPerSession', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode({ maxChannelsPerSession: 2 }), await store.addNode({ maxChannelsPerSession: 2 })]
  const session = await openSession(nodeA)
  const sides = [session, await findSession(nodeB, session)]
  const joins = await Promise.allSettled(['a', 'b', 'c', 'd'].map(async (name, index) => { await sides[index % 2]?.join(name) }))
  t.equal(joins.filter(({ status }) => status === 'fulfilled').length, 2)
  const [first = ''] = (await findSession(nodeA, session)).channels
  await sides[0]?.leave(first)
  await sides[1]?.join('e')
  await t.rejects(async () => { await sides[0]?.join('f') }, { code: 'FST_SSE_TOO_MANY_CHANNELS' })
  t.ok((await findSession(nodeA, session)).channels.includes('e'))
})

testEachStore(t, 'joins and leaves channels on any node, delivers what was sent before a leave, and counts members', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const other = await openSession(nodeB)
  const stream = await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  t.equal(await nodeA.channel('room').count(), 0)
  await remote.join('room')
  await remote.join('room')
  await other.join('room')
  t.strictSame([await nodeA.channel('room').count(), await nodeB.channel('room').count()], [2, 2])
  await nodeB.channel('room').send('in')
  await remote.leave('room')
  await nodeB.channel('room').send('out')
  await remote.join('room')
  await nodeB.channel('room').send('in again')
  t.strictSame((await findSession(nodeA, session)).channels, ['room'])
  await waitUntil(() => stream.messages().length === 2, 'both messages')
  await remote.close()
  await other.close()
  t.equal(await nodeA.channel('room').count(), 0)
  await waitUntil(() => stream.sink.closed, 'the end')
  t.strictSame(stream.messages(), ['in', 'in again'])
})

testEachStore(t, 'replays the last 100 channels that a session has left, and reports a gap for older ones', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  const visitChannels = async (): Promise<void> => {
    for (let n = 1; n <= 103; n++) {
      await session.join(`room ${n}`)
      await node.channel(`room ${n}`).send(n)
      await session.leave(`room ${n}`)
    }
  }
  const before = await attachMemoryStream(node, session)
  before.sink.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  await visitChannels()
  const after = await attachMemoryStream(node, session, before.cursor)
  await waitUntil(() => after.messages().length === 100, 'the messages')
  t.match(after.events.shift(), { event: 'gap', data: { after: before.cursor, reason: 'count' } })
  t.strictSame(after.messages(), Array.from({ length: 100 }, (_, n) => n + 4))
  after.events.length = 0
  await visitChannels()
  await waitUntil(() => after.read().length >= 103, 'the messages of a stream that keeps up')
  t.strictSame(after.events.map(({ data }) => data), Array.from({ length: 103 }, (_, n) => n + 1))
})

testEachStore(t, 'a slow stream receives a channel that was left, even after a request with a later cursor', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  const first = await attachMemoryStream(node, session)
  await session.join('room')
  for (let n = 0; n < 3; n++) await node.channel('room').send(String(n).repeat(LARGE_DATA_LENGTH))
  await session.leave('room')
  await waitUntil(() => first.messages().length === 3, 'the messages')
  const slow = await attachMemoryStream(node, session, first.cursor, true)
  session[kInternals].retainForResume()
  await node.acquireStream(session, first.events[2]?.position ?? 0)
  slow.sink.drain(false)
  await session.send('after')
  await waitUntil(() => slow.messages().some(data => data === 'after'), 'the message after')
  t.strictSame(slow.messages().map(data => String(data)[0]), ['0', '1', '2', 'a'])
  session[kInternals].release()
})

testEachStore(t, 'a client ahead of the store receives what is sent in a channel that it leaves afterwards', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  const ahead = await attachMemoryStream(node, session, Number.MAX_SAFE_INTEGER, true)
  await session.join('room')
  for (const n of [1, 2, 3]) await node.channel('room').send(n)
  await session.leave('room')
  // This loads the state of the session again, and the join rebuilds its ranges.
  await findSession(node, session)
  await session.join('hall')
  ahead.sink.drain(false)
  await session.send('after')
  await waitUntil(() => ahead.messages().some(data => data === 'after'), 'the message after')
  t.strictSame(ahead.messages(), [1, 2, 3, 'after'])
})

testEachStore(t, 'does not interpret names of channels, excluded ids and names of properties', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  const stream = await attachMemoryStream(node, session)
  for (const [n, name] of ['x', 'x:log', 'x:', ':', ' ', 'a b\nc', '{}'].entries()) {
    await session.join(name)
    await node.channel(name).send(n)
    t.equal(await node.channel(name).count(), 1)
  }
  await node.broadcast('message', 7, { except: { id: 'nobody\nevent: made up\ndata: 1\n\n' } })
  await waitUntil(() => stream.messages().length === 8, 'all messages')
  t.strictSame(stream.read().map(({ event, data }) => [event, data]), Array.from({ length: 8 }, (_, n) => ['message', n]))
  await session.update(JSON.parse('{ "__proto__": { "admin": true } }') as Record<string, unknown>)
  t.equal(session.data.admin, undefined)
  t.equal(JSON.stringify(session.data), '{"__proto__":{"admin":true}}')
})
