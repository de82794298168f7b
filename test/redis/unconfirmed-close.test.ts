import t, { type Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { delayFirstReply, interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { openTwoNodes, pauseUntilExpired } from './support/two-nodes.js'

// If the reply to `end` is late, the call rejects, but Redis may have closed the session. Then no other process runs the hooks.

/** Records the calls of the hooks onLeave and onClose. */
function recordHooks (sessions: Sessions): string[] {
  const calls: string[] = []
  sessions
    .addHook('onLeave', (_session, { name }) => { calls.push(name) })
    .addHook('onClose', (_session, reason) => { calls.push(reason) })
  return calls
}

const rejection = (closed: Promise<void>): Promise<unknown> => withTimeout(closed.then(() => 'resolved', ({ code }) => code as unknown), 'the rejection')

/** Opens a session on the first of two nodes, which delays the reply to `end`. It is in two channels, one of which it has joined on the second node. */
async function openWithDelayedReply (t: Test, isSent: boolean, lease = 5000) {
  const [redis, nodeA, nodeB] = await openTwoNodes(t, {}, { lease })
  const session = await openSession(nodeA.sessions)
  await session.join('room')
  // The first node is not notified of this, because it has no stream of the session.
  await (await findSession(nodeB.sessions, session)).join('hall')
  delayFirstReply(t, nodeA.client, 'end', isSent)
  return { redis, nodeA, nodeB, session, calls: recordHooks(nodeA.sessions), callsOnNodeB: recordHooks(nodeB.sessions) }
}

/** Waits until the node has received the replies to all commands so far, and its hooks have run. */
async function waitForHooks (session: Session, calls: string[], count: number): Promise<void> {
  await waitUntil(() => calls.length >= count, 'the hooks')
  await session.close()
}

t.test('the hooks run once if the reply to a close is late', needsRedis, async t => {
  const { nodeA, session, calls, callsOnNodeB } = await openWithDelayedReply(t, true)
  t.equal(await rejection(session.close('bye')), 'FST_SSE_STORE_UNAVAILABLE')
  await waitForHooks(session, calls, 3)
  await nodeA.sessions.close()
  t.strictSame([calls.slice(0, 2).toSorted(), calls.slice(2), callsOnNodeB], [['hall', 'room'], ['bye'], []])
})

t.test('the hooks run once if close is called again before the late reply', needsRedis, async t => {
  const { nodeA, session, calls } = await openWithDelayedReply(t, true)
  const closed = session.close('bye')
  const closedAgain = session.close('again')
  t.equal(await rejection(closed), 'FST_SSE_STORE_UNAVAILABLE')
  await rejection(closedAgain)
  await waitForHooks(session, calls, 3)
  await nodeA.sessions.close()
  t.strictSame(calls.slice(2), ['bye'])
})

t.test('the hooks run if the reply to the close of a session that is not kept is late', needsRedis, async t => {
  const { nodeA, session, calls } = await openWithDelayedReply(t, true)
  await withTimeout(nodeA.sessions.discard(session, 'refused'), 'the rejection')
  await waitForHooks(session, calls, 3)
  await nodeA.sessions.close()
  t.strictSame([calls.slice(0, 2).toSorted(), calls.slice(2)], [['hall', 'room'], ['refused']])
})

t.test('no hooks run if Redis has not received the close in time', needsRedis, async t => {
  const { session, calls } = await openWithDelayedReply(t, false)
  t.equal(await rejection(session.close('late')), 'FST_SSE_STORE_UNAVAILABLE')
  // Redis executes this after the command that finds out whether the session is closed.
  await session.send('open')
  t.strictSame(calls, [])
  await session.close('bye')
  t.equal(calls.at(-1), 'bye')
  t.equal(calls.length, 3)
})

t.test('no hooks run if another process has closed the session because Redis has not received the close', needsRedis, async t => {
  const { nodeA, nodeB, session, calls, callsOnNodeB } = await openWithDelayedReply(t, false)
  const discarded = nodeA.sessions.discard(session, 'aborted')
  await nodeB.sessions.discard(await findSession(nodeB.sessions, session), 'expired')
  await discarded
  await nodeA.sessions.close()
  t.strictSame(calls, [])
  t.equal(callsOnNodeB.length, 3)
})

t.test('the hooks run if Redis has removed the closed session before the late reply', needsRedis, async t => {
  const { redis, nodeA, session, calls } = await openWithDelayedReply(t, true)
  const closed = rejection(session.close('bye'))
  const key = `{sse}:s:${session.id}`
  await waitUntil(async () => await redis.sendCommand('HEXISTS', key, 'closeReason') === 1, 'the close')
  await redis.sendCommand('DEL', key)
  await closed
  await waitForHooks(session, calls, 3)
  await nodeA.sessions.close()
  t.strictSame([calls.slice(0, 2).toSorted(), calls.slice(2)], [['hall', 'room'], ['bye']])
})

t.test('the hooks run once if the node has to register again before it can find out that it has closed the session', needsRedis, async t => {
  const { redis, nodeA, session, calls, callsOnNodeB } = await openWithDelayedReply(t, true, 500)
  const closed = rejection(session.close('bye'))
  await waitUntil(async () => await redis.sendCommand('HEXISTS', `{sse}:s:${session.id}`, 'closeReason') === 1, 'the close')
  await pauseUntilExpired(redis, nodeA)
  for (const { client } of nodeA.proxy.connections) client.resume()
  t.equal(await closed, 'FST_SSE_STORE_UNAVAILABLE')
  await waitForHooks(session, calls, 3)
  await nodeA.sessions.close()
  t.strictSame([calls.slice(2), callsOnNodeB], [['bye'], []])
})

t.test('a node does not look up the result of a close that it has not sent', needsRedis, async t => {
  const [, { sessions, client, proxy }] = await openTwoNodes(t)
  const session = await openSession(sessions)
  const operations: string[] = []
  interceptStoreCommands(client, commands => { operations.push(...commands.map(({ operation }) => operation)) })
  proxy.setDown(true)
  await waitUntil(() => client.status !== 'ready', 'the connection to break')
  t.equal(await rejection(session.close('bye')), 'FST_SSE_STORE_UNAVAILABLE')
  proxy.setDown(false)
  await waitUntil(async () => await session.send(1).then(() => true, () => false), 'Redis to be reached again')
  t.ok(operations.includes('append'))
  t.notOk(operations.includes('end') || operations.includes('find_call'))
})

t.test('a node does not look up the result of a close that Redis has refused', needsRedis, async t => {
  const [, { sessions, client }] = await openTwoNodes(t)
  const session = await openSession(sessions)
  const operations: string[] = []
  let isLoading = true
  interceptStoreCommands(client, commands => {
    operations.push(...commands.map(({ operation }) => operation))
    if (isLoading) throw new Error('LOADING Redis is loading the dataset in memory')
  })
  t.equal(await rejection(session.close('bye')), 'FST_SSE_STORE_UNAVAILABLE')
  isLoading = false
  await waitUntil(async () => await session.send(1).then(() => true, () => false), 'Redis to be reached again')
  t.ok(operations.includes('end'))
  t.notOk(operations.includes('find_call'))
})
