import t from 'tap'
import { openSession } from '../support/memory-stream.js'
import { delayFirstReply } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { waitUntil } from '../support/wait.js'
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
