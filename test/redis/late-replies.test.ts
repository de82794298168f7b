import type { Redis } from 'ioredis'
import { setTimeout } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { findSession, openSession } from '../support/memory-stream.js'
import { delayFirstReply, interceptStoreCommands, parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { nextEventLoopTick, waitUntil } from '../support/wait.js'
import { openTwoNodes } from './support/two-nodes.js'

// If the reply to a command is late, the call rejects, but Redis may have executed the command.

const UNAVAILABLE = { code: 'FST_SSE_STORE_UNAVAILABLE' }

t.test('a session that was created although the call has rejected is removed without hooks', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openTwoNodes(t, { maxSessions: 1, resumeTimeout: 60_000 })
  const closes: string[] = []
  for (const { sessions } of [nodeA, nodeB]) sessions.addHook('onClose', (_session, reason) => { closes.push(reason) })
  delayFirstReply(t, nodeA.client, 'create', true)
  await t.rejects(nodeA.sessions.open(undefined), UNAVAILABLE)
  await waitUntil(async () => await redis.sendCommand('ZCARD', '{sse}:deadlines') === 0, 'the session to be removed')
  t.ok(await openSession(nodeA.sessions), 'there is room for another session')
  t.strictSame(closes, [])
})

t.test('the hooks of a join or a leave run once although the call has rejected', needsRedis, async t => {
  for (const [operation, hook] of [['join', 'onJoin'], ['leave', 'onLeave']] as const) {
    const [redis, { sessions, client }] = await openTwoNodes(t)
    const session = await openSession(sessions)
    if (operation === 'leave') await session.join('room')
    const calls: string[] = []
    sessions.addHook(hook, (_session, { name }) => { calls.push(`${hook} ${name}`) })
    delayFirstReply(t, client, operation, true)
    await t.rejects(session[operation]('room'), UNAVAILABLE)
    await waitUntil(() => calls.length > 0, 'the hook')
    await session[operation]('room')
    t.strictSame(calls, [`${hook} room`])
    t.strictSame(session.channels, operation === 'join' ? ['room'] : [])
    t.equal(await redis.sendCommand('ZCARD', '{sse}:c:room::members'), operation === 'join' ? 1 : 0)
  }
})

t.test('the hook of a join does not run after a late reply if the session is in too many channels', needsRedis, async t => {
  const [, { sessions, client }] = await openTwoNodes(t, { maxChannelsPerSession: 1 })
  const session = await openSession(sessions)
  await session.join('first')
  const calls: string[] = []
  sessions.addHook('onJoin', (_session, { name }) => { calls.push(name) })
  delayFirstReply(t, client, 'join', true)
  await t.rejects(session.join('second'), UNAVAILABLE)
  await sessions.close()
  t.strictSame(calls, [])
})

t.test('hooks run in the order of the calls if the first call rejects', needsRedis, async t => {
  for (const [first, second] of [['join', 'leave'], ['leave', 'join'], ['join', 'close']] as const) {
    const [, { sessions, client }] = await openTwoNodes(t)
    const session = await openSession(sessions)
    if (first === 'leave') await session.join('room')
    const calls: string[] = []
    for (const hook of ['onJoin', 'onLeave'] as const) sessions.addHook(hook, (_session, { name }) => { calls.push(`${hook} ${name}`) })
    sessions.addHook('onClose', () => { calls.push('onClose') })
    const outage = startOutage(client, first)
    const rejected = t.rejects(session[first]('room'), UNAVAILABLE)
    // The second call is a second later, so that it has not rejected yet when the outage ends. Its command is sent in an earlier batch than `find_call` for the first call.
    await setTimeout(1000)
    const settled = Promise.allSettled([session[second]('room'), ...Array.from({ length: 70 }, () => session.send('text'))])
    await rejected
    outage.end()
    await settled
    await sessions.close()
    t.strictSame(calls, first === 'leave' ? ['onLeave room', 'onJoin room'] : ['onJoin room', 'onLeave room', ...second === 'close' ? ['onClose'] : []])
  }
})

/** Opens a session on node A that node B has in memory, and changes it on node A. Node B is not notified, so it reads the session again with its own next change. */
async function openStaleSession (t: Test) {
  const [, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t)
  const local = await openSession(nodeA)
  const session = await findSession(nodeB, local)
  await local.update({ name: 'new' })
  const calls: string[] = []
  for (const hook of ['onJoin', 'onLeave'] as const) nodeB.addHook(hook, (_session, { name }) => { calls.push(`${hook} ${name}`) })
  nodeB.addHook('onClose', () => { calls.push('onClose') })
  return { session, client, calls }
}

t.test('a join does not fail if the session, which others have changed, cannot be read', needsRedis, async t => {
  const { session, client, calls } = await openStaleSession(t)
  delayFirstReply(t, client, 'get', false)
  await session.join('room')
  t.strictSame([calls, session.channels, session.data], [['onJoin room'], ['room'], {}])
  await waitUntil(() => session.data.name === 'new', 'the session to be read later')
  t.strictSame(session.channels, ['room'])
})

t.test('the hooks of a join run although its history cannot be read in time', needsRedis, async t => {
  const [, { sessions, client }] = await openTwoNodes(t)
  const [session, other] = [await openSession(sessions), await openSession(sessions)]
  await other.join('room')
  // Too large for one command.
  for (let n = 0; n < 16; n++) await sessions.channel('room').send('x'.repeat(60_000))
  const calls: string[] = []
  sessions.addHook('onJoin', ({ id }, { name }) => { calls.push(`${id === session.id ? 'session' : 'other'} ${name}`) })
  delayFirstReply(t, client, 'history', false)
  await t.rejects(session.join('room', { history: 16 }), UNAVAILABLE)
  await waitUntil(() => calls.length > 0, 'the hook')
  t.strictSame(calls, ['session room'])
  delayFirstReply(t, client, 'history', false)
  await t.rejects(session.join('room', { history: 16 }), UNAVAILABLE)
  await sessions.close()
  t.strictSame(calls, ['session room'], 'no hook runs for a session that was a member')
})

t.test('hooks of a session that others have changed run in the order of the calls', needsRedis, async t => {
  const { session, calls } = await openStaleSession(t)
  await Promise.all([session.join('room'), session.close()])
  t.strictSame(calls, ['onJoin room', 'onLeave room', 'onClose'])
})

t.test('the hooks of a join run although its command has failed after the session had joined', needsRedis, async t => {
  const [redis, { sessions }] = await openTwoNodes(t)
  const [session, other] = [await openSession(sessions), await openSession(sessions)]
  await other.join('room')
  await sessions.broadcast('message', 1)
  // The history cannot be read.
  await redis.sendCommand('SET', '{sse}:c:room::log', 'text')
  const calls: string[] = []
  sessions.addHook('onJoin', (_session, { name }) => { calls.push(name) })
  await t.rejects(session.join('room', { history: 1 }), UNAVAILABLE)
  await waitUntil(() => calls.length > 0, 'the hook')
  t.strictSame([calls, session.channels], [['room'], ['room']])
})

t.test('the results of calls that Redis has refused are not read', needsRedis, async t => {
  const [redis, { sessions, client }] = await openTwoNodes(t)
  const session = await openSession(sessions)
  const operations: string[] = []
  interceptStoreCommands(client, commands => { operations.push(...commands.map(({ operation }) => operation)) })
  for (const nodeId of await redis.sendCommand('ZRANGE', '{sse}:nodes', '0', '-1') as string[]) {
    await redis.sendCommand('HDEL', '{sse}', `applied:${nodeId}`)
    await redis.sendCommand('ZREM', '{sse}:nodes', nodeId)
  }
  for (const result of await Promise.allSettled(['a', 'b', 'c'].map(name => session.join(name)))) t.match(result, { reason: UNAVAILABLE })
  await waitUntil(async () => await session.join('d').then(() => true, () => false), 'the node to be registered again')
  t.notOk(operations.includes('find_call'))
})

/**
 * Redis executes the next store command with this name. Its reply is lost, and later commands do not arrive until the end of the
 * outage. The results of calls that have rejected then arrive some time after the replies to other commands.
 */
function startOutage (client: Redis, name: string): { end: () => void } {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  let isExecuted = false
  const callInOutage = async (...command: string[]): Promise<unknown> => {
    if (!isExecuted && parseStoreCommands(command).some(({ operation }) => operation === name)) {
      isExecuted = true
      await call(...command)
    }
    throw new Error('lost')
  }
  Object.assign(client, { call: callInOutage })
  const callAfterOutage = async (...command: string[]): Promise<unknown> => {
    const reply = await call(...command)
    if (parseStoreCommands(command).some(({ operation }) => operation === 'find_call')) {
      for (let tick = 0; tick < 20; tick++) await nextEventLoopTick()
    }
    return reply
  }
  return { end: () => { Object.assign(client, { call: callAfterOutage }) } }
}
