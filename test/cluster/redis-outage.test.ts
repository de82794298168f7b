import t from 'tap'
import { LONG_LEASE, startCluster } from './support/cluster.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { assertErrorResponse } from '../support/error-response.js'
import { openStream, postMessage } from '../support/http-client.js'
import { startTraffic } from './support/traffic.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const UNAVAILABLE = 'FST_SSE_STORE_UNAVAILABLE'

t.test('while Redis is down for ten seconds, POSTs get 503 and streams stay open; then everything continues', needsRedis, async t => {
  const cluster = await startCluster(t, { redis: await startRedis(t, { durable: true }), lease: LONG_LEASE, plugin: { heartbeatInterval: 2000 } })
  const { redis, nodes, handlerRuns } = cluster
  const streams = await Promise.all(nodes.map(({ url }) => openStream(t, url)))
  const traffic = await startTraffic(t, cluster)
  await traffic.waitForProgress()
  const before = streams.map(({ events }) => events.length)

  const stoppedAt = Date.now()
  await redis.kill()
  for (const [index, { sessionId }] of streams.entries()) {
    const response = await withTimeout(postMessage(nodes[index]?.url ?? '', sessionId, 1, { event: 'up', key: 'k' }), 'a response')
    assertErrorResponse(t, response, 503, UNAVAILABLE)
    t.ok(Number(response.headers['retry-after']) > 0)
  }
  const newClient = await openStream(t, cluster.url, { skipWelcome: true })
  await withTimeout(newClient.ended, 'the end of the stream')
  t.match(newClient.text(), /^retry: \d+\n\n$/, 'a new client gets a retry field instead of an error status, which would stop an EventSource')
  await waitUntil(() => Date.now() - stoppedAt > 10_000, 'ten seconds', 20_000)
  t.notOk(handlerRuns.some(({ session }) => streams.some(({ sessionId }) => sessionId === session)))
  await redis.start()

  await traffic.waitForProgress()
  for (const [index, { sessionId }] of streams.entries()) {
    t.match(await postMessage(nodes[index]?.url ?? '', sessionId, 1, { event: 'up', key: 'k' }), { status: 200, headers: { 'idempotent-replayed': undefined } })
    await cluster.waitForReports()
    t.equal(handlerRuns.filter(({ session }) => session === sessionId).length, 1)
  }
  await traffic.stop()
  traffic.assertDelivery(t)
  t.strictSame(traffic.clients.flatMap(({ events }) => events.map(([name]) => name)), traffic.clients.map(() => 'open'), 'the streams stayed open')
  for (const [index, { events }] of streams.entries()) t.strictSame(events.slice(before[index]).filter(({ event }) => event !== 'down'), [], 'the streams got no gap or close event')
})

t.test('while Redis does not respond on open connections, messages wait or are rejected; then everything continues', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  for (let round = 0; round < 2; round++) {
    await traffic.waitForProgress()
    cluster.redis.pause()
    const before = traffic.rejected.size
    await waitUntil(() => traffic.rejected.size > before, 'a rejected message')
    cluster.redis.resume()
  }
  await traffic.waitForProgress()
  await traffic.stop()
  traffic.assertDelivery(t)
  t.strictSame([...new Set(traffic.rejected.values())], [UNAVAILABLE])
})
