import t from 'tap'
import { startCluster } from './support/cluster.js'
import { startTcpProxy } from './support/tcp-proxy.js'
import { startTraffic } from './support/traffic.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { needsRedis, startRedis } from '../support/redis-server.js'

t.test('over a slow connection to Redis, no event or message is lost, repeated or reordered', needsRedis, async t => {
  const next = createRandom(chooseSeed(t))
  const redis = await startRedis(t)
  const proxy = await startTcpProxy(t, redis.port)
  proxy.delay = () => next() * 80
  const traffic = await startTraffic(t, await startCluster(t, { redis, redisPort: proxy.port }))
  await traffic.waitForProgress()
  await traffic.stop()
  traffic.assertDelivery(t)
  t.equal(traffic.rejected.size, 0)
})
