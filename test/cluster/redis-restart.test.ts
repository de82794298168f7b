import t from 'tap'
import { LONG_LEASE, startCluster } from './support/cluster.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { startTraffic } from './support/traffic.js'
import { waitUntil } from '../support/wait.js'

t.test('a restart of Redis with its data loses, repeats or reorders no event or message, and causes no gap', needsRedis, async t => {
  const cluster = await startCluster(t, { redis: await startRedis(t, { durable: true }), lease: LONG_LEASE })
  const traffic = await startTraffic(t, cluster)
  for (let round = 0; round < 3; round++) {
    await traffic.waitForProgress()
    await cluster.redis.kill()
    await cluster.redis.start()
  }
  await traffic.waitForProgress()
  await traffic.stop()
  traffic.assertDelivery(t)
  t.strictSame(traffic.clients.flatMap(({ events }) => events.map(([name]) => name)), traffic.clients.map(() => 'open'), 'the streams stayed open')
  t.strictSame([...traffic.rejected.values()].filter(code => code !== 'FST_SSE_STORE_UNAVAILABLE'), [])
})

t.test('after Redis restarts empty, clients get a reset event and continue in new sessions', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  await traffic.waitForProgress()
  await traffic.stop()

  const [{ session, sessionIds }] = traffic.clients as [typeof traffic.clients[0]]
  const disconnected = await openStream(t, cluster.url)
  disconnected.destroy()
  const request = session.request('gate', 'uncertain').then(() => 'handled', (error: { code: string }) => error.code)
  await waitUntil(() => cluster.handlerRuns.some(({ data }) => data === 'uncertain'), 'the handler')
  await cluster.redis.kill()
  await cluster.redis.start({ empty: true })
  await waitUntil(() => traffic.clients.every(({ sessionIds }) => sessionIds.length === 2), 'the new sessions')
  for (const { events } of traffic.clients) t.match(events.at(-1), ['reset', { previous: 'unknown', resumed: false }])
  t.equal(await request, 'RESET', 'it is uncertain whether the message was handled')
  for (const node of cluster.nodes) await node.call('openGate')
  const reconnected = await openStream(t, cluster.url, { headers: { 'x-session-id': disconnected.sessionId } })
  t.match(reconnected.events[0]?.data, { resumed: false, previous: 'unknown' }, 'a disconnected client gets a new session, too')
  t.not(reconnected.sessionId, disconnected.sessionId)
  for (const { url } of cluster.nodes) t.equal((await postMessage(url, sessionIds[0] ?? '', 1, { event: 'up' })).status, 404)

  await traffic.run()
  await traffic.waitForProgress()
  await traffic.stop()
  // A stream may get a gap event before the loss of the whole session is detected.
  traffic.assertDelivery(t, /^(gap )*reset$/)
})
