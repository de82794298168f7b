import { Cluster, Redis } from 'ioredis'
import { createCluster } from 'redis'
import t from 'tap'
import { redisStore } from '../../lib/redis.js'

t.test('rejects invalid options and cluster clients', async t => {
  const client = new Redis({ lazyConnect: true })
  t.throws(() => redisStore({ client: {} as Redis }), { code: 'FST_SSE_OPTION_INVALID', message: /client/ })
  const clusters = [new Cluster([{ port: 1 }], { lazyConnect: true }), createCluster({ rootNodes: [{ url: 'redis://127.0.0.1:1' }] })]
  for (const cluster of clusters) t.throws(() => redisStore({ client: cluster as unknown as Redis }), { code: 'FST_SSE_OPTION_INVALID', message: /cluster/ })
  t.throws(() => redisStore({ client, namespace: 'a{b}' }), { code: 'FST_SSE_OPTION_INVALID', message: /namespace/ })
  t.throws(() => redisStore({ client, lease: 99 }), { code: 'FST_SSE_OPTION_INVALID', message: /lease/ })
})
