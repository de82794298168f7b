import type { Redis } from 'ioredis'
import { setTimeout } from 'node:timers/promises'
import t from 'tap'
import { openSession } from '../support/memory-stream.js'
import { delayFirstReply, parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { nextEventLoopTurn, waitUntil } from '../support/wait.js'
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

t.test('hooks run in the order of the calls although the first call has rejected', needsRedis, async t => {
  for (const [first, second] of [['join', 'leave'], ['leave', 'join'], ['join', 'close']] as const) {
    const [, { sessions, client }] = await openTwoNodes(t)
    const session = await openSession(sessions)
    if (first === 'leave') await session.join('room')
    const calls: string[] = []
    for (const hook of ['onJoin', 'onLeave'] as const) sessions.addHook(hook, (_session, { name }) => { calls.push(`${hook} ${name}`) })
    sessions.addHook('onClose', () => { calls.push('onClose') })
    const outage = startOutage(client, first)
    const rejected = t.rejects(session[first]('room'), UNAVAILABLE)
    // Later, so that this call has not rejected yet when the outage ends. The search for the result of the first is then in a later batch.
    await setTimeout(1000)
    const settled = Promise.allSettled([session[second]('room'), ...Array.from({ length: 70 }, () => session.send('text'))])
    await rejected
    outage.end()
    await settled
    await sessions.close()
    t.strictSame(calls, first === 'leave' ? ['onLeave room', 'onJoin room'] : ['onJoin room', 'onLeave room', ...second === 'close' ? ['onClose'] : []])
  }
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
      for (let turn = 0; turn < 20; turn++) await nextEventLoopTurn()
    }
    return reply
  }
  return { end: () => { Object.assign(client, { call: callAfterOutage }) } }
}
