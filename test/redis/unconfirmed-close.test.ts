import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { openTwoNodes } from './support/two-nodes.js'

// If the reply to `end` is late, the call rejects, but Redis may have closed the session. Then no other process runs the hooks.

/** Delays the reply to the first `end` command until the test ends. Unless `isSent` is true, the command does not arrive at Redis. */
function delayEndReply (t: Test, client: Redis, isSent: boolean): void {
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const { promise, resolve } = deferred()
  t.teardown(resolve)
  let isDelayed = false
  const callAndDelayReply = async (...args: string[]): Promise<unknown> => {
    if (isDelayed || !parseStoreCommands(args).some(({ operation }) => operation === 'end')) return await call(...args)
    isDelayed = true
    if (isSent) await call(...args)
    await promise
    throw new Error('lost')
  }
  Object.assign(client, { call: callAndDelayReply })
}

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
async function openWithDelayedReply (t: Test, isSent: boolean) {
  const [, nodeA, nodeB] = await openTwoNodes(t)
  const session = await openSession(nodeA.sessions)
  await session.join('room')
  // The first node is not told of this, because it has no stream of the session.
  await (await findSession(nodeB.sessions, session)).join('hall')
  delayEndReply(t, nodeA.client, isSent)
  return { nodeA, session, calls: recordHooks(nodeA.sessions), callsOnNodeB: recordHooks(nodeB.sessions) }
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
  await waitForHooks(session, calls, 2)
  await nodeA.sessions.close()
  t.strictSame(calls, ['room', 'refused'])
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
