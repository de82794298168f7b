import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis-server.js'
import { startTraffic } from './support/traffic.js'

t.test('during a rolling restart, no event or message is lost, repeated or reordered', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  for (const node of cluster.nodes) {
    t.equal(await node.close(), 0, 'the process exits after close() without process.exit()')
    await traffic.waitForProgress()
    await node.start()
  }
  await traffic.waitForProgress()
  await traffic.stop()
  traffic.assertDelivery(t)
  t.equal(cluster.handlerRuns.length, traffic.clients.reduce((sum, { requested }) => sum + requested, 0))
  for (const { events } of traffic.clients) t.ok(events.some(([name]) => name === 'resume'), 'its stream was interrupted')
})
