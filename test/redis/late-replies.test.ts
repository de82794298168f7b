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
