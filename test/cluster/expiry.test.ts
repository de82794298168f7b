import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis.js'
import { openStream } from '../support/stream.js'
import { until } from '../support/wait.js'

t.test('a session without a stream expires once, even if its node was killed; one with a stream does not expire', needsRedis, async t => {
  const { nodes: [first, second, third], hookCalls } = await startCluster(t, { lease: 1000, plugin: { resumeTimeout: 2000 } })
  const closeReasonsOf = (id: string): unknown[] => hookCalls.filter(({ session, hook }) => session === id && hook === 'onClose').map(({ detail }) => detail)
  const connected = await openStream(t, third.url)
  const disconnected = await openStream(t, second.url)
  const orphan = await openStream(t, first.url)
  disconnected.destroy()
  await first.kill()
  for (const { sessionId } of [disconnected, orphan]) await until(() => closeReasonsOf(sessionId).length > 0, 'the onClose hook')
  t.equal(await second.call('hasSession', orphan.sessionId), false)
  const since = Date.now()
  await until(() => Date.now() - since > 4000, 'twice the resume timeout')
  t.strictSame([disconnected, orphan, connected].map(({ sessionId }) => closeReasonsOf(sessionId)), [['expired'], ['expired'], []])
  t.equal(await second.call('hasSession', connected.sessionId), true)
})
