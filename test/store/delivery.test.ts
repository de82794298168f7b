import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { eachStore } from '../support/stores.js'
import { until, within } from '../support/wait.js'

// Requirements of the contract in lib/store/store.ts, on every store. If nodes can share the store, the tests use two nodes.

eachStore(t, 'delivers what any node sends in order, with positions that increase over all logs', async (t, fleet) => {
  const [nodeA, nodeB] = [await fleet.process(), await fleet.process()]
  const session = await openSession(nodeA)
  const before = await stream(nodeA, session)
  const down = await stream(nodeB, await handleOf(nodeB, session), before.cursor)
  const remote = await handleOf(nodeA, session)
  await remote.join('room')
  await remote.send(1)
  await nodeB.channel('room').send(2)
  await nodeA.broadcast('message', 3)
  await (await handleOf(nodeB, session)).send(4)
  await nodeA.channel('room').send('not for it', { except: session })
  await nodeA.channel('empty').send('to nobody')
  await nodeA.broadcast('message', 5)
  await until(() => down.messages().length === 5, 'five messages')
  t.strictSame(down.messages(), [1, 2, 3, 4, 5])
  const positions = down.events.map(({ position }) => position ?? 0)
  t.strictSame(positions, [...positions].sort((a, b) => a - b))
  t.equal(new Set(positions).size, 5)
  t.ok((positions[0] ?? 0) > down.cursor)
  t.strictSame(before.messages(), [])
})

eachStore(t, 'resumes a stream on any node after any position, without repeating earlier events', async (t, fleet) => {
  const nodes = [await fleet.process(), await fleet.process()] as const
  const session = await openSession(nodes[0])
  const first = await stream(nodes[0], session)
  for (let n = 1; n <= 6; n++) await session.send(n)
  await until(() => first.messages().length === 6, 'the messages')
  first.sink.destroy()
  await until(() => !session.connected, 'the disconnect')
  await session.send(7)
  for (const node of nodes) {
    for (const skip of [0, 3, 6]) {
      const cursor = skip === 0 ? first.cursor : first.events[skip - 1]?.position ?? 0
      const resumed = await stream(node, await handleOf(node, session), cursor)
      await until(() => resumed.messages().length >= 7 - skip, 'the remaining messages')
      t.strictSame(resumed.messages(), [1, 2, 3, 4, 5, 6, 7].slice(skip))
    }
  }
})

eachStore(t, 'a new stream on any node replaces the previous one, which receives the event "replaced"', async (t, fleet) => {
  const [nodeA, nodeB] = [await fleet.process(), await fleet.process()]
  const session = await openSession(nodeA)
  const before = await stream(nodeA, session)
  const after = await stream(nodeB, await handleOf(nodeB, session), before.cursor)
  await until(() => before.sink.closed, 'the end of the first stream')
  t.match(before.read(), [{ event: 'replaced' }])
  await session.send('to the second')
  await until(() => after.messages().length === 1, 'the message')
  t.equal(before.messages().length, 0)
  t.equal(session.connected, true)
  t.equal((await handleOf(nodeB, session)).connected, true)
})

eachStore(t, 'reports what a bound trims as a gap, and rejects an entry that can never fit', async (t, fleet) => {
  const options = { log: { entries: 3 }, channelLog: { bytes: 60 } }
  const [nodeA, nodeB] = [await fleet.process(options), await fleet.process(options)]
  const session = await openSession(nodeA)
  for (let n = 1; n <= 5; n++) await session.send(n)
  const counted = await stream(nodeB, await handleOf(nodeB, session), session[kStream].cursor)
  await until(() => counted.messages().length === 3, 'what is left')
  t.match(counted.events.map(({ event, data }) => [event, data]), [['gap', { reason: 'count' }], ['message', 3], ['message', 4], ['message', 5]])
  await t.rejects(nodeB.broadcast('message', 'x'.repeat(60)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  const other = await openSession(nodeB)
  for (let n = 1; n <= 3; n++) await nodeA.broadcast('message', 'x'.repeat(15))
  const heavy = await stream(nodeA, await handleOf(nodeA, other), other[kStream].cursor)
  await until(() => heavy.messages().length === 2, 'what is left')
  t.match(heavy.events, [{ event: 'gap', data: { reason: 'bytes' } }, { event: 'message' }, { event: 'message' }])
})

eachStore(t, 'trims entries that exceed the age, and reports a gap', async (t, fleet) => {
  // Long enough for the second entry to be read before it expires, even on a slow machine.
  const node = await fleet.process({ log: { age: 1500 } })
  const session = await openSession(node)
  const { cursor } = session[kStream]
  await session.send('old')
  const sentAt = performance.now()
  await until(() => performance.now() - sentAt > 1700, 'the entry to expire')
  await session.send('young')
  const down = await stream(node, session, cursor)
  await until(() => down.messages().length === 1, 'what is left')
  t.match(down.events, [{ event: 'gap', data: { reason: 'age' } }, { event: 'message', data: 'young' }])
})

eachStore(t, 'a producer on any node is paced by the stream', async (t, fleet) => {
  const options = { log: { entries: 20 } }
  const [nodeA, nodeB] = [await fleet.process(options), await fleet.process(options)]
  const session = await openSession(nodeA)
  const down = await stream(nodeA, session)
  const remote = await handleOf(nodeB, session)
  down.sink.stalls = true
  const taken: number[] = []
  const produced = remote.stream('message', (function * () { for (let n = 1; n <= 100; n++) { yield taken.push(n) } })())
  while (taken.length < 100) {
    await until(() => down.sink.blocked || taken.length === 100, 'the sink to stall')
    t.ok(taken.length <= down.messages().length + 30, 'the producer is not further ahead than a log holds')
    if (down.sink.blocked) down.sink.drain(true)
  }
  down.sink.drain(false)
  await within(produced, 'the producer')
  await until(() => down.messages().length === 100, 'all messages')
  t.strictSame(down.messages(), Array.from({ length: 100 }, (_, n) => n + 1))
  t.notOk(down.events.some(({ event }) => event === 'gap'))
})
