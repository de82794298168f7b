import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from './support/redis.js'
import { openStream, post } from './support/stream.js'
import { startTraffic } from './support/traffic.js'
import { until } from './support/within.js'

t.test('when the node that holds its stream is killed, a client goes on at another: nothing is lost, comes twice or out of order', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  for (let round = 0; round < 4; round++) {
    const victim = await cluster.holder(traffic.parties[round]?.ids[0] ?? '')
    await victim.kill()
    await traffic.proceeds()
    await victim.start()
  }
  await traffic.stop()
  traffic.check(t)
  for (const { events } of traffic.parties) t.ok(events.some(([name]) => name === 'resume'), 'it was hit')
})

t.test('a message that is being handled on a node that is killed is handled again when it is repeated, and what waits goes on', needsRedis, async t => {
  const { nodes: [victim, other, third], runs } = await startCluster(t)
  const { sessionId } = await openStream(t, third.url)
  const lost = t.rejects(post(victim.url, sessionId, 1, { event: 'gate', key: 'a' }))
  await until(() => runs.length === 1, 'the handler')
  await other.ask('openGate')
  const repeat = post(other.url, sessionId, 1, { event: 'gate', key: 'a' })
  const behind = post(third.url, sessionId, 2, { event: 'up', key: 'b' })
  await victim.kill()
  await lost
  t.match(await repeat, { status: 200, body: 1, headers: { 'idempotent-replayed': undefined } })
  t.match(await behind, { status: 200, body: 2 })
  t.match(await post(third.url, sessionId, 1, { event: 'gate', key: 'a' }), { status: 200, body: 1, headers: { 'idempotent-replayed': 'true' } })
  t.strictSame(runs.map(({ data, pid, ended }) => [data, pid, ended !== undefined]).sort(), [
    [1, runs[0]?.pid, false], [1, other.pid, true], [2, third.pid, true]
  ].sort())
})
