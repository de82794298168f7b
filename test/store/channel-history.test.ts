import t from 'tap'
import type { Channel, Session, Sessions } from '../../lib/index.js'
import { matchList } from '../support/match-list.js'
import { attachMemoryStream, findSession, openSession } from '../support/memory-stream.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { testEachStore } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// Requirements of the contract in lib/store/store.ts, on every store. If nodes can share the store, the tests use two nodes.

const KEEP = 60_000

/** Joins a channel with a new session, and returns the data of the history. The session is closed again. */
async function readHistory (sessions: Sessions, channel: string, history = Infinity): Promise<unknown[]> {
  const session = await openSession(sessions)
  const events = await session.join(channel, { history })
  await session.close()
  return events.map(({ data }) => data)
}

async function sendAll (channel: Channel, items: Iterable<unknown>): Promise<void> {
  for (const item of items) await channel.send(item)
}

testEachStore(t, 'join returns the newest events of a channel, the oldest first, with their names', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  // If the store is partitioned, only partitions with members keep events of this channel. The sessions of a principal are in one partition.
  const member = await openSession(nodeA, 'ann')
  t.strictSame(await member.join('room', { history: 5 }), [])
  await nodeB.channel('room').send('first')
  await nodeA.channel('room').emit('said', { text: 'é\n' })
  await nodeB.channel('room').emit('cleared', undefined)
  const late = await openSession(nodeB, 'ann')
  t.strictSame(await late.join('room', { history: 2 }), [{ event: 'said', data: { text: 'é\n' } }, { event: 'cleared', data: null }])
  t.strictSame(await readHistory(nodeA, 'room', 0), [])
  t.equal(await (await openSession(nodeA)).join('room'), undefined)
})

testEachStore(t, 'the history has no event that excludes the session, and ends where the session has joined', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const room = nodeB.channel('room', { keep: KEEP })
  for (let n = 1; n <= 80; n++) await room.send(n, { except: n % 2 === 0 ? session : undefined })
  const stream = await attachMemoryStream(nodeA, session)
  const remote = await findSession(nodeB, session)
  const read = async (history: number): Promise<unknown[]> => (await remote.join('room', { history })).map(({ data }) => data)
  t.strictSame(await read(2), [77, 79])
  await room.send('live')
  await waitUntil(() => stream.messages().length === 1, 'the live event')
  t.strictSame(stream.messages(), ['live'])
  t.strictSame(await read(1), [79], 'a second join returns the same')
  await remote.leave('room')
  t.strictSame(await read(2), [79, 'live'], 'a join after a leave returns what was sent before it')
})

testEachStore(t, 'a channel without members keeps its events only if one was sent with keep', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  await nodeA.channel('plain').send(1)
  const member = await openSession(nodeA)
  await member.join('plain')
  await nodeA.channel('plain').send(2)
  await member.leave('plain')
  await nodeA.channel('plain').send(3)
  t.strictSame(await readHistory(nodeB, 'plain'), [])

  await nodeA.channel('kept', { keep: KEEP }).send(1)
  await nodeB.channel('kept').send(2)
  t.equal(await nodeB.channel('kept').count(), 0)
  t.strictSame(await readHistory(nodeB, 'kept'), [1, 2])
  await member.join('kept')
  await nodeB.channel('kept').send(3)
  await member.close()
  t.strictSame(await readHistory(nodeB, 'kept'), [1, 2, 3], 'also after a former member was removed')
})

testEachStore(t, 'the history of a channel has the limits of channelLog', async (t, store) => {
  const node = await store.addNode({ channelLog: { entries: 20, bytes: 10_000, age: 300_000 } })
  await sendAll(node.channel('count', { keep: KEEP }), Array(100).keys())
  const byCount = await readHistory(node, 'count')
  // A store may keep a little more than the bound.
  t.ok(byCount.length >= 20 && byCount.length <= 22, `${byCount.length} events`)
  t.strictSame(byCount, Array.from(byCount, (_, index) => 100 - byCount.length + index))
  await sendAll(node.channel('bytes', { keep: KEEP }), Array.from({ length: 20 }, (_, n) => String(n).padEnd(1500)))
  const byBytes = (await readHistory(node, 'bytes')).map(text => Number(text))
  t.ok(byBytes.length >= 6 && byBytes.length <= 7, `${byBytes.length} events`)
  t.equal(byBytes.at(-1), 19)
  await t.rejects(node.channel('bytes', { keep: KEEP }).send('x'.repeat(10_001)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
})

testEachStore(t, 'a channel is kept until its events are older than keep, and than the age of channelLog', async (t, store) => {
  const node = await store.addNode({ channelLog: { age: 1 } })
  await node.channel('short', { keep: 1 }).send(1)
  await node.channel('long', { keep: KEEP }).send(1)
  await waitUntil(async () => (await readHistory(node, 'short')).length === 0, 'the event to expire')
  t.strictSame(await readHistory(node, 'long'), [1])
  // The channel does not exist any more, so it does not keep this event.
  await node.channel('short').send(2)
  const member = await openSession(node)
  await member.join('short')
  await node.channel('short', { keep: KEEP }).send(3)
  t.strictSame(await readHistory(node, 'short'), [3])
  await node.channel('long', { keep: 1 }).send(2)
  await waitUntil(async () => (await readHistory(node, 'long')).length === 0, 'the newest keep to apply to all events')
})

testEachStore(t, 'a channel whose kept entries have expired is not kept when it is used again', async (t, store) => {
  const node = await store.addNode({ channelLog: { age: 1000 } })
  const [first, second] = [await openSession(node), await openSession(node)]
  await node.channel('room', { keep: 1 }).send(1)
  await waitUntil(async () => (await readHistory(node, 'room')).length === 0, 'the entries to expire')
  await first.join('room')
  await node.channel('room').send(2)
  await first.leave('room')
  await node.channel('room').send(3)
  t.strictSame(await second.join('room', { history: Infinity }), [])
})

testEachStore(t, 'a member with a stream receives each event either as history or live, while others send', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const next = createRandom(chooseSeed(t))
  const members: Array<{ session: Session, history: unknown[], stream: Awaited<ReturnType<typeof attachMemoryStream>> }> = []
  const sent: string[] = []
  for (let round = 0; round < 40; round++) {
    const work: Array<Promise<unknown>> = []
    for (let n = 0; n < 5; n++) {
      const data = `${round} ${n}`
      sent.push(data)
      const channel = (next() < 0.5 ? nodeA : nodeB).channel('room', next() < 0.2 ? {} : { keep: KEEP })
      // The first event must be kept.
      work.push(round === 0 && n === 0 ? await nodeA.channel('room', { keep: KEEP }).send(data) as never : channel.send(data))
      if (next() < 0.1) {
        work.push((async () => {
          const [streamNode, node] = next() < 0.5 ? [nodeA, nodeB] : [nodeB, nodeA]
          const session = await openSession(streamNode)
          const stream = await attachMemoryStream(streamNode, session)
          const handle = await findSession(node, session)
          const history = (await handle.join('room', { history: Infinity })).map(({ data }) => data)
          members.push({ session, history, stream })
        })())
      }
    }
    await Promise.all(work)
  }
  t.ok(members.length > 5, `${members.length} sessions joined`)
  for (const { history, stream } of members) {
    const received = (): unknown[] => [...history, ...stream.messages()]
    await waitUntil(() => received().length >= sent.length, 'all events')
    t.strictSame(received().toSorted(), sent.toSorted())
  }
  // Each partition has its own order of events from different nodes.
  if (!store.isPartitioned) t.equal(new Set(members.map(({ history, stream }) => [...history, ...stream.messages()].join())).size, 1, 'all in the same order')
})

testEachStore(t, 'refuses invalid options of join and channel', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  for (const options of [{ history: -1 }, { history: 1.5 }, { history: '5' }, {}, { history: 1, other: 1 }, null, 5]) {
    await t.rejects(session.join('room', options as never), { code: 'FST_SSE_OPTION_INVALID', message: /history/ })
  }
  for (const options of [{ keep: -1 }, { keep: 0.5 }, { keep: Infinity }, { keep: 2 ** 31 }, { keep: '5' }, { keeps: 1 }, null, 5]) {
    t.throws(() => node.channel('room', options as never), { code: 'FST_SSE_OPTION_INVALID', message: /keep/ })
  }
  t.strictSame(session.channels, [])
  await session.close()
  await t.rejects(session.join('room', { history: 1 }), { code: 'FST_SSE_SESSION_OVER' })
})

testEachStore(t, 'a client that resumes later than the age of other logs receives the events that a channel keeps', async (t, store) => {
  const options = { channelLog: { age: 200 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  await session.join('room')
  const room = nodeB.channel('room', { keep: KEEP })
  const lost = await attachMemoryStream(nodeA, session)
  lost.sink.destroy()
  await room.send(1)
  const sentAt = performance.now()
  await waitUntil(() => performance.now() - sentAt > 400, 'the age')
  const stream = await attachMemoryStream(nodeB, await findSession(nodeB, session), lost.cursor)
  await waitUntil(() => stream.read().length === 1, 'the event')
  matchList(t, stream.read(), [{ event: 'message', data: 1 }])
})
