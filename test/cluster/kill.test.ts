import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis.js'
import { openStream, post } from '../support/stream.js'
import { startTraffic } from './support/traffic.js'
import { until } from '../support/wait.js'

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
  const lines = [{ event: 'gate', data: 1, id: 'a' }, { event: 'up', data: 2, id: 'b' }, { event: 'up', data: 3, id: 'c' }].map(line => JSON.stringify(line))
  const repeat = post(other.url, sessionId, lines.join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
  const behind = post(third.url, sessionId, 4, { event: 'up', key: 'd' })
  await victim.kill()
  await lost
  t.strictSame((await repeat).body, [1, 2, 3].map(body => ({ status: 200, body })))
  t.match(await behind, { status: 200, body: 4 })
  t.match(await post(third.url, sessionId, 1, { event: 'gate', key: 'a' }), { status: 200, body: 1, headers: { 'idempotent-replayed': 'true' } })
  const [first, ...others] = runs.sort((a, b) => a.begun - b.begun)
  t.match(first, { data: 1, ended: undefined })
  t.strictSame(others.flatMap(({ data, pid }) => pid === other.pid ? data : []), [1, 2, 3], 'before what came with the repeat')
  t.strictSame(others.flatMap(({ data, pid }) => pid === third.pid ? data : []), [4])
})
