import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream, createEarlierTime } from '../support/memory-stream.js'
import { testEachStore } from '../support/stores.js'
import { waitUntil, withTimeout } from '../support/wait.js'

// Requirements of the contract in lib/store/store.ts, on every store. If nodes can share the store, the tests use two nodes.

testEachStore(t, 'delivers what any node sends in order, with positions that increase over all logs', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const before = await attachMemoryStream(nodeA, session)
  const stream = await attachMemoryStream(nodeB, await findSession(nodeB, session), before.cursor)
  const remote = await findSession(nodeA, session)
  await remote.join('room')
  await remote.send(1)
  await nodeB.channel('room').send(2)
  await nodeA.broadcast('message', 3)
  await (await findSession(nodeB, session)).send(4)
  await nodeA.channel('room').send('not for it', { except: session })
  await nodeA.channel('empty').send('to nobody')
  await nodeA.broadcast('message', 5)
  await waitUntil(() => stream.messages().length === 5, 'five messages')
  t.strictSame(stream.messages(), [1, 2, 3, 4, 5])
  const positions = stream.events.map(({ position }) => position ?? 0)
  t.strictSame(positions, [...positions].sort((a, b) => a - b))
  t.equal(new Set(positions).size, 5)
  t.ok((positions[0] ?? 0) > stream.cursor)
  t.strictSame(before.messages(), [])
})

testEachStore(t, 'resumes a stream on any node after any position, without repeating earlier events', async (t, store) => {
  const nodes = [await store.addNode(), await store.addNode()] as const
  const session = await openSession(nodes[0])
  const first = await attachMemoryStream(nodes[0], session)
  for (let n = 1; n <= 6; n++) await session.send(n)
  await waitUntil(() => first.messages().length === 6, 'the messages')
  first.sink.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  await session.send(7)
  for (const node of nodes) {
    for (const skip of [0, 3, 6]) {
      const cursor = skip === 0 ? first.cursor : first.events[skip - 1]?.position ?? 0
      const resumed = await attachMemoryStream(node, await findSession(node, session), cursor)
      await waitUntil(() => resumed.messages().length >= 7 - skip, 'the remaining messages')
      t.strictSame(resumed.messages(), [1, 2, 3, 4, 5, 6, 7].slice(skip))
    }
  }
})

testEachStore(t, 'a new stream on any node replaces the previous one, which receives the event "replaced"', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const before = await attachMemoryStream(nodeA, session, undefined, false, createEarlierTime())
  const after = await attachMemoryStream(nodeB, await findSession(nodeB, session), before.cursor)
  await waitUntil(() => before.sink.closed, 'the end of the first stream')
  matchList(t, before.read(), [{ event: 'replaced' }])
  await session.send('to the second')
  await waitUntil(() => after.messages().length === 1, 'the message')
  t.equal(before.messages().length, 0)
  t.equal(session.connected, true)
  t.equal((await findSession(nodeB, session)).connected, true)
})

testEachStore(t, 'reports entries that a limit trims as a gap, and rejects an entry that can never fit', async (t, store) => {
  const options = { log: { entries: 3 }, channelLog: { bytes: 60 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  for (let n = 1; n <= 5; n++) await session.send(n)
  const counted = await attachMemoryStream(nodeB, await findSession(nodeB, session), session[kInternals].cursor)
  await waitUntil(() => counted.messages().length === 3, 'what is left')
  matchList(t, counted.events.map(({ event, data }) => [event, data]), [['gap', { reason: 'count' }], ['message', 3], ['message', 4], ['message', 5]])
  await t.rejects(nodeB.broadcast('message', 'x'.repeat(60)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  const other = await openSession(nodeB)
  for (let n = 1; n <= 3; n++) await nodeA.broadcast('message', 'x'.repeat(15))
  const heavy = await attachMemoryStream(nodeA, await findSession(nodeA, other), other[kInternals].cursor)
  await waitUntil(() => heavy.messages().length === 2, 'what is left')
  matchList(t, heavy.events, [{ event: 'gap', data: { reason: 'bytes' } }, { event: 'message' }, { event: 'message' }])
})

testEachStore(t, 'trims entries that exceed the age, and reports a gap', async (t, store) => {
  // Long enough for the second entry to be read before it expires, even on a slow machine.
  const node = await store.addNode({ log: { age: 1500 } })
  const session = await openSession(node)
  const { cursor } = session[kInternals]
  await session.send('old')
  const sentAt = performance.now()
  await waitUntil(() => performance.now() - sentAt > 1700, 'the entry to expire')
  await session.send('young')
  const stream = await attachMemoryStream(node, session, cursor)
  await waitUntil(() => stream.messages().length === 1, 'what is left')
  matchList(t, stream.events, [{ event: 'gap', data: { reason: 'age' } }, { event: 'message', data: 'young' }])
})

testEachStore(t, 'a producer on any node is paced by the stream', async (t, store) => {
  const options = { log: { entries: 20 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  const stream = await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  stream.sink.stalls = true
  const taken: number[] = []
  const produced = remote.stream('message', (function * () { for (let n = 1; n <= 100; n++) { yield taken.push(n) } })())
  while (taken.length < 100) {
    await waitUntil(() => stream.sink.blocked || taken.length === 100, 'the sink to stall')
    t.ok(taken.length <= stream.messages().length + 30, 'the producer is not further ahead than a log holds')
    if (stream.sink.blocked) stream.sink.drain(true)
  }
  stream.sink.drain(false)
  await withTimeout(produced, 'the producer')
  await waitUntil(() => stream.messages().length === 100, 'all messages')
  t.strictSame(stream.messages(), Array.from({ length: 100 }, (_, n) => n + 1))
  t.notOk(stream.events.some(({ event }) => event === 'gap'))
})

testEachStore(t, 'a loss in a channel that was left does not hide events that are still kept for the session', async (t, store) => {
  const options = { channelLog: { entries: 2 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  // If the store is partitioned, the sessions of a principal are in one partition.
  const [session, member] = [await openSession(nodeA, 'ann'), await openSession(nodeA, 'ann')]
  await Promise.all([session.join('room'), member.join('room')])
  const first = await attachMemoryStream(nodeA, session)
  await session.send('own')
  await nodeA.channel('room').send('trimmed')
  await session.leave('room')
  for (const n of [1, 2]) await nodeA.channel('room').send(n)
  await waitUntil(() => first.messages().length === 2, 'the messages')
  const latest = first.events[1]?.position ?? 0
  first.sink.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  // The second request needs older entries than the first one.
  for (const cursor of [latest, first.cursor]) {
    const resumed = await attachMemoryStream(nodeB, await findSession(nodeB, session), cursor)
    if (cursor === latest) continue
    await waitUntil(() => resumed.read().length === 2, 'the events')
    matchList(t, resumed.events, [{ event: 'gap', data: { reason: 'count' } }, { event: 'message', data: 'own' }])
  }
})

testEachStore(t, 'a closed session receives what was sent to its channels, and no gap for what was sent after it was closed', async (t, store) => {
  const options = { channelLog: { entries: 2 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const [session, member] = [await openSession(nodeA), await openSession(nodeA)]
  for (const name of ['quiet', 'busy']) await Promise.all([session.join(name), member.join(name)])
  const first = await attachMemoryStream(nodeA, session)
  first.sink.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  await nodeA.channel('quiet').send('before')
  await session.close('enough')
  for (const n of [1, 2, 3]) await Promise.all([nodeA.broadcast('message', n), nodeA.channel('busy').send(n)])
  const resumed = await attachMemoryStream(nodeB, await findSession(nodeB, session), first.cursor)
  await waitUntil(() => resumed.sink.closed, 'the end of the stream')
  matchList(t, resumed.read(), [{ event: 'message', data: 'before' }, { event: 'close', data: { reason: 'enough' } }])
  t.equal(resumed.events.length, 2)
})
