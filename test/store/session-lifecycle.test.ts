import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { testEachStore } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// Requirements of the contract in lib/store/store.ts, on every store. If nodes can share the store, the tests use two nodes.

testEachStore(t, 'updates single properties of data on all nodes', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  await session.update({ nick: 'ann', tags: [], deep: { list: [[], {}], none: null, big: 9007199254740991 } })
  await (await findSession(nodeB, session)).update({ nick: 'bob' })
  const expected = { nick: 'bob', tags: [], deep: { list: [[], {}], none: null, big: 9007199254740991 } }
  t.strictSame((await findSession(nodeB, session)).data, expected)
  t.strictSame((await findSession(nodeA, session)).data, expected)
})

testEachStore(t, 'a session is closed once for all nodes, and its client can still receive the close event', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const closed: string[] = []
  for (const node of new Set([nodeA, nodeB])) node.addHook('onClose', (_session, reason) => { closed.push(reason) })
  const session = await openSession(nodeA)
  const stream = await attachMemoryStream(nodeA, session)
  const { signal } = session
  const remote = await findSession(nodeB, session)
  await session.send('last words')
  await Promise.all([remote.close('bye'), session.close('bye')])
  await waitUntil(() => stream.sink.closed, 'the end of the stream')
  matchList(t, stream.read(), [{ event: 'message', data: 'last words' }, { event: 'close', data: { reason: 'bye' } }])
  t.ok(signal.aborted)
  t.strictSame(closed, ['bye'])
  t.equal(await nodeA.find(session.id), undefined)
  await t.rejects(remote.send(1), { code: 'FST_SSE_SESSION_OVER' })
  await t.rejects(remote.join('room'), { code: 'FST_SSE_SESSION_OVER' })
  await t.rejects(remote.update({ late: true }), { code: 'FST_SSE_SESSION_OVER' })
  const late = await attachMemoryStream(nodeB, await findSession(nodeB, session), stream.cursor)
  await waitUntil(() => late.sink.closed, 'the end of the late stream')
  matchList(t, late.read(), [{ event: 'message', data: 'last words' }, { event: 'close', data: { reason: 'bye' } }])
})

testEachStore(t, 'a session without a stream expires on exactly one node; a session with a stream does not expire', async (t, store) => {
  const options = { resumeTimeout: 300 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const closed: Array<[id: string, reason: string]> = []
  for (const node of new Set([nodeA, nodeB])) node.addHook('onClose', ({ id }, reason) => { closed.push([id, reason]) })
  const [expiring, connected] = [await openSession(nodeA), await openSession(nodeB)]
  const expiringStream = await attachMemoryStream(nodeA, expiring)
  await attachMemoryStream(nodeB, connected)
  await expiring.join('room')
  expiringStream.sink.destroy()
  await waitUntil(() => closed.length > 0, 'the expiry')
  t.strictSame(closed, [[expiring.id, 'expired']])
  t.equal(await nodeB.find(expiring.id), undefined)
  t.equal((await nodeB.find(connected.id))?.connected, true)
  t.equal(await nodeA.channel('room').count(), 0)
  await waitUntil(() => nodeA.size === 1 && nodeB.size === 1, 'both nodes to count one session')
})

testEachStore(t, 'a session does not expire while its client is opening or resuming it', async (t, store) => {
  const options = { resumeTimeout: 100 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const closed: string[] = []
  for (const node of new Set([nodeA, nodeB])) node.addHook('onClose', ({ id }) => { closed.push(id) })
  const [opening, resuming] = [await openSession(nodeA), await openSession(nodeA)]
  resuming[kInternals].release()
  resuming[kInternals].retainForResume()
  // Each of these expires, so the time has passed after which the first two would expire.
  for (let count = 1; count <= 3; count++) {
    const other = await openSession(nodeB)
    other[kInternals].release()
    await waitUntil(() => closed.length === count, 'the expiry')
    t.equal(closed.at(-1), other.id)
  }
  for (const session of [opening, resuming]) session[kInternals].release()
  await waitUntil(() => closed.length === 5, 'the expiry of both sessions')
})

testEachStore(t, 'limits sessions in total and per principal, and accepts new ones after others are closed', async (t, store) => {
  // If the store is partitioned, each partition has a share of the limit.
  const options = { maxSessions: store.isPartitioned ? 6 : 3, maxSessionsPerPrincipal: 2 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const ann = await openSession(nodeA, 'ann')
  await openSession(nodeB, 'ann')
  t.equal(await nodeA.open('ann'), undefined)
  await openSession(nodeA, 'bob')
  if (!store.isPartitioned) t.equal(await nodeB.open(undefined), undefined)
  await ann.close()
  await openSession(nodeB, 'ann')
  t.equal(await nodeA.open('ann'), undefined)
})

testEachStore(t, 'the sessions of a principal are found, sent events and closed on all nodes', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const closed: string[] = []
  for (const node of new Set([nodeA, nodeB])) node.addHook('onClose', ({ principal }, reason) => { closed.push(`${principal} ${reason}`) })
  const [tab, phone] = [await openSession(nodeA, 'ann'), await openSession(nodeB, 'ann')]
  const [other, anonymous] = [await openSession(nodeA, 'bob'), await openSession(nodeA)]
  const ann = nodeB.of('ann')
  t.equal(ann.principal, 'ann')
  t.strictSame((await ann.sessions()).map(({ id }) => id).sort(), [tab.id, phone.id].sort())
  t.equal(await nodeA.of('ann').count(), 2)
  t.equal(await nodeA.of('nobody').count(), 0)
  const streams = await Promise.all([attachMemoryStream(nodeA, tab), attachMemoryStream(nodeB, phone), attachMemoryStream(nodeA, other), attachMemoryStream(nodeA, anonymous)])
  await ann.emit('news', { n: 1 })
  await ann.send('hi')
  await nodeA.of('nobody').send('hi')
  await ann.close('logout')
  const [first, second] = streams
  await waitUntil(() => first.sink.closed && second.sink.closed, 'the end of the streams')
  for (const stream of [first, second]) matchList(t, stream.read(), [{ event: 'news', data: { n: 1 } }, { event: 'message', data: 'hi' }, { event: 'close', data: { reason: 'logout' } }])
  t.strictSame(closed, ['ann logout', 'ann logout'])
  t.strictSame(await ann.sessions(), [])
  await other.send('last')
  await waitUntil(() => streams[2].messages().length === 1, 'the event')
  t.strictSame(streams[2].messages(), ['last'])
})

testEachStore(t, 'the sessions of a principal receive the data as it was at the call', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node, 'ann')
  const stream = await attachMemoryStream(node, session)
  const data: Record<string, unknown> = { n: 1 }
  const sent = node.of('ann').send(data)
  data.n = 1n
  await sent
  await waitUntil(() => stream.messages().length === 1, 'the event')
  t.strictSame(stream.messages(), [{ n: 1 }])
})

testEachStore(t, 'the events to the sessions of a principal keep their order', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node, 'ann')
  const stream = await attachMemoryStream(node, session)
  const ann = node.of('ann')
  const sent = [ann.send(1), ann.send(2)]
  // With a shared store, the sessions have to be found first.
  if (!store.isShared) sent.push(session.send(3))
  await Promise.all(sent)
  await waitUntil(() => stream.messages().length === sent.length, 'the events')
  t.strictSame(stream.messages(), [1, 2, 3].slice(0, sent.length))
})

testEachStore(t, 'a principal must be a string, and its events are checked even if it has no session', async (t, store) => {
  const node = await store.addNode()
  for (const invalid of [undefined, null, 1, {}]) t.throws(() => node.of(invalid as string), { code: 'FST_SSE_OPTION_INVALID', message: /principal, which is a string/ })
  await t.rejects(node.of('nobody').emit('welcome', 1), { code: 'FST_SSE_EVENT_INVALID' })
  const session = await openSession(node, 'ann')
  // It may be closed between the search and the call, which is no error.
  const ann = node.of('ann')
  await Promise.all([ann.send(1), session.close()])
  const bob = await openSession(node, 'bob')
  await t.rejects(node.of('bob').send('x'.repeat(2 * 1024 * 1024)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  t.equal(bob.closed, false)
})
