import t from 'tap'
import type { Gap, Session } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { openTwoNodes, pauseUntilExpired } from './support/two-nodes.js'
import { needsRedis } from '../support/redis-server.js'
import { testEachRedisClient } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

const handle = () => ({ status: 200, headers: {}, body: 'done' })

testEachRedisClient(t, 'a node whose registration was lost registers again and reports gaps', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const [session, left] = [await openSession(nodeA), await openSession(nodeA)]
  const [down, leftDown] = [await attachMemoryStream(nodeA, session), await attachMemoryStream(nodeA, left)]
  const fields = await redis.sendCommand('HKEYS', '{sse}') as string[]
  await redis.sendCommand('HDEL', '{sse}', ...fields.filter(name => name.startsWith('applied:') || name.startsWith('inbox:')))
  await redis.sendCommand('DEL', '{sse}:nodes')
  leftDown.sink.destroy()
  await t.rejects(session.send(1), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await waitUntil(async () => await session.send(2).then(() => true, () => false), 'the new registration')
  await waitUntil(() => down.messages().includes(2), 'the message')
  matchList(t, down.read().filter(({ event }) => event === 'gap'), [{ data: { reason: 'store' } }])
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${left.id}`, 'owner') === '', 'the owner of the other session to be released')
})

testEachRedisClient(t, 'sessions that were lost with the data of Redis are closed, and their streams end', async (t, store, redis) => {
  const nodeA = await store.addNode()
  const closeReasons: string[] = []
  nodeA.addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
    .addHook('onLeave', (_session, { name }) => { closeReasons.push(`leaves ${name}`) })
  const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
  const down = await attachMemoryStream(nodeA, session)
  await session.join('room')
  await redis.sendCommand('FLUSHALL')
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event).filter(event => event !== 'gap'), [])
  t.strictSame(closeReasons, ['leaves room', 'lost'])
  t.equal(await nodeA.acquireStream(other, other[kInternals].cursor), undefined)
  await t.rejects(Promise.resolve(other[kInternals].messageQueue.enqueue({ key: undefined, fingerprint: () => '', handle })), { code: 'FST_SSE_SESSION_UNKNOWN' })
})

t.test('a session opened after a data loss gets no gap when another node detects the loss later', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, proxy }] = await openTwoNodes(t)
  for (const { client } of proxy.connections) client.pause()
  await redis.sendCommand('FLUSHALL')
  let session = await nodeA.open(undefined).catch(() => undefined)
  await waitUntil(async () => (session ??= await nodeA.open(undefined).catch(() => undefined)) !== undefined, 'node A to register again')
  const down = await attachMemoryStream(nodeA, session as Session)
  for (const { client } of proxy.connections) client.resume()
  await waitUntil(async () => await nodeB.broadcast('message', 1).then(() => true, () => false), 'node B to register again')
  await waitUntil(() => down.messages().length > 0, 'the message')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
})

for (const isLost of [true, false]) {
  t.test(`a node that returns after its lease ${isLost ? 'reports that its last event was lost, although later ones exist' : 'reports no gap if Redis has its events'}`, needsRedis, async t => {
    const [redis, nodeA, { sessions: nodeB }] = await openTwoNodes(t, {}, { lease: 1000 })
    const session = await openSession(nodeA.sessions)
    const remote = await findSession(nodeB, session)
    const rollBack = await redis.snapshot()
    await session.send(1)
    for (const { client } of nodeA.proxy.connections) client.pause()
    if (isLost) await rollBack()
    await pauseUntilExpired(redis, nodeA)
    await waitUntil(async () => await remote.send(2).then(() => true, () => false), 'the event of the other node')
    for (const { client } of nodeA.proxy.connections) client.resume()
    await waitUntil(async () => await session.send(3).then(() => true, () => false), 'the new registration')
    const down = await attachMemoryStream(nodeB, remote)
    await waitUntil(() => down.messages().includes(3), 'the last event')
    // Event 2 is in the range of the gap.
    const events = down.read().filter(({ data }) => data !== 2)
    t.match(events, [isLost ? { event: 'gap', data: { reason: 'store' } } : { data: 1 }, { data: 3 }])
  })
}

t.test('the range of a gap contains the lost event, although the client has received a later one', needsRedis, async t => {
  const [redis, nodeA, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA.sessions)
  const remote = await findSession(nodeB, session)
  const down = await attachMemoryStream(nodeB, remote)
  await session.send('received')
  await waitUntil(() => down.messages().length === 1, 'the first event')
  down.sink.destroy()
  const key = `{sse}:s:${session.id}`
  await waitUntil(async () => await redis.sendCommand('HGET', key, 'owner') === '', 'the end of the stream')
  const rollBack = await redis.snapshot()
  await session.send('lost')
  const lostPosition = Number(await redis.sendCommand('HGET', key, 'last'))
  for (const { client } of nodeA.proxy.connections) client.pause()
  await rollBack()
  const resumed = await attachMemoryStream(nodeB, remote, down.events[0]?.position)
  await remote.send('later')
  await waitUntil(() => resumed.messages().length === 1, 'the later event')
  for (const { client } of nodeA.proxy.connections) client.resume()
  await waitUntil(() => resumed.read().length === 2, 'the gap')
  const [later, gap] = resumed.events
  t.match([later, gap], [{ data: 'later' }, { event: 'gap', data: { reason: 'store' } }])
  const { after, resumedAt } = gap?.data as Gap
  t.ok(after < lostPosition && lostPosition <= resumedAt, `${lostPosition} is between ${after} and ${resumedAt}`)
})
