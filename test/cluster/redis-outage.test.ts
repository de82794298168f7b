import t from 'tap'
import { LONG_LEASE, startCluster } from './support/cluster.js'
import { startLink } from './support/link.js'
import { random, seedOf } from '../support/random.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { refused } from '../support/error-response.js'
import { openStream, post } from '../support/stream.js'
import { startTraffic } from './support/traffic.js'
import { until, within } from '../support/wait.js'

const UNAVAILABLE = 'FST_SSE_STORE_UNAVAILABLE'

t.test('while Redis is away for ten seconds a POST is refused, safe to be repeated, and streams stay open; then all goes on by itself', needsRedis, async t => {
  const cluster = await startCluster(t, { redis: await startRedis(t, { durable: true }), lease: LONG_LEASE, plugin: { heartbeatInterval: 2000 } })
  const { redis, nodes, runs } = cluster
  const streams = await Promise.all(nodes.map(({ url }) => openStream(t, url)))
  const traffic = await startTraffic(t, cluster)
  await traffic.proceeds()
  const before = streams.map(({ events }) => events.length)

  const lostAt = Date.now()
  await redis.kill()
  for (const [index, { sessionId }] of streams.entries()) {
    const answer = await within(post(nodes[index]?.url ?? '', sessionId, 1, { event: 'up', key: 'k' }), 'an answer')
    refused(t, answer, 503, UNAVAILABLE)
    t.ok(Number(answer.headers['retry-after']) > 0)
  }
  const newcomer = await openStream(t, cluster.url, { raw: true })
  await within(newcomer.ended, 'the end of a stream')
  t.match(newcomer.raw(), /^retry: \d+\n\n$/, 'a new client is told to come later, without an error that would end an EventSource')
  await until(() => Date.now() - lostAt > 10_000, 'ten seconds', 20_000)
  t.notOk(runs.some(({ session }) => streams.some(({ sessionId }) => sessionId === session)))
  await redis.start()

  await traffic.proceeds()
  for (const [index, { sessionId }] of streams.entries()) {
    t.match(await post(nodes[index]?.url ?? '', sessionId, 1, { event: 'up', key: 'k' }), { status: 200, headers: { 'idempotent-replayed': undefined } })
    t.equal(runs.filter(({ session }) => session === sessionId).length, 1)
  }
  await traffic.stop()
  traffic.check(t)
  t.strictSame(traffic.parties.flatMap(({ events }) => events.map(([name]) => name)), traffic.parties.map(() => 'open'), 'their streams stayed')
  for (const [index, { events }] of streams.entries()) t.strictSame(events.slice(before[index]).filter(({ event }) => event !== 'down'), [], 'nothing false was told')
})

t.test('while Redis does not answer, with its connections open, messages wait or are refused; then all goes on by itself', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  for (let round = 0; round < 2; round++) {
    await traffic.proceeds()
    cluster.redis.pause()
    const refusals = traffic.refused.size
    await until(() => traffic.refused.size > refusals, 'a refusal')
    cluster.redis.resume()
  }
  await traffic.proceeds()
  await traffic.stop()
  traffic.check(t)
  t.strictSame([...new Set(traffic.refused.values())], [UNAVAILABLE])
})

t.test('over a slow way to Redis, nothing is lost, comes twice or out of order', needsRedis, async t => {
  const next = random(seedOf(t))
  const redis = await startRedis(t)
  const link = await startLink(t, redis.port)
  link.delay = () => next() * 80
  const traffic = await startTraffic(t, await startCluster(t, { redis, redisPort: link.port }))
  await traffic.proceeds()
  await traffic.stop()
  traffic.check(t)
  t.equal(traffic.refused.size, 0)
})
