import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis.js'
import { startTraffic } from './support/traffic.js'

t.test('while three nodes are restarted, one after the other, nothing is lost, comes twice or out of order, and nothing is handled twice', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  for (const node of cluster.nodes) {
    t.equal(await node.close(), 0, 'it exits by itself when it has closed')
    await traffic.proceeds()
    await node.start()
  }
  await traffic.proceeds()
  await traffic.stop()
  traffic.check(t)
  t.equal(cluster.runs.length, traffic.parties.reduce((sum, { asked }) => sum + asked, 0))
  for (const { events } of traffic.parties) t.ok(events.some(([name]) => name === 'resume'), 'it was hit')
})
