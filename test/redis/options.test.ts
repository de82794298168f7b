import { Redis } from 'ioredis'
import t from 'tap'
import { redisStore } from '../../lib/redis.js'

t.test('rejects invalid options', async t => {
  const client = new Redis({ lazyConnect: true })
  t.throws(() => redisStore({ client: {} as Redis }), { code: 'FST_SSE_OPTION_INVALID', message: /client/ })
  t.throws(() => redisStore({ client, partitions: 2 }), { code: 'FST_SSE_OPTION_INVALID', message: /"partitions".*cluster/ })
  t.throws(() => redisStore({ client, namespace: 'a{b}' }), { code: 'FST_SSE_OPTION_INVALID', message: /namespace/ })
  t.throws(() => redisStore({ client, lease: 99 }), { code: 'FST_SSE_OPTION_INVALID', message: /lease/ })
})
